"""Figure of similar images: a row per run, from the nearest image to the farthest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme

if TYPE_CHECKING:
    from workbench.analysis.images.similar_images import SimilarImages

ROW_HEIGHT_PX = 92


def draw(result: SimilarImages) -> go.Figure:
    """Draw the nearest images of each run, with the cosine distance above each."""
    mosaic = image_grid.compose(list(result.pictures))
    shape = result.neighbors.shape
    figure = image_grid.draw(mosaic, result.runs, shape, ROW_HEIGHT_PX)
    height, width = mosaic.shape[:2]
    for i in range(shape[0]):
        for j in range(shape[1]):
            figure.add_annotation(
                x=(j + 0.5) * width / shape[1],
                y=(i + 1) * height / shape[0],
                text=f"{result.distances[i, j]:.3f}",
                yanchor="bottom",
                showarrow=False,
                font={"size": 10, "color": "white"},
                bgcolor="rgba(0, 0, 0, 0.6)",
                borderpad=1,
            )
    figure.update_xaxes(title="cosine distance of latents, nearest first")
    subtitle = f"n = {result.n:,} images"
    title = f"Images similar to {result.name(result.image)}"
    figure.update_layout(title={"text": title, "subtitle": {"text": subtitle}})
    return apply_theme(figure)
