"""Grids of small images, drawn as a single image.

One PNG keeps the JSON of a figure small and the pixels of the images square.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from workbench.core.image_url import png_url

MIN_CELL_PX = 64  # smallest side of an image in the grid: an 8 by 8 digit is enlarged eight times
GAP_PX = 6  # transparent pixels between images, through which the page's background shows


def compose(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Compose rows of images into one image.

    Parameters
    ----------
    rows : sequence of ndarray of uint8, each of shape (m, h, w, c)
        Rows of images of equal size, with c = 1 or 3. The number m may differ between rows.

    Returns
    -------
    ndarray of uint8, shape (height, width, 4)
        RGBA image. Images smaller than 64 pixels are enlarged by an integer factor.

    Examples
    --------
    >>> compose([np.zeros((3, 64, 64, 1), np.uint8)]).shape
    (70, 210, 4)
    """
    columns = max(len(row) for row in rows)
    height, width = rows[0].shape[1:3]
    scale = max(1, -(-MIN_CELL_PX // min(height, width)))
    cell_height = height * scale + GAP_PX
    cell_width = width * scale + GAP_PX
    canvas = np.zeros((len(rows) * cell_height, columns * cell_width, 4), np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * cell_height, j * cell_width
            cell = canvas[top : top + height * scale, left : left + width * scale]
            cell[..., :3] = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
            cell[..., 3] = 255
    return canvas


def draw(
    mosaic: np.ndarray, row_names: Sequence[str], shape: tuple[int, int], row_height: int
) -> go.Figure:
    """Draw a composed grid of images with a name to the left of each row.

    Parameters
    ----------
    mosaic : ndarray of uint8, shape (height, width, 4)
        Output of `compose`.
    row_names : sequence of str
        One name per row.
    shape : tuple of int
        Number of rows and columns of the grid.
    row_height : int
        Height of a row on the screen, in pixels.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    num_rows = shape[0]
    height, width = mosaic.shape[:2]
    row_centers = [(row + 0.5) * height / num_rows for row in range(num_rows)]
    figure = go.Figure(go.Image(source=png_url(mosaic), hoverinfo="skip"))
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, ticks="")
    figure.update_xaxes(range=[0, width], constrain="domain", constraintoward="left")
    figure.update_yaxes(
        tickmode="array", tickvals=row_centers, ticktext=list(row_names), automargin=True
    )
    figure.update_yaxes(showgrid=False, zeroline=False, ticklabelstandoff=6)
    figure.update_yaxes(range=[height, 0], constrain="domain", constraintoward="top")
    return figure.update_layout(height=num_rows * row_height + 120)
