"""Figure of latent maps of several runs: one panel per run with common axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.latents.point_colors import sort_names
from workbench.analysis.latents.projection_figure import (
    MIN_WEBGL_POINTS,
    add_legend,
    describe_sample,
    point_traces,
)
from workbench.analysis.plotting.style import apply_theme

if TYPE_CHECKING:
    from workbench.analysis.latents.projection_comparison import LatentMaps

MAX_COLUMNS = 3
FIGURE_WIDTH_PX = 900  # on the screen
MAX_PANEL_HEIGHT_PX = 420
CAPTION_HEIGHT_PX = 70  # below each panel
LEGEND_ENTRY_PX = 22


def draw(result: LatentMaps) -> go.Figure:
    """Draw one panel per run. All panels have the same axes and colors.

    Parameters
    ----------
    result : LatentMaps
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    first = result.maps[0]
    columns = min(MAX_COLUMNS, len(result.maps))
    rows = -(-len(result.maps) // columns)
    low, high = _bounds(result)
    aspect = np.clip((high[1] - low[1]) / (high[0] - low[0]), 0.4, 1.2)
    panel_height = min(FIGURE_WIDTH_PX / columns * aspect, MAX_PANEL_HEIGHT_PX)
    height = rows * panel_height + (rows - 1) * CAPTION_HEIGHT_PX
    figure = make_subplots(
        rows, columns, horizontal_spacing=0.06, vertical_spacing=CAPTION_HEIGHT_PX / height
    )
    for i in range(len(result.maps)):
        _panel(figure, result, i, i // columns + 1, i % columns + 1)
    style = {"showticklabels": False, "zeroline": False, "constrain": "domain"}
    figure.update_xaxes(range=[low[0], high[0]], **style)
    figure.update_yaxes(range=[low[1], high[1]], **style)
    for y_axis, x_axis in zip(figure.select_yaxes(), figure.select_xaxes(), strict=True):
        y_axis.scaleanchor = x_axis.anchor.replace("y", "x")
    title = "Latent maps"
    if len(result.maps) > 1:
        title += f", aligned to {result.runs[0]}"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": describe_sample(first)}},
        height=max(int(height), _legend_height(figure)) + 64 + CAPTION_HEIGHT_PX,
    )
    return apply_theme(add_legend(figure, first))


def _legend_height(figure: go.Figure) -> int:
    """Return the height of a legend with its title in pixels; a lower figure would cut it."""
    return LEGEND_ENTRY_PX * (len({trace.name for trace in figure.data}) + 1)


def _panel(figure: go.Figure, result: LatentMaps, index: int, row: int, col: int) -> None:
    latent_map = result.maps[index]
    names = sort_names(name for m in result.maps for name in m.colors.names)
    use_webgl = sum(len(m.image_indices) for m in result.maps) > MIN_WEBGL_POINTS
    legend_names = {trace.name for trace in figure.data}
    for trace in point_traces(latent_map, names, use_webgl):
        is_new = trace.name not in legend_names
        trace.update(showlegend=is_new, legendgroup=trace.name)
        figure.add_trace(trace, row=row, col=col)
    quality = f"trust {latent_map.trust:.2f}, continuity {latent_map.continuity:.2f}"
    if index:
        quality += f", disparity {result.disparity[index]:.2f}"
    caption = {"text": f"{result.runs[index]}<br>{quality}", "font_size": 12}
    axis = "UMAP" if latent_map.method == "umap" else "Component"
    figure.update_xaxes(title=caption, row=row, col=col)
    figure.update_yaxes(title=f"{axis} 2" if col == 1 else " ", row=row, col=col)


def _bounds(result: LatentMaps) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate([latent_map.coordinates for latent_map in result.maps])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.05 * (high - low)
    return low - margin, high + margin
