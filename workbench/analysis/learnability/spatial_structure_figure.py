"""Figure of spatial structure: the cosine of tokens by distance, and the measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.learnability.spatial_structure import (
        SpatialStructure,
        SpatialVariant,
        StructureValue,
    )

VARIANT_COLORS = (COLORS[0], COLORS[1], COLORS[2])
VARIANT_SYMBOLS = ("circle", "square", "diamond")
BAND_COLOR = "rgba(0,114,178,0.18)"
NEAR_COLOR = "rgba(127,127,127,0.25)"
NULL_LINE = {"color": COLORS[6], "dash": "dash"}


def draw(result: SpatialStructure) -> go.Figure:
    """Draw the cosine by distance on the left, if there is a grid, and the measures on the right.

    Parameters
    ----------
    result : SpatialStructure
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    has_grid = result.side > 0
    columns = 2 if has_grid else 1
    widths = [0.58, 0.42] if has_grid else [1.0]
    figure = make_subplots(1, columns, column_widths=widths, horizontal_spacing=0.12)
    if has_grid:
        _draw_correlogram(figure, result)
    _draw_measures(figure, result, columns)
    shape = f"{result.side} × {result.side}" if has_grid else str(result.tokens)
    subtitle = (
        f"n = {result.sample_text(result.images)}, {shape} tokens of {result.channels}"
        f" channels, scaled {result.scaling} · bars: 95 % over images"
    )
    if result.missing:
        subtitle += f" · {result.missing.removesuffix('.')}"
    figure.update_layout(
        title={"text": "Spatial structure", "subtitle": {"text": subtitle}},
        height=450 if has_grid else 300,
        legend={"orientation": "h", "yref": "container", "y": 0.02, "yanchor": "bottom"},
    )
    return apply_theme(figure)


def _draw_correlogram(figure: go.Figure, result: SpatialStructure) -> None:
    figure.add_vrect(
        x0=0.5, x1=result.side / 2 - 0.5, fillcolor=NEAR_COLOR, line_width=0, row=1, col=1
    )
    figure.add_annotation(
        x=result.side / 4,
        y=0,
        yref="y domain",
        text="near",
        showarrow=False,
        yanchor="bottom",
        row=1,
        col=1,
    )
    first = result.variants[0]
    figure.add_scatter(
        x=np.concatenate([result.distances, result.distances[::-1]]),
        y=np.concatenate([first.high, first.low[::-1]]),
        fill="toself",
        fillcolor=BAND_COLOR,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name="10 to 90 % of images",
        row=1,
        col=1,
    )
    for i, variant in enumerate(result.variants):
        figure.add_scatter(
            x=result.distances,
            y=variant.correlogram,
            mode="lines+markers",
            line_color=VARIANT_COLORS[i],
            marker={"symbol": VARIANT_SYMBOLS[i], "size": 7},
            name=variant.name,
            legendgroup=variant.name,
            hovertemplate="distance %{x}: %{y:.3f}<extra>" + variant.name + "</extra>",
            row=1,
            col=1,
        )
    figure.add_hline(y=0, line=NULL_LINE, row=1, col=1)
    figure.update_xaxes(
        title="distance of two tokens, cells", range=[0.5, 2 * result.side - 1.5], row=1, col=1
    )
    figure.update_yaxes(title="mean cosine", zeroline=False, row=1, col=1)


def _draw_measures(figure: go.Figure, result: SpatialStructure, col: int) -> None:
    names = ["LDS", "CDS", "RMSC"] if result.side else ["RMSC"]
    for i, variant in enumerate(result.variants):
        items = _items(variant, has_grid=result.side > 0)
        value = np.array([item.value for item in items])
        # The variants are drawn above each other within the row of a measure.
        rows = np.arange(len(names)) + 0.22 * (i - 1)
        figure.add_scatter(
            x=[0.0, 0.0, variant.null_rmsc] if result.side else [variant.null_rmsc],
            y=rows,
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 12, "color": COLORS[6], "line_width": 2},
            name="white noise",
            legendgroup="white noise",
            showlegend=i == 0,
            legendrank=1001,  # after the variants
            hovertemplate="white noise: %{x:.3f}<extra>" + variant.name + "</extra>",
            row=1,
            col=col,
        )
        figure.add_scatter(
            x=value,
            y=rows,
            customdata=names,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [item.high - item.value for item in items],
                "arrayminus": [item.value - item.low for item in items],
                "thickness": 1.5,
            },
            mode="markers",
            marker={"color": VARIANT_COLORS[i], "symbol": VARIANT_SYMBOLS[i], "size": 9},
            name=variant.name,
            legendgroup=variant.name,
            showlegend=not result.side,
            hovertemplate="%{customdata}: %{x:.3f}<extra>" + variant.name + "</extra>",
            row=1,
            col=col,
        )
    figure.update_xaxes(title="value", rangemode="tozero", row=1, col=col)
    figure.update_yaxes(
        tickmode="array",
        tickvals=np.arange(len(names)),
        ticktext=names,
        range=[len(names) - 0.4, -0.6],
        zeroline=False,
        ticklabelstandoff=4,
        row=1,
        col=col,
    )


def _items(variant: SpatialVariant, *, has_grid: bool) -> list[StructureValue]:
    return [variant.lds, variant.cds, variant.rmsc] if has_grid else [variant.rmsc]
