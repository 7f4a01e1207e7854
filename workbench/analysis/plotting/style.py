"""The theme of every figure: colors for color-blind readers, plain axes, light and dark."""

from functools import cache
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

# The palette of Okabe and Ito without yellow, which is unreadable on white; black is last.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
DEAD_COLOR = "#D55E00"  # vermilion; always combined with a symbol or a word
MAGNITUDE_SCALE = "Cividis"
# Style of a selected point: one among hundreds must be visible.
HIGHLIGHT_COLOR: dict[str, Any] = {"marker": {"size": 7, "opacity": 1}}
# Plotly 7 adds a button that uploads the chart to its cloud. Data must not leave the machine.
TOOLBAR_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud"],
    "responsive": True,
}
MARGIN = {"l": 64, "r": 24, "t": 64, "b": 56}  # of a figure that has none of its own
TRANSPARENT = "rgba(0, 0, 0, 0)"  # shows the background of the page
# Plotly takes a transparent background for black: its own colors would be those of a dark page.
TOOLBAR_COLORS = {"bgcolor": TRANSPARENT, "color": "#888888", "activecolor": "#0072b2"}


def apply_theme(figure: go.Figure, *, dark: bool = False) -> go.Figure:
    """Apply the theme of this project to a figure, in place. Margins of its own are kept.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        Figure to change.
    dark : bool, default False
        Use the dark template.

    Returns
    -------
    plotly.graph_objects.Figure
        The same figure.
    """
    margin = figure.layout.margin
    figure.update_layout(
        template=_template(dark),
        margin={side: size for side, size in MARGIN.items() if margin[side] is None},
        font={
            "family": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
            "size": 13,
        },
        title={"x": 0, "xref": "paper", "font": {"size": 16}},
    )
    return figure


@cache  # a third of the time of a small figure
def _template(dark: bool) -> go.layout.Template:
    template = go.layout.Template(pio.templates["plotly_dark" if dark else "plotly_white"])
    if dark:
        template.layout.colorway = ["#E8E8E8" if c == "#000000" else c for c in COLORS]
        template.layout.paper_bgcolor = template.layout.plot_bgcolor = "#1e1e1e"
    else:
        template.layout.colorway = list(COLORS)
    return template
