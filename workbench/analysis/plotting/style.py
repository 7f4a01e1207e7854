"""One look for every figure: colour-blind-safe colours, quiet axes, light and dark."""

from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

# Okabe and Ito's palette, without its yellow (unreadable on white), black last.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#000000")
DEAD_COLOR = "#D55E00"  # vermilion: always with a symbol or a word, never by colour alone
MAGNITUDE_SCALE = "Cividis"
HIGHLIGHT_COLOR: dict[str, Any] = {
    "marker": {"size": 7, "opacity": 1}
}  # a selected point; one among hundreds must be seen
# Plotly 7 shows a button that uploads the chart to its cloud; ours never leaves the machine.
TOOLBAR_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud"],
    "responsive": True,
}


def apply_theme(figure: go.Figure, *, dark: bool = False) -> go.Figure:
    """Give a figure the house's look, in place, and return it."""
    figure.update_layout(
        template=_template(dark),
        margin={"l": 64, "r": 24, "t": 64, "b": 56},
        font={
            "family": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
            "size": 13,
        },
        title={"x": 0, "xref": "paper", "font": {"size": 16}},
    )
    return figure


def _template(dark: bool) -> go.layout.Template:
    base = pio.templates["plotly_dark" if dark else "plotly_white"]
    ours = go.layout.Template(base)
    colours = ("#E8E8E8" if c == "#000000" else c for c in COLORS) if dark else COLORS
    ours.layout.colorway = list(colours)
    if dark:
        ours.layout.paper_bgcolor = ours.layout.plot_bgcolor = "#1e1e1e"
    return ours
