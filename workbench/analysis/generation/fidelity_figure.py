"""Figure of fidelity: distances, and nearness of samples to training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.generation.distance_names import network_title
from workbench.analysis.generation.memorization import MAX_GALLERY_SAMPLES
from workbench.analysis.plotting import image_grid
from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.generation.fidelity import Distance, Fidelity
    from workbench.analysis.generation.memorization import Memorization

MAX_LINE_POINTS = 400
GALLERY_ROW_HEIGHT_PX = 64
GRAY = COLORS[6]
REFERENCE_COLOR = COLORS[2]


def draw(result: Fidelity) -> go.Figure:
    """Draw distances, distances to training images, and a gallery of the nearest samples."""
    figure = _panels(result)
    _add_distances(figure, result)
    _add_references(figure, result)
    if result.memorization:
        _add_nearness(figure, result.memorization)
    if result.gallery is not None:
        _add_gallery(figure, result.gallery)
    has_gallery = result.gallery is not None
    network = network_title(result.feature_extractor)
    subtitle = (
        f"{network} · n = {result.n:,} images per set · {result.dimensions:,} features"
        f" · bars: 95 % intervals · seed {result.seed}"
    )
    figure.update_layout(
        title={
            "text": f"Fidelity: {result.label}, lower is better",
            "subtitle": {"text": subtitle},
        },
        height=720 if has_gallery else 440,
        showlegend=True,
        legend={"orientation": "h", "y": 0.44 if has_gallery else -0.24, "yanchor": "top"},
    )
    return apply_theme(figure)


def _panels(result: Fidelity) -> go.Figure:
    columns = 2 if result.memorization else 1
    specs: list[list[dict[str, Any] | None]] = [[{} for _ in range(columns)]]
    heights = None
    if result.gallery is not None:
        specs.append([{"colspan": columns}, *[None] * (columns - 1)])
        heights = [0.6, 0.4]
    return make_subplots(
        len(specs),
        columns,
        specs=specs,
        row_heights=heights,
        column_widths=[0.56, 0.44] if columns == 2 else None,
        horizontal_spacing=0.11,
        vertical_spacing=0.3,
    )


def _add_distances(figure: go.Figure, result: Fidelity) -> None:
    distances = result.distances[::-1]
    value = np.array([d.value for d in distances])
    high = np.array([d.high for d in distances])
    low = np.array([d.low for d in distances])
    names = [_row_name(result, d) for d in distances]
    figure.add_scatter(
        x=value,
        y=names,
        mode="markers",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": high - value,
            "arrayminus": value - low,
            "thickness": 1.5,
            "color": GRAY,
        },
        customdata=[(d.kid, d.kid_error, d.precision, d.recall) for d in distances],
        hovertemplate=(
            "%{x:.4~g} · KID %{customdata[0]:.3~g} ± %{customdata[1]:.2~g}<br>"
            "precision %{customdata[2]:.2f}, recall %{customdata[3]:.2f}<extra></extra>"
        ),
        marker={
            "size": 11,
            "color": [GRAY if d.name == "floor" else COLORS[0] for d in distances],
        },
        name=f"at n = {result.n:,}",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=[d.extrapolated for d in distances],
        y=names,
        mode="markers",
        name="extrapolated to unlimited n",
        marker={"size": 10, "symbol": "diamond-open", "color": COLORS[5], "line": {"width": 2}},
        row=1,
        col=1,
    )
    figure.update_xaxes(
        title=f"{result.label}, squared units of the features", rangemode="tozero", row=1, col=1
    )
    figure.update_yaxes(
        title="",
        tickmode="array",
        tickvals=names,
        ticktext=names,
        automargin=True,
        range=[-0.6, len(names) - 0.4],
        row=1,
        col=1,
    )


def _add_references(figure: go.Figure, result: Fidelity) -> None:
    """Mark the distances of decoded Gaussians with ticks on the row of the samples.

    Isotropic noise is often so far away that the axis would hide all other differences, so that its
    tick may be outside and its value is in the legend.
    """
    if not result.references:
        return
    samples = result.samples_distance
    row = "class Gaussians<br><sub>training, no generator</sub>"
    if samples is not None:
        row = _row_name(result, samples)
    else:
        names = (*figure.layout.yaxis.tickvals, row)
        figure.update_yaxes(
            tickvals=names, ticktext=names, range=[-0.6, len(names) - 0.4], row=1, col=1
        )
    for reference, width in zip(result.references, (3, 1.5), strict=False):
        figure.add_scatter(
            x=[reference.value],
            y=[row],
            mode="markers",
            marker={
                "symbol": "line-ns",
                "size": 26,
                "line": {"width": width, "color": REFERENCE_COLOR},
            },
            name=f"{reference.name}, no training: {reference.value:.3g}",
            hovertemplate="%{x:.4~g}<extra>" + reference.name + "</extra>",
            row=1,
            col=1,
        )
    limits = [d.high if np.isfinite(d.high) else d.value for d in result.distances]
    if result.class_gaussians is not None:
        limits.append(result.class_gaussians.value)
    figure.update_xaxes(range=[0, 1.08 * max(limits)], row=1, col=1)


def _row_name(result: Fidelity, distance: Distance) -> str:
    real = result.image_kind if distance.real == "held-out" else distance.real
    return f"{distance.name}<br><sub>{real.removesuffix(' images')}, {distance.evaluated}</sub>"


def _add_nearness(figure: go.Figure, memorization: Memorization) -> None:
    for name, distances, color, dash in (
        ("samples", memorization.samples, COLORS[0], "solid"),
        ("held-out images", memorization.held_out, GRAY, "dash"),
    ):
        share = np.linspace(0, 1, min(len(distances), MAX_LINE_POINTS))
        figure.add_scatter(
            x=np.quantile(distances, share),
            y=100 * share,
            line={"color": color, "dash": dash},
            name=name,
            row=1,
            col=2,
        )
    figure.add_scatter(
        x=[memorization.reach] * 2,
        y=[0, 100],
        mode="lines",
        line={"color": COLORS[5], "dash": "dot"},
        name="nearest 1 % of held-out images",
        row=1,
        col=2,
    )
    figure.update_xaxes(
        title="distance to the<br>nearest training image", rangemode="tozero", row=1, col=2
    )
    figure.update_yaxes(title="images within the distance, %", row=1, col=2)


def _add_gallery(figure: go.Figure, gallery: np.ndarray) -> None:
    names = ("sample", "nearest training image")
    grid = image_grid.draw(
        gallery, names, (2, MAX_GALLERY_SAMPLES), row_height=GALLERY_ROW_HEIGHT_PX
    )
    figure.add_trace(grid.data[0], row=2, col=1)
    figure.update_xaxes(grid.layout.xaxis, row=2, col=1)
    figure.update_yaxes(grid.layout.yaxis, row=2, col=1)
    figure.update_xaxes(
        title="samples nearest to a training image, in ascending order of distance", row=2, col=1
    )
