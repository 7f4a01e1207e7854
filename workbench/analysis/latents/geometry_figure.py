"""Figure of the geometry of a latent space: spectrum, measures, and robustness to noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.latents.geometry import LatentGeometry

GRAY = COLORS[6]
MAX_MARKED_DIRECTIONS = 32  # a spectrum with more directions has no markers


def draw(result: LatentGeometry) -> go.Figure:
    """Draw the spectrum and the measures, and the PSNR by noise if it was collected.

    Parameters
    ----------
    result : LatentGeometry
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    if result.noise:
        figure = make_subplots(1, 3, column_widths=[0.28, 0.38, 0.34], horizontal_spacing=0.14)
        _draw_noise(figure, result)
    else:
        figure = make_subplots(1, 2, column_widths=[0.45, 0.55], horizontal_spacing=0.2)
    _draw_spectrum(figure, result)
    _draw_measures(figure, result)
    scaling = "standardized" if result.standardized else "centered"
    if result.center_positions:
        scaling += ", position means removed"
    stats = result.stats
    subtitle = (
        f"n = {result.sample_text(result.images)}, {result.tokens:,} tokens of {result.dimensions}"
        f" dimensions (mean {stats.mean:.3g}, deviation {stats.std:.3g}),"
        f" {scaling} · bars: 95 % · seed {result.seed}"
    )
    figure.update_layout(
        title={"text": "Latent geometry", "subtitle": {"text": subtitle}},
        height=460,
        showlegend=True,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
    )
    return apply_theme(figure)


def _draw_spectrum(figure: go.Figure, result: LatentGeometry) -> None:
    has_markers = result.dimensions <= MAX_MARKED_DIRECTIONS
    style: dict[str, Any] = {
        "x": np.arange(1, result.dimensions + 1),
        "mode": "lines+markers" if has_markers else "lines",
        "hovertemplate": "direction %{x}: %{y:.2f} %<extra></extra>",
        "row": 1,
        "col": 1,
    }
    figure.add_scatter(
        y=100 * result.shares,
        line_color=COLORS[0],
        name="latents",
        legendgroup="latents",
        **style,
    )
    figure.add_scatter(
        y=100 * result.gaussian_shares,
        line={"color": GRAY, "dash": "dash"},
        name="isotropic Gaussian",
        legendgroup="Gaussian",
        **style,
    )
    figure.update_xaxes(title="principal direction", row=1, col=1)
    figure.update_yaxes(title="share of the variance, %", rangemode="tozero", row=1, col=1)


def _draw_measures(figure: go.Figure, result: LatentGeometry) -> None:
    measures = result.measures[::-1]
    labels = [f"{m.name} / d" if m.scale > 1 else m.name for m in measures]
    names = [label.replace(" ", "<br>", 1) for label in labels]
    scale = np.array([m.scale for m in measures])
    value = np.array([m.value for m in measures])
    low = np.array([m.low for m in measures])
    high = np.array([m.high for m in measures])
    gaussian = np.array([m.gaussian for m in measures])
    style: dict[str, Any] = {
        "y": names,
        "mode": "markers",
        "hovertemplate": "%{y}: %{customdata:.4~g}<extra></extra>",
        "row": 1,
        "col": 2,
    }
    hollow = {"size": 11, "symbol": "diamond-open", "color": GRAY, "line": {"width": 2}}
    figure.add_scatter(
        x=gaussian / scale, customdata=gaussian, marker=hollow, name="Gaussian value", **style
    )
    bars = {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - value) / scale,
        "arrayminus": np.nan_to_num(value - low) / scale,
        "thickness": 1.5,
    }
    figure.add_scatter(
        x=value / scale,
        customdata=value,
        error_x=bars,
        marker={"size": 9, "color": COLORS[0]},
        showlegend=False,
        **style,
    )
    scaled = np.concatenate([value, low, high, gaussian]) / np.tile(scale, 4)
    left, right = float(np.nanmin(scaled)), float(np.nanmax(scaled))
    figure.update_xaxes(title="value", row=1, col=2)
    figure.update_xaxes(range=[min(left, 0) - 0.05 * right, 1.08 * right], row=1, col=2)
    figure.update_yaxes(
        tickmode="array",
        tickvals=names,
        ticktext=names,
        tickfont_size=11,
        ticklabelstandoff=4,
        range=[-0.6, len(names) - 0.4],
        automargin=True,
        row=1,
        col=2,
    )


def _draw_noise(figure: go.Figure, result: LatentGeometry) -> None:
    psnr = np.array([x.psnr for x in result.noise])
    bars = {
        "type": "data",
        "symmetric": False,
        "array": np.array([x.high for x in result.noise]) - psnr,
        "arrayminus": psnr - np.array([x.low for x in result.noise]),
        "thickness": 1.5,
    }
    figure.add_scatter(
        x=[x.level for x in result.noise],
        y=psnr,
        error_y=bars,
        mode="lines+markers",
        line_color=COLORS[0],
        showlegend=False,
        hovertemplate="noise %{x:.3~g}: %{y:.2f} dB<extra></extra>",
        row=1,
        col=3,
    )
    figure.update_xaxes(title="noise, standard deviations", rangemode="tozero", row=1, col=3)
    figure.update_yaxes(title="PSNR, dB", row=1, col=3)
