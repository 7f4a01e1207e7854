"""Progress bars that follow `workbench.core.progress`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench.core.progress import progress_listener

if TYPE_CHECKING:
    from tqdm.auto import tqdm as ProgressBar


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
        Whether to show a bar at all; it is never shown in a file. Without a bar, a listener
        outside of the block stays.
    """
    from tqdm.auto import tqdm

    if not is_shown:
        yield
        return
    bar = tqdm(desc=f"{name}: evidence", unit="image", disable=None, dynamic_ncols=True)
    with bar, progress_listener(count_on(bar)):
        yield


def percentage_on(bar: "ProgressBar", activity: str) -> Callable[[int, int], None]:
    """Return a listener that shows progress behind a bar of steps, which stands still meanwhile."""

    def show(done: int, total: int) -> None:
        is_done = done >= total
        bar.set_postfix_str("" if is_done else f"{activity}, {done / total:.0%}")

    return show
