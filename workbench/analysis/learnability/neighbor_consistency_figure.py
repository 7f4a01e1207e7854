"""Figure of latent neighbor consistency: values next to their null, and the share by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.learnability.neighbor_consistency import describe_images
from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.learnability.neighbor_consistency import NeighborConsistency

MAX_NAMED_CLASSES = 20  # whose names fit on an axis
SCORE_COLORS = (COLORS[0], COLORS[1])
SCORE_SYMBOLS = ("circle", "square")
NULL_LINE = {"color": COLORS[6], "dash": "dash"}


def draw(result: NeighborConsistency) -> go.Figure:
    """Draw both values with intervals on the left, and the share of each class on the right.

    Parameters
    ----------
    result : NeighborConsistency
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = make_subplots(1, 2, column_widths=[0.4, 0.6], horizontal_spacing=0.12)
    _draw_scores(figure, result)
    _draw_classes(figure, result)
    subtitle = (
        f"{describe_images(result)}, scaled {result.scaling} · {result.neighbors} neighbors by"
        f" cosine · bars: 95 % over images · seed {result.seed}"
    )
    figure.update_layout(
        title={"text": "Latent neighbor consistency", "subtitle": {"text": subtitle}},
        height=440,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
    )
    return apply_theme(figure)


def _draw_scores(figure: go.Figure, result: NeighborConsistency) -> None:
    names = [score.representation.replace(" ", "<br>") for score in result.scores]
    for i, score in enumerate(result.scores):
        figure.add_scatter(
            x=[100 * score.value],
            y=[names[i]],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * (score.high - score.value)],
                "arrayminus": [100 * (score.value - score.low)],
            },
            marker={"size": 11, "color": SCORE_COLORS[i], "symbol": SCORE_SYMBOLS[i]},
            mode="markers",
            name=score.representation,
            hovertemplate="%{x:.1f} %<extra></extra>",
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=[100 * result.null] * len(names),
        y=names,
        mode="lines+markers",
        marker={"symbol": "line-ns-open", "size": 24, "color": COLORS[6]},
        line=NULL_LINE,
        name="shuffled labels",
        hovertemplate="shuffled labels: %{x:.1f} %<extra></extra>",
        row=1,
        col=1,
    )
    highest = 100 * max(result.null, *(score.high for score in result.scores))
    figure.update_xaxes(
        title="neighbors of the same class, %", range=[0, min(103, 1.15 * highest)], row=1, col=1
    )
    figure.update_yaxes(
        type="category",
        tickmode="array",
        tickvals=names,
        ticktext=names,
        range=[len(names) - 0.4, -0.6],
        ticklabelstandoff=4,
        row=1,
        col=1,
    )


def _draw_classes(figure: go.Figure, result: NeighborConsistency) -> None:
    order = np.argsort(-result.scores[0].by_class, kind="stable")
    names = [result.classes[i] for i in order]
    has_names = len(names) <= MAX_NAMED_CLASSES
    x: Any = names if has_names else np.arange(1, len(names) + 1)
    for i, score in enumerate(result.scores):
        figure.add_scatter(
            x=x,
            y=100 * score.by_class[order],
            customdata=names,
            mode="markers",
            marker={
                "size": 9 if has_names else 4,
                "color": SCORE_COLORS[i],
                "symbol": SCORE_SYMBOLS[i],
            },
            showlegend=False,
            hovertemplate="%{customdata}: %{y:.1f} %<extra>" + score.representation + "</extra>",
            row=1,
            col=2,
        )
    figure.add_scatter(
        x=x,
        y=100 * result.null_by_class[order],
        mode="lines",
        line=NULL_LINE,
        showlegend=False,
        hovertemplate="shuffled labels: %{y:.1f} %<extra></extra>",
        row=1,
        col=2,
    )
    title = "class" if has_names else "class, in descending order of the mean token"
    figure.update_xaxes(title=title, type="category" if has_names else "linear", row=1, col=2)
    figure.update_yaxes(title="neighbors of the same class, %", rangemode="tozero", row=1, col=2)
