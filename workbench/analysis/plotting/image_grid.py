"""Many small images as one: a mosaic that stays small in a figure's JSON and keeps its pixels square."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

CELL = 64  # least side of an image in a mosaic, in pixels: an 8 by 8 digit is enlarged eight times
GAP = 6  # transparent pixels between images, so that the page's own colour shows


def compose(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of uint8 images (m, h, w, c), c 1 or 3 and m at most the first row's, as uint8 (height, width, 4)."""
    columns, (height, width) = max(len(row) for row in rows), rows[0].shape[1:3]
    scale = max(1, -(-CELL // min(height, width)))
    high, wide = height * scale + GAP, width * scale + GAP
    canvas = np.zeros((len(rows) * high, columns * wide, 4), np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            large = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
            cell = canvas[i * high : (i + 1) * high - GAP, j * wide : (j + 1) * wide - GAP]
            cell[..., :3], cell[..., 3] = large, 255
    return canvas


def draw(
    mosaic: np.ndarray, row_names: Sequence[str], shape: tuple[int, int], row_height: int
) -> go.Figure:
    """A figure of a mosaic of (rows, columns), each row named at its left and `row_height` screen pixels high."""
    rows, columns = shape
    height, width = mosaic.shape[0], mosaic.shape[1]
    middle = [(row + 0.5) * height / rows for row in range(rows)]
    figure = go.Figure(go.Image(source=_png(mosaic), hoverinfo="skip"))
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, ticks="")
    figure.update_xaxes(range=[0, width], constrain="domain", constraintoward="left")
    figure.update_yaxes(
        tickmode="array", tickvals=middle, ticktext=list(row_names), automargin=True
    )
    figure.update_yaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(ticklabelstandoff=6)
    figure.update_yaxes(range=[height, 0], constrain="domain", constraintoward="top")
    return figure.update_layout(height=rows * row_height + 120)


def _png(mosaic: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(mosaic).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
