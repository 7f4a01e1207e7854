"""The images of a lens: as sheets with captions for the browser, and as a figure."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.style import MAGNITUDE_SCALE, apply_theme
from workbench.core.image_url import png_url
from workbench.explore.image_grid import ImageGrid


def module_data(grid: ImageGrid) -> dict[str, Any]:
    """Return an image grid as the JavaScript module takes it: two sheets, and captions."""
    n, m, h, w, c = grid.images.shape
    active = None
    if grid.active is not None:
        active = [[_active_text(tokens) for tokens in row] for row in grid.active]
    return {
        "axis": grid.axis,
        "stops": grid.axis_values,
        "rows": grid.rows,
        "against": grid.reference_label,
        "note": grid.note,
        "size": [h, w],
        "notes": _captions(grid),
        "active": active,
        "reference": png_url(grid.reference.reshape(n * h, w, c)),
        "shown": png_url(grid.images.transpose(0, 2, 1, 3, 4).reshape(n * h, m * w, c)),
    }


def comparison_data(name: str, primary: ImageGrid, grid: ImageGrid) -> dict[str, Any]:
    """Return the images of another run as the JavaScript module takes them.

    Parameters
    ----------
    name : str
        Name of the other run.
    primary : ImageGrid
        The images of the primary run.
    grid : ImageGrid
        The images of the other run, on the same axis.

    Returns
    -------
    dict
        ``at`` holds, for each stop of the primary run, the stop of the other run that is shown:
        the largest that does not exceed it.
    """
    values = [_stop_value(stop) for stop in grid.axis_values]
    at = []
    for stop in primary.axis_values:
        limit = _stop_value(stop)
        candidates = [i for i, value in enumerate(values) if value <= limit]
        at.append(max(candidates, default=0, key=values.__getitem__))
    data = module_data(grid)
    return {
        "name": name,
        "at": at,
        **{key: data[key] for key in ("stops", "notes", "active", "shown")},
    }


def lens_figure(name: str, grid: ImageGrid, row: int, stop: int) -> go.Figure:
    """Draw an image next to its reference, and their difference."""
    from plotly.subplots import make_subplots

    titles = (grid.reference_label, f"{grid.axis} {grid.axis_values[stop]}", "absolute difference")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles)
    for column, image in enumerate((grid.reference[row], grid.images[row, stop]), 1):
        rgb = np.broadcast_to(image, (*image.shape[:2], 3))
        figure.add_trace(go.Image(z=rgb), row=1, col=column)
    difference = grid.error_map(row, stop)
    heatmap = go.Heatmap(z=difference, colorscale=MAGNITUDE_SCALE, zmin=0)
    figure.add_trace(heatmap, row=1, col=3)
    figure.update_xaxes(showticklabels=False, constrain="domain")
    figure.update_yaxes(
        showticklabels=False, autorange="reversed", scaleanchor="x", constrain="domain"
    )
    for axis in ("2", "3"):
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}"}})
    error, psnr = grid.error[row, stop], grid.psnr[row, stop]
    subtitle = f"mean absolute error {error:.4f} · PSNR {psnr:.1f} dB"
    title = {"text": f"{name}, {grid.rows[row]}", "subtitle": {"text": subtitle}}
    return apply_theme(figure.update_layout(title=title, height=360))


def _captions(grid: ImageGrid) -> list[list[str]]:
    """Return the caption of each image: tokens used, error and PSNR."""
    error, psnr, tokens = grid.error, grid.psnr, grid.tokens
    word = "error" if grid.reference_label == "original" else "difference"
    captions = []
    for i in range(len(grid.rows)):
        row = []
        for j in range(len(grid.axis_values)):
            caption = f"mean absolute {word} {error[i, j]:.4f} · PSNR {psnr[i, j]:.1f} dB"
            if not error[i, j]:  # their PSNR is infinite
                caption = f"identical to {grid.reference_label}"
            if tokens is not None and grid.active is not None:
                caption = f"{tokens[i, j]} of {grid.active.shape[2]} tokens · {caption}"
            row.append(caption)
        captions.append(row)
    return captions


def _active_text(tokens: np.ndarray) -> str:
    """Return which tokens the decoder used, as zeros and ones."""
    return "".join("1" if is_active else "0" for is_active in tokens)


def _stop_value(stop: str) -> float:
    """Return the number that the name of a stop shows."""
    return float(stop.replace(",", ""))
