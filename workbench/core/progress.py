"""Progress reporting and cancellation of long computations, through a context variable.

A computation calls `report_progress` or iterates over `track(...)`. A host that wants to follow it
sets a listener with `progress_listener`; the listener may raise `Cancelled` to stop the
computation.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, TypeVar

from workbench.core.errors import UserError

Part = TypeVar("Part")
Listener = Callable[[int, int], None]
MAX_TIMED_REPORTS = 20
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Cancelled(UserError):
    """Raised by a listener to stop a computation, which then returns nothing."""


@contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """Call a listener with the progress of every computation in the block.

    Parameters
    ----------
    listener : callable
        Called as `listener(done, total)` after each part of the work, with 0 <= done <= total, in
        the thread of the computation. It may raise `Cancelled`.

    Examples
    --------
    >>> with progress_listener(lambda done, total: print(done, "of", total)):
    ...     report_progress(1, 2)
    1 of 2
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report_progress(done: int, total: int) -> None:
    """Report that `done` of `total` parts are finished.

    Raises
    ------
    Cancelled
        If the listener stops the computation.
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total)


def track(parts: Iterable[Part]) -> Iterator[Part]:
    """Iterate over the parts of a computation and report progress before each of them."""
    every_part = list(parts)
    for done, part in enumerate(every_part):
        report_progress(done, len(every_part))
        yield part


class ProgressEstimate:
    """Progress of one computation and an estimate of the remaining time.

    The estimate is an interval: the remaining work times the 25th and the 75th percentile of the
    time per unit of work, taken over the latest reports.

    Parameters
    ----------
    total : float
        The amount of work, such as a number of steps. A report may change it.
    max_reports : int
        The number of latest intervals between reports to keep.
    min_intervals : int
        The number of intervals that an estimate needs.

    Examples
    --------
    >>> estimate = ProgressEstimate(total=10)
    >>> for done in range(4):
    ...     estimate.report(done, time_s=2.0 * done)
    >>> estimate.fraction, estimate.seconds_left()
    (0.3, (14.0, 14.0))
    """

    def __init__(
        self,
        total: float = 1.0,
        *,
        max_reports: int = MAX_TIMED_REPORTS,
        min_intervals: int = 2,
    ) -> None:
        self.total = total
        self.min_intervals = min_intervals
        self._reports: deque[tuple[float, float]] = deque(maxlen=max_reports + 1)

    def report(
        self, done: float, total: float | None = None, *, time_s: float | None = None
    ) -> None:
        """Record that `done` of `total` units are finished, by default now."""
        if total is not None and total != self.total:
            # Earlier reports count in other units: keep their fraction of the total.
            scale = total / max(self.total, 1e-12)
            self._reports = deque(
                ((at, earlier * scale) for at, earlier in self._reports),
                maxlen=self._reports.maxlen,
            )
            self.total = total
        if self._reports and done < self._reports[-1][1]:
            self._reports.clear()  # another pass over the data
        self._reports.append((time.monotonic() if time_s is None else time_s, done))

    def reset(self) -> None:
        """Forget the earlier reports, as after a pause."""
        self._reports.clear()

    @property
    def fraction(self) -> float | None:
        """The finished fraction, 0 to 1; None before the first report."""
        if not self._reports:
            return None
        return self._reports[-1][1] / max(self.total, 1e-12)

    def speeds(self) -> list[float]:
        """Return the units per second between successive reports, oldest first."""
        return [
            (done - earlier) / (at - before)
            for (before, earlier), (at, done) in pairwise(self._reports)
            if done > earlier and at > before
        ]

    def seconds_left(self, *, now_s: float | None = None) -> tuple[float, float] | None:
        """Estimate the remaining seconds.

        Parameters
        ----------
        now_s : float, optional
            The current time. The time since the latest report is subtracted from the estimate.

        Returns
        -------
        tuple of float or None
            The shorter and the longer estimate, both at least 0; None before `min_intervals`
            intervals were timed.
        """
        seconds_per_unit = sorted(1 / speed for speed in self.speeds())
        if len(seconds_per_unit) < self.min_intervals:
            return None
        at, done = self._reports[-1]
        elapsed = 0.0 if now_s is None else now_s - at
        remaining = self.total - done
        low, high = (
            max(0.0, remaining * _quantile(seconds_per_unit, share) - elapsed)
            for share in (0.25, 0.75)
        )
        return low, high


def _quantile(ordered: list[float], share: float) -> float:
    """Interpolate a quantile of sorted numbers linearly, as numpy does; importing numpy is slow."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def format_duration_range(low: float, high: float) -> str:
    """Format a range of seconds in its natural unit.

    Examples
    --------
    >>> format_duration_range(40, 50), format_duration_range(5400, 9000)
    ('40–50 s', '1.5–2.5 h')
    """
    if high < 90:
        seconds, unit, digits = 1, "s", 0
    elif high < 10 * 60:
        seconds, unit, digits = 60, "min", 1
    elif high < 90 * 60:
        seconds, unit, digits = 60, "min", 0
    else:
        seconds, unit, digits = 3600, "h", 1
    ends = [f"{value / seconds:.{digits}f}" for value in (low, high)]
    # Both ends may round to the same number.
    return f"{'–'.join(dict.fromkeys(ends))} {unit}"


class _ProgressBarFile:
    """A file for a library's progress bar: the counts that it prints are reported as progress."""

    def write(self, text: str) -> None:
        counts = re.search(r"(\d+)/(\d+)", text)
        if counts:
            report_progress(int(counts[1]), int(counts[2]))

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""


def tqdm_kwargs() -> dict[str, Any]:
    """Return arguments for a library's tqdm bar that pass its progress to the listener.

    The bar is disabled if there is no listener.
    """
    if _LISTENER.get() is None:
        return {"disable": True}
    return {"disable": False, "file": _ProgressBarFile(), "mininterval": 0.2}
