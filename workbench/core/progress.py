"""How an analysis that takes long says how far it is, to a host that listens and may stop it. No control, no thread."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from workbench.core.errors import UserError

Part = TypeVar("Part")
Listener = Callable[[int, int], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Cancelled(UserError):
    """What a listener raises to stop the work; it passes through the analysis, which returns nothing."""


@contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """Within: `listener(done, total)` is called after each part of the work, 0 <= done <= total, in this thread."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report_progress(done: int, total: int) -> None:
    """Tell whoever listens that `done` of `total` parts are finished. Raises what the listener raises."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total)


def track(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts of some work, telling before each how many are finished."""
    every = list(parts)
    for done, part in enumerate(every):
        report_progress(done, len(every))
        yield part


class _Heard:
    """A file that a library's progress bar is written to: what it says of itself is told to whoever listens."""

    def write(self, text: str) -> None:
        if found := re.search(r"(\d+)/(\d+)", text):
            report_progress(int(found[1]), int(found[2]))

    def flush(self) -> None:
        """Nothing is held back."""


def tqdm_kwargs() -> dict[str, Any]:
    """Arguments of a library's tqdm bar that let a listener follow and stop it; hidden where nobody listens."""
    return (
        {"disable": True}
        if _LISTENER.get() is None
        else {"disable": False, "file": _Heard(), "mininterval": 0.2}
    )
