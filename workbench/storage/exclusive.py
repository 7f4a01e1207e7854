"""Locks that one process of this machine holds at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.core.errors import RunError


@contextmanager
def exclusive(path: Path, message: Callable[[], str], *, timeout_s: float = 0) -> Iterator[None]:
    """Hold a lock file in the block, which the system releases if the process is killed.

    Parameters
    ----------
    path : Path
        The file. Its folder must exist.
    message : callable
        Returns the sentence of the error if another process holds the lock.
    timeout_s : float
        How long to wait for the lock.

    Raises
    ------
    RunError
        If another process holds the lock, with the message; or if the file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        raise RunError(message()) from None
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path.parent} cannot be written to: {reason}.") from None
    try:
        yield
    finally:
        lock.release()
