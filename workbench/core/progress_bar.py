"""Progress bars that follow `workbench.core.progress`, and lines of a log in place of bars."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workbench.core.progress import progress_listener

if TYPE_CHECKING:
    from tqdm.auto import tqdm as ProgressBar


LOG_INTERVAL_S = 30.0  # seconds between two lines of progress in a file


def progress_bar(**options: Any) -> "ProgressBar":
    """Return a progress bar; in a file, as a log of nohup or Slurm, a line every 30 seconds.

    Parameters
    ----------
    **options
        Options of tqdm.
    """
    from tqdm.auto import tqdm

    if _is_interactive():
        return tqdm(dynamic_ncols=True, **options)
    return _log_lines()(**options)


def _is_interactive() -> bool:
    """Return True in a terminal and in a Jupyter kernel, where lines can be overwritten."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    is_in_kernel = kernel is not None and kernel.IPKernelApp.initialized()
    return sys.stderr.isatty() or is_in_kernel


def _log_lines() -> Any:
    """Return the class of a bar that prints lines; tqdm is imported only where it is used."""
    from tqdm import tqdm

    class LogLines(tqdm):  # type: ignore[type-arg]
        def __init__(self, **options: Any) -> None:
            self._last_line = ""
            super().__init__(mininterval=LOG_INTERVAL_S, maxinterval=LOG_INTERVAL_S, **options)

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Write a line of its own once the total is known, and only if it is a new one."""
            line = "" if self.total is None else msg or self._line()
            if line != self._last_line:
                self._last_line = line
                self.fp.write(f"{line}\n")
                self.fp.flush()

        def _line(self) -> str:
            """Return the count, and the speed and the time left once they are known."""
            total = self.total or 0
            counts = f"{self.n} of {total} {self.unit}s, {self.n / max(total, 1):.0%}"
            parts = [counts.replace("%", " %")]
            finished = self.n - self.initial
            if finished > 0:
                state = self.format_dict
                rate = state["rate"] or finished / max(state["elapsed"], 1e-9)
                left = self.format_interval(max(0, total - self.n) / rate)
                speed = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
                parts += [f"{speed} {self.unit}s/s", f"{left} left"]
            if self.postfix:
                parts.append(str(self.postfix))
            return f"{self.desc.removesuffix(': ')}: {', '.join(parts)}"

        def close(self) -> None:
            """Write the last line, without the empty one that ends a bar."""
            if not self.disable:
                self.display()
                self.disable = True
                self._decr_instances(self)  # type: ignore[attr-defined]

        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            """Leave the text to the next line."""
            super().set_postfix_str(s, refresh=False)

        def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
            """Leave the text to the next line."""
            super().set_description(desc, refresh=False)

    return LogLines


def count_on(bar: "ProgressBar") -> Callable[[int, int], None]:
    """Return a listener that shows progress as the count of a bar.

    What was done before the first report does not count for the speed.
    """

    def show(done: int, total: int) -> None:
        if bar.total != total:
            bar.reset(total)  # sets the width of the bar in a notebook
            bar.initial = done
            bar.n = done
        bar.update(done - bar.n)

    return show


@contextmanager
def collecting_bar(name: str, *, is_shown: bool = True) -> Iterator[None]:
    """Show the images per second and the time left of a collection in the block.

    Parameters
    ----------
    name : str
        The name of the run.
    is_shown : bool
        Whether to show a bar at all. Without a bar, a listener outside of the block stays.
    """
    if not is_shown:
        yield
        return
    bar = progress_bar(desc=f"{name}: evidence", unit="image")
    with bar, progress_listener(count_on(bar)):
        yield


def percentage_on(bar: "ProgressBar", activity: str) -> Callable[[int, int], None]:
    """Return a listener that shows progress behind a bar of steps, which stays unchanged."""

    def show(done: int, total: int) -> None:
        is_done = done >= total
        bar.set_postfix_str("" if is_done else f"{activity}, {done / total:.0%}")

    return show
