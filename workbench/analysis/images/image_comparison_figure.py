"""Figure of an image comparison: a row per run and a column per image of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import apply_theme

if TYPE_CHECKING:
    from workbench.analysis.images.image_comparison import ImageComparison

ROW_HEIGHT_PX = 70
MAX_COLUMNS = 12
CAPTION_FONT_PX = 10


def draw(result: ImageComparison) -> go.Figure:
    """Draw originals above the reconstructions of each run, with the PSNR below each."""
    count = min(MAX_COLUMNS, len(result.indices))
    names = ("original", *result.runs)
    rows = [result.pictures[:count, i] for i in range(len(names))]
    mosaic = image_grid.compose(rows)
    figure = image_grid.draw(mosaic, names, (len(names), count), ROW_HEIGHT_PX)
    height, width = mosaic.shape[:2]
    for column in range(count):
        index = result.indices[column]
        x = (column + 0.5) * width / count
        figure.add_annotation(
            x=x, y=0, text=f"#{index}", yanchor="bottom", showarrow=False, font_size=11
        )
        for i in range(len(result.runs)):
            figure.add_annotation(
                x=x,
                y=(i + 2) * height / len(names),
                text=f"{result.psnr[index, i]:.1f} dB",
                yanchor="bottom",
                showarrow=False,
                font={"size": CAPTION_FONT_PX, "color": "white"},
                bgcolor="rgba(0, 0, 0, 0.6)",
                borderpad=1,
            )
    figure.update_xaxes(title=f"page {result.page} of {result.num_pages}")
    subtitle = f"{count} of n = {result.n:,} images"
    figure.update_layout(title={"text": "Image comparison", "subtitle": {"text": subtitle}})
    return apply_theme(figure)
