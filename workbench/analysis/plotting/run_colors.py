"""The color of each run: the same in the list of runs, in every figure and in the lens."""

from collections.abc import Iterable, Mapping

# Okabe and Ito without yellow, gray and black, and two colors of Tol's muted scheme. All can be
# read on white and on black.
RUN_COLORS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#AA4499",
    "#999933",
)
# Separators in front of the step that distinguishes two results of one run.
STEP_SEPARATORS = (" @ ", ", step ", " #")


def assign_colors(names: Iterable[str]) -> dict[str, str]:
    """Assign a color to each run, in the order of the names. After eight runs, colors repeat.

    Parameters
    ----------
    names : iterable of str
        Names of the runs, in order.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> assign_colors(["a", "b"])
    {'a': '#0072B2', 'b': '#E69F00'}
    """
    return {name: RUN_COLORS[i % len(RUN_COLORS)] for i, name in enumerate(dict.fromkeys(names))}


def colors_of_runs(names: Iterable[str], assigned: Mapping[str, str]) -> dict[str, str]:
    """Return the color of each run of a figure.

    Parameters
    ----------
    names : iterable of str
        The runs as the figure names them: a run, or a run with a step, as in `a @ 500`.
    assigned : mapping of str to str
        Colors by run, from the folder of runs. A run that is not among them gets a free color.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> colors_of_runs(["b @ 500", "c"], {"b": "#0072B2"})
    {'b @ 500': '#0072B2', 'c': '#E69F00'}
    """
    names = list(dict.fromkeys(names))
    colors = {name: assigned.get(name) or assigned.get(_run_of(name), "") for name in names}
    free = [color for color in RUN_COLORS if color not in colors.values()] or list(RUN_COLORS)
    missing = [name for name in names if not colors[name]]
    for i, name in enumerate(missing):
        colors[name] = free[i % len(free)]
    return colors


def dot(color: str) -> str:
    """Return a colored dot, for a label of a Plotly figure."""
    return f"<span style='color:{color}'>●</span>"


def _run_of(name: str) -> str:
    for separator in STEP_SEPARATORS:
        name = name.partition(separator)[0]
    return name
