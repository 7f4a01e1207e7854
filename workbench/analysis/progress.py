"""How an analysis that takes long says how far it is, to a host that listens and may stop it. No control, no thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from workbench.errors import UserError

Listener = Callable[[int, int], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Cancelled(UserError):
    """What a listener raises to stop the work; it passes through the analysis, which returns nothing."""


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within: `listener(done, total)` is called after each part of the work, 0 <= done <= total, in this thread."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def progress(done: int, total: int) -> None:
    """Tell whoever listens that `done` of `total` parts are finished. Raises what the listener raises."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total)
