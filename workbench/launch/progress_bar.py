"""Progress bars that follow `workbench.core.progress`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm.auto import tqdm as ProgressBar


def count_on(bar: "ProgressBar") -> Callable[[int, int], None]:
    """Return a listener that shows progress as the count of a bar."""

    def show(done: int, total: int) -> None:
        if bar.total != total:
            bar.reset(total)  # sets the width of the bar in a notebook
        bar.update(done - bar.n)

    return show


def percentage_on(bar: "ProgressBar", activity: str) -> Callable[[int, int], None]:
    """Return a listener that shows progress behind a bar of steps, which stands still meanwhile."""

    def show(done: int, total: int) -> None:
        is_done = done >= total
        bar.set_postfix_str("" if is_done else f"{activity}, {done / total:.0%}")

    return show
