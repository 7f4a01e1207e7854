"""What a lens shows: for the browser two sheets of pictures with a note each, for a page without one a figure."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.style import MAGNITUDE_SCALE, apply_theme
from workbench.explore.image_grid import ImageGrid
from workbench.workspace.encoding import png_url


def module_data(frames: ImageGrid) -> dict[str, Any]:
    """What the JavaScript module needs of frames: two sheets of pictures, and a note for each."""
    n, m, h, w, c = frames.shown.shape
    error, psnr, tokens = frames.error, frames.psnr, frames.tokens
    word = "error" if frames.against == "original" else "difference"

    def note(i: int, j: int) -> str:
        used = "" if tokens is None else f"{tokens[i, j]} of {frames.active.shape[2]} tokens · "
        return f"{used}mean absolute {word} {error[i, j]:.4f} · PSNR {psnr[i, j]:.1f} dB"

    active = frames.active
    return {
        "axis": frames.axis,
        "stops": frames.stops,
        "rows": frames.rows,
        "against": frames.against,
        "note": frames.note,
        "size": [h, w],
        "notes": [[note(i, j) for j in range(m)] for i in range(n)],
        "active": None
        if active is None
        else [["".join("01"[int(a)] for a in one) for one in row] for row in active],
        "reference": png_url(frames.reference.reshape(n * h, w, c)),
        "shown": png_url(frames.shown.transpose(0, 2, 1, 3, 4).reshape(n * h, m * w, c)),
    }


def beside_data(name: str, leading: ImageGrid, frames: ImageGrid) -> dict[str, Any]:
    """What the module needs of another run: its pictures, and which of its stops is shown at each of the leading's."""
    own = [float(stop.replace(",", "")) for stop in frames.stops]
    asked = [float(stop.replace(",", "")) for stop in leading.stops]
    at = [
        max((i for i, value in enumerate(own) if value <= one), default=0, key=own.__getitem__)
        for one in asked
    ]
    told = module_data(frames)
    return {
        "name": name,
        "at": at,
        **{part: told[part] for part in ("stops", "notes", "active", "shown")},
    }


def draw(name: str, frames: ImageGrid, row: int, stop: int) -> go.Figure:
    """A picture beside what it is held against, and their difference."""
    from plotly.subplots import make_subplots

    pictures = (frames.reference[row], frames.shown[row, stop])
    titles = (frames.against, f"{frames.axis} {frames.stops[stop]}", "absolute difference")
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles)
    for column, picture in enumerate(pictures, 1):
        figure.add_trace(
            go.Image(z=np.broadcast_to(picture, (*picture.shape[:2], 3))), row=1, col=column
        )
    figure.add_trace(
        go.Heatmap(z=frames.error_map(row, stop), colorscale=MAGNITUDE_SCALE, zmin=0), row=1, col=3
    )
    figure.update_xaxes(showticklabels=False, constrain="domain")
    figure.update_yaxes(
        showticklabels=False, autorange="reversed", scaleanchor="x", constrain="domain"
    )
    for axis in ("2", "3"):
        figure.update_layout({f"yaxis{axis}": {"scaleanchor": f"x{axis}"}})
    said = (
        f"mean absolute error {frames.error[row, stop]:.4f} · PSNR {frames.psnr[row, stop]:.1f} dB"
    )
    title = {"text": f"{name}, {frames.rows[row]}", "subtitle": {"text": said}}
    return apply_theme(figure.update_layout(title=title, height=360))
