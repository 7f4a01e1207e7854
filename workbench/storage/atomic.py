"""Files and folders that are complete or absent.

They are written next to their final path under a temporary name and then moved into place, so no
reader sees half of one, and a failed write leaves the previous version. A write first removes what
killed writers left in the same folder.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from workbench.core.errors import RunError
from workbench.storage.files import DamagedError, parse_json, read_bytes
from workbench.storage.leftovers import previous_path, remove_leftovers, temporary_path

Content = TypeVar("Content")
MAX_ATTEMPTS = 10  # to replace a folder that another process replaces at the same time


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and move the file written there to `path` at the end
    of the block.

    If the block raises an exception, the temporary file is deleted and `path` is left as it was.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    try:
        with replaced_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise _not_written(path, error) from None


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Do the same as `atomic_path`, and raise OSError if the file cannot be written."""
    remove_leftovers(path.parent)
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, same_name: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder next to `folder`, and move it to `folder` at the end of the
    block.

    A folder that exists is replaced as a whole: it is moved aside, not emptied, as a reader may
    have it open. If the block raises an exception, `folder` is left as it was.

    Parameters
    ----------
    folder : Path
        The final folder.
    same_name : bool
        Whether the temporary folder has the final name, and is inside of another temporary one.

    Raises
    ------
    RunError
        If the folder cannot be written.
    """
    remove_leftovers(folder.parent)
    temporary = temporary_path(folder)
    content = temporary / folder.name if same_name else temporary
    try:
        content.mkdir(parents=True)
        yield content
        replace_folder(content, folder)
    except OSError as error:
        raise _not_written(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new_folder(folder: Path) -> None:
    """Raise RunError if a path is a file, or a folder that contains anything."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file where a folder is needed. Choose another path.")
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} holds other files. Choose a new folder.")


def replace_folder(source: Path, target: Path) -> None:
    """Move a folder to a path where another may be, which another process may replace as well.

    Parameters
    ----------
    source : Path
        The complete folder.
    target : Path
        Its final path, on the same file system.
    """
    for attempt in range(MAX_ATTEMPTS):
        previous = previous_path(target)
        try:
            if target.exists():
                target.replace(previous)
            source.replace(target)
            return
        except OSError as error:
            # The other process moved the target away, or put its own there.
            is_last = attempt == MAX_ATTEMPTS - 1
            if is_last or error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            if previous.exists() and not target.exists():
                with suppress(OSError):
                    previous.replace(target)
            shutil.rmtree(previous, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, default: Content) -> Content:
    """Return the content of a small JSON file.

    Parameters
    ----------
    path : Path
        The file.
    default : object
        Returned if the file is missing or damaged, or if its content is not of the type of
        `default`.

    Raises
    ------
    RunError
        If the file exists and cannot be read, or is not a regular file.
    """
    try:
        content = parse_json(read_bytes(path))
    except (FileNotFoundError, DamagedError):
        return default
    return content if isinstance(content, type(default)) else default


def _not_written(path: Path, error: OSError) -> RunError:
    reason = error.strerror or error
    return RunError(f"{path} could not be written: {reason}. The previous version was kept.")
