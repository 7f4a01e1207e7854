"""Figure of a latent map: one scatter plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.latents.point_colors import (
    NAME_COLORS,
    OTHER_NAME,
    name_colors,
    sort_names,
)
from workbench.analysis.plotting.style import MAGNITUDE_SCALE, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.latents.projection import LatentMap

MIN_WEBGL_POINTS = 4_000  # more points are drawn by the graphics card
SYMBOLS = ("circle", "diamond", "cross", "triangle-up")
NAMES_PER_SYMBOL = 6


def draw(result: LatentMap) -> go.Figure:
    """Draw one map.

    Parameters
    ----------
    result : LatentMap
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = go.Figure()
    use_webgl = len(result.image_indices) > MIN_WEBGL_POINTS
    for trace in point_traces(result, sort_names(result.colors.names), use_webgl):
        figure.add_trace(trace)
    axis = "UMAP" if result.method == "umap" else "Principal component"
    figure.update_xaxes(title=f"{axis} 1", zeroline=False)
    figure.update_yaxes(title=f"{axis} 2", zeroline=False, scaleanchor="x")
    title = f"Latent map: trustworthiness {result.trust:.2f}, continuity {result.continuity:.2f}"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": describe_sample(result)}}, height=520
    )
    return apply_theme(add_legend(figure, result))


def point_traces(
    result: LatentMap, names: list[str], use_webgl: bool
) -> list[go.Scatter | go.Scattergl]:
    """Return the traces of a map: one per name, or a single one.

    Parameters
    ----------
    result : LatentMap
        The map.
    names : list of str
        Names in the order of their colors. Several maps share it.
    use_webgl : bool
        Whether the graphics card draws the points.

    Returns
    -------
    list of plotly traces
    """
    colors = result.colors
    size = 6 if len(result.image_indices) <= MIN_WEBGL_POINTS else 4
    every = np.arange(len(result.image_indices))
    if colors.values is not None:
        hover = f"image %{{customdata}}, {colors.title} %{{marker.color:.3~g}}<extra></extra>"
        marker = {"color": colors.values, "coloraxis": "coloraxis", "size": size, "opacity": 0.9}
        return [_trace(result, every, "images", marker, hover, use_webgl)]
    # With more names, all points have one color and the name shows on hover.
    if not 0 < len(names) <= len(NAME_COLORS):
        marker = {"color": NAME_COLORS[0], "size": size, "opacity": 0.9}
        text = ", %{text}" if colors.names else ""
        hover = f"image %{{customdata}}{text}<extra></extra>"
        trace = _trace(result, every, "images", marker, hover, use_webgl)
        return [trace.update(text=list(colors.names) or None)]
    point_names = np.array(colors.names)
    traces = []
    for i, (name, color) in enumerate(zip(names, name_colors(names), strict=True)):
        symbol = SYMBOLS[i // NAMES_PER_SYMBOL]
        marker = {"color": color, "symbol": symbol, "size": size, "opacity": 0.9}
        if name == OTHER_NAME:
            marker |= {"symbol": "circle", "size": size - 2, "opacity": 0.5}
        hover = f"image %{{customdata}}, {colors.by} {name}<extra></extra>"
        indices = np.flatnonzero(point_names == name)
        traces.append(_trace(result, indices, name, marker, hover, use_webgl))
    return traces


def add_legend(figure: go.Figure, result: LatentMap) -> go.Figure:
    """Add a legend of the names, and the color axis of a number, in place.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        Figure that receives the legend.
    result : LatentMap
        The map of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        The same figure.
    """
    legend = {"title": {"text": result.colors.title}, "itemsizing": "constant"}
    has_names = len({trace.name for trace in figure.data}) > 1
    color_axis = {
        "colorscale": MAGNITUDE_SCALE,
        "colorbar": {"title": {"text": result.colors.title}, "thickness": 14},
    }
    return figure.update_layout(showlegend=has_names, legend=legend, coloraxis=color_axis)


def describe_sample(result: LatentMap) -> str:
    """Return the subtitle of a map.

    Parameters
    ----------
    result : LatentMap
        The map.

    Returns
    -------
    str
    """
    return f"n = {result.sample_description} · {result.neighbors} neighbors · seed {result.seed}"


def _trace(
    result: LatentMap,
    indices: np.ndarray,
    name: str,
    marker: dict[str, Any],
    hover: str,
    use_webgl: bool,
) -> go.Scatter | go.Scattergl:
    scatter = go.Scattergl if use_webgl else go.Scatter
    x, y = result.coordinates[indices].T
    return scatter(
        x=x,
        y=y,
        mode="markers",
        name=name,
        marker=marker,
        customdata=result.image_indices[indices],
        meta="image",
        hovertemplate=hover,
    )
