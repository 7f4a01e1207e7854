"""The color of each of several runs, by their age."""

from collections.abc import Iterable, Sequence

from workbench.analysis.plotting.run_colors import assign_colors
from workbench.storage.run import Run
from workbench.storage.run_search import find_runs


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


def colors_among(shown: Iterable[Run], folder_runs: Iterable[Run]) -> dict[str, str]:
    """Assign to the shown runs the colors that they have among all runs of their folder.

    If two of them share a color there, as the first and the ninth run do, the colors are assigned
    among the shown runs alone.

    Parameters
    ----------
    shown : iterable of Run
        The runs that are shown, also of other folders.
    folder_runs : iterable of Run
        All runs of the folder.

    Returns
    -------
    dict of str to str
        Color by name of the run, of the shown runs at least.
    """
    by_name = {run.name: run for run in shown}
    colors = colors_by_age({**{run.name: run for run in folder_runs}, **by_name}.values())
    if len({colors[name] for name in by_name}) < len(by_name):
        return colors_by_age(by_name.values())
    return colors


def colors_of_named(runs: Sequence[Run]) -> dict[str, str]:
    """Assign to named runs the colors that they have in the folder of the first one.

    Parameters
    ----------
    runs : sequence of Run
        The runs, at least one.

    Returns
    -------
    dict of str to str
        Color by name of the run, of the named runs at least.
    """
    return colors_among(runs, find_runs(runs[0].folder.absolute().parent)[0])
