"""The picture of fidelity: distances, and how near samples come to training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.generation.memorization import SHOWN, Memorization
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.generation.fidelity import Fidelity

MOST_STEPS = 400  # points a line is drawn with


def draw(result: Fidelity) -> go.Figure:
    """Distances at the left, nearest training images at the right, and the nearest pairs below."""
    copying, gallery = result.copying, result.gallery
    rows, columns = 1 + (gallery is not None), 1 + (copying is not None)
    specs = [[{}] * columns, [{"colspan": columns}, *[None] * (columns - 1)]][:rows]
    figure = make_subplots(
        rows, columns, specs=specs, row_heights=[0.6, 0.4][:rows] if rows > 1 else None,
        column_widths=[0.56, 0.44] if copying else None, horizontal_spacing=0.11, vertical_spacing=0.3,
    )  # fmt: skip
    _distances(figure, result)
    if copying:
        _nearness(figure, copying)
    if gallery is not None:
        _pairs(figure, gallery)
    title = f"Fidelity, {result.label}: lower is better"
    said = f"n = {result.n:,} images a set · {result.dimensions:,} features · bars: 95 %, {result.splits} half samples"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": f"{said} · seed {result.seed}"}}
    )
    figure.update_layout(height=720 if rows > 1 else 440, showlegend=True)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.24 if rows == 1 else 0.44, "yanchor": "top"}
    )
    return apply_theme(figure)


def _distances(figure: go.Figure, result: Fidelity) -> None:
    shown = result.distances[::-1]
    value = np.array([d.value for d in shown])
    up, down = np.array([d.high for d in shown]) - value, value - np.array([d.low for d in shown])
    names = [f"{d.name}<br><sub>{d.real}, {d.evaluated}</sub>" for d in shown]
    colours = [COLORS[6] if d.name == "floor" else COLORS[0] for d in shown]
    known = [(d.kid, d.kid_error, d.precision, d.recall) for d in shown]
    hover = "%{x:.4g} · KID %{customdata[0]:.3g} ± %{customdata[1]:.2g}<br>"
    hover += "precision %{customdata[2]:.2f}, recall %{customdata[3]:.2f}<extra></extra>"
    bars = {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "thickness": 1.5,
        "color": COLORS[6],
    }
    figure.add_scatter(
        x=value, y=names, mode="markers", error_x=bars, customdata=known, hovertemplate=hover,
        marker={"size": 11, "color": colours}, name=f"at n = {result.n:,}", row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=[d.extrapolated for d in shown], y=names, mode="markers", name="extrapolated to unlimited n",
        marker={"size": 10, "symbol": "diamond-open", "color": COLORS[5], "line": {"width": 2}}, row=1, col=1,
    )  # fmt: skip
    figure.update_xaxes(
        title=f"{result.label},<br>squared units of the features", rangemode="tozero", row=1, col=1
    )
    figure.update_yaxes(
        title="", tickmode="array", tickvals=names, ticktext=names, automargin=True, row=1, col=1
    )
    figure.update_yaxes(range=[-0.6, len(names) - 0.4], row=1, col=1)


def _nearness(figure: go.Figure, copying: Memorization) -> None:
    pairs = (
        ("samples", copying.samples, COLORS[0], "solid"),
        ("held-out images", copying.held_out, COLORS[6], "dash"),
    )
    for name, distances, colour, dash in pairs:
        share = np.linspace(0, 1, min(len(distances), MOST_STEPS))
        line = {"color": colour, "dash": dash}
        figure.add_scatter(
            x=np.quantile(distances, share), y=100 * share, line=line, name=name, row=1, col=2
        )
    reach = {"color": COLORS[5], "dash": "dot"}
    figure.add_scatter(
        x=[copying.reach] * 2,
        y=[0, 100],
        mode="lines",
        line=reach,
        name="as near as 1 %",
        row=1,
        col=2,
    )
    figure.update_xaxes(
        title="distance to the<br>nearest training image", rangemode="tozero", row=1, col=2
    )
    figure.update_yaxes(title="% of images within it", row=1, col=2)


def _pairs(figure: go.Figure, gallery: np.ndarray) -> None:
    names = ("sample", "nearest in training")
    drawn = image_grid.draw(gallery, names, (2, SHOWN), row_height=64)
    figure.add_trace(drawn.data[0], row=2, col=1)
    figure.update_xaxes(drawn.layout.xaxis, row=2, col=1)
    figure.update_yaxes(drawn.layout.yaxis, row=2, col=1)
    figure.update_xaxes(
        title="the samples nearest to a training image, nearest first", row=2, col=1
    )
