"""The color of each of several runs, by their age."""

from collections.abc import Iterable

from workbench.analysis.plotting.run_colors import assign_colors
from workbench.storage.run import Run


def colors_by_age(runs: Iterable[Run]) -> dict[str, str]:
    """Assign a color to each run, the oldest first: a new run does not change the others.

    Parameters
    ----------
    runs : iterable of Run
        The runs, in any order.

    Returns
    -------
    dict of str to str
        Color by name of the run.
    """
    by_age = sorted(runs, key=lambda run: (run.config.created or "", run.name))
    return assign_colors(run.name for run in by_age)
