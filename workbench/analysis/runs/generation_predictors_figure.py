"""The picture of which diagnostics go with generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.runs.diagnostics import BY_NAME

if TYPE_CHECKING:
    from workbench.analysis.runs.generation_predictors import GenerationPredictors

SHOWN = 4  # diagnostics that are drawn against gFD
PLACES = ((1, 2), (1, 3), (2, 2), (2, 3))
MOST_NAMED = 6  # tokenizers whose names fit beside their points


def draw(result: GenerationPredictors) -> go.Figure:
    """The ranking at the left, and the best four against gFD at the right, a tokenizer a point."""
    small = [{} if i < result.tried else None for i in range(SHOWN)]
    figure = make_subplots(
        2, 3, specs=[[{"rowspan": 2}, *small[:2]], [None, *small[2:]]], column_widths=[0.4, 0.3, 0.3],
        horizontal_spacing=0.08, vertical_spacing=0.24,
    )  # fmt: skip
    _ranking(figure, result)
    for place, index in zip(PLACES, range(min(SHOWN, result.tried)), strict=False):
        _against(figure, result, index, *place)
    told = len(result.sure)
    title = f"What goes with generation: {told} of {result.tried} diagnostics beyond chance"
    said = f"n = {result.n} tokenizers · {result.metric} of {result.images:,} images · bars: 95 % · seed {result.seed}"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": said}}, height=max(560, 180 + 26 * result.tried)
    )
    return apply_theme(
        figure.update_layout(
            legend={"orientation": "h", "y": -0.14, "yanchor": "top"}, showlegend=True
        )
    )


def _ranking(figure: go.Figure, result: GenerationPredictors) -> None:
    shown = result.correlations[::-1]
    names = [c.diagnostic for c in shown]
    value = np.array([c.spearman for c in shown])
    up, down = np.array([c.high for c in shown]) - value, value - np.array([c.low for c in shown])
    band = {"symbol": "square", "size": 12, "color": COLORS[6], "opacity": 0.4}
    label = f"best of {result.tried} by chance, 95 %"
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=band, name=label, row=1, col=1)
    hover = "%{x:+.2f}, Kendall %{customdata[0]:+.2f}<br>p %{customdata[1]:.3g} alone, %{customdata[2]:.3g} of all"
    for sure, symbol, colour in ((True, "circle", COLORS[0]), (False, "circle-open", COLORS[6])):
        kept = [i for i, c in enumerate(shown) if c.sure is sure]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": up[kept],
            "arrayminus": down[kept],
            "thickness": 1.4,
        }
        figure.add_scatter(
            x=value[kept], y=[names[i] for i in kept], mode="markers", error_x=bars,
            marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
            customdata=[(shown[i].kendall, shown[i].p, shown[i].adjusted) for i in kept],
            name="beyond chance" if sure else "not told from chance", hovertemplate=hover + "<extra>%{y}</extra>",
            row=1, col=1,
        )  # fmt: skip
    figure.add_vrect(
        x0=-result.chance, x1=result.chance, fillcolor=COLORS[6], opacity=0.18, line_width=0, layer="below",
        row=1, col=1,
    )  # fmt: skip
    title = f"Spearman with {result.metric}; below 0, more is better"
    figure.update_xaxes(title=title, range=[-1.06, 1.06], row=1, col=1)
    ticks = {"tickmode": "array", "tickvals": names, "ticktext": names, "automargin": True}
    order = {"type": "category", "categoryorder": "array", "categoryarray": names}
    figure.update_yaxes(title="", range=[-0.7, len(names) - 0.3], **ticks, **order, row=1, col=1)


def _against(
    figure: go.Figure, result: GenerationPredictors, index: int, row: int, column: int
) -> None:
    correlation, found = result.correlations[index], result.generations
    value = np.array([g.value for g in found])
    up, down = np.array([g.high for g in found]) - value, value - np.array([g.low for g in found])
    colour = COLORS[0] if correlation.sure else COLORS[6]
    named = result.n <= MOST_NAMED
    figure.add_scatter(
        x=result.values[:, index], y=value, mode="markers+text" if named else "markers", text=[g.run for g in found],
        textposition="top center", textfont_size=10, showlegend=False, cliponaxis=False,
        error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2},
        marker={"size": 8, "color": colour, "symbol": "circle" if correlation.sure else "circle-open"},
        hovertemplate="%{text}: %{x:.4g}, %{y:.4g}<extra></extra>", row=row, col=column,
    )  # fmt: skip
    title = f"{correlation.diagnostic} ({correlation.spearman:+.2f})"
    title += f"<br><sub>{BY_NAME[correlation.diagnostic].meaning}</sub>"
    figure.update_xaxes(title={"text": title, "font_size": 12}, nticks=4, row=row, col=column)
    figure.update_yaxes(title=result.metric, nticks=5, row=row, col=column)
