"""The picture of a latent space's geometry: spectrum, measures, noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.stats.sampling import describe_subset

if TYPE_CHECKING:
    from workbench.analysis.latents.geometry import LatentGeometry

GREY = COLORS[6]


def draw(result: LatentGeometry) -> go.Figure:
    """Two panels, and a third where noise was collected."""
    columns = 3 if result.noise else 2
    widths = [0.28, 0.38, 0.34] if result.noise else [0.45, 0.55]
    figure = make_subplots(
        1, columns, column_widths=widths, horizontal_spacing=0.14 if columns == 3 else 0.2
    )
    _spectrum(figure, result)
    _measures(figure, result)
    if result.noise:
        _noise(figure, result)
    said = f"n = {describe_subset(result.images, result.of)}, {result.tokens:,} tokens of {result.dimensions} dimensions"
    said += f", {'standardised' if result.standardized else 'centred'} · bars: 95 % · seed {result.seed}"
    figure.update_layout(
        title={"text": "Latent geometry", "subtitle": {"text": said}}, height=460, showlegend=True
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
    return apply_theme(figure)


def _spectrum(figure: go.Figure, result: LatentGeometry) -> None:
    mode = "lines+markers" if result.dimensions <= 32 else "lines"
    direction = np.arange(1, result.dimensions + 1)
    where = {"x": direction, "mode": mode, "row": 1, "col": 1}
    hover = "direction %{x}: %{y:.2f} %<extra></extra>"
    ours = {
        "line_color": COLORS[0],
        "name": "latents",
        "legendgroup": "latents",
        "hovertemplate": hover,
    }
    theirs = {
        "line": {"color": GREY, "dash": "dash"},
        "name": "isotropic Gaussian",
        "legendgroup": "Gaussian",
    }
    figure.add_scatter(**where, y=100 * result.shares, **ours)
    figure.add_scatter(**where, y=100 * result.gaussian_shares, **theirs, hovertemplate=hover)
    figure.update_xaxes(title="direction", row=1, col=1)
    figure.update_yaxes(title="share of the variance, %", rangemode="tozero", row=1, col=1)


def _measures(figure: go.Figure, result: LatentGeometry) -> None:
    shown = result.measures[::-1]
    names = [(f"{m.name} / d" if m.most > 1 else m.name).replace(" ", "<br>", 1) for m in shown]
    most = np.array([m.most for m in shown])
    value, low, high, gaussian = (
        np.array([getattr(m, x) for m in shown]) for x in ("value", "low", "high", "gaussian")
    )
    up, down = np.nan_to_num(high - value) / most, np.nan_to_num(value - low) / most
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5}
    hover = "%{y}: %{customdata:.4g}<extra></extra>"
    look = {
        "y": names,
        "mode": "markers",
        "showlegend": False,
        "hovertemplate": hover,
        "row": 1,
        "col": 2,
    }
    hollow = {"size": 11, "symbol": "diamond-open", "color": GREY, "line": {"width": 2}}
    figure.add_scatter(x=gaussian / most, customdata=gaussian, marker=hollow, **(look | {"showlegend": True}),
                       name="the Gaussian's value")  # fmt: skip
    figure.add_scatter(
        x=value / most,
        customdata=value,
        error_x=bars,
        marker={"size": 9, "color": COLORS[0]},
        **look,
    )
    figure.update_xaxes(title="value", row=1, col=2)
    left, right = (
        float(edge(np.r_[value, gaussian] / np.r_[most, most])) for edge in (np.min, np.max)
    )
    figure.update_xaxes(range=[min(left, 0) - 0.05 * right, 1.08 * right], row=1, col=2)
    ticks = {
        "tickmode": "array",
        "tickvals": names,
        "ticktext": names,
        "tickfont_size": 11,
        "ticklabelstandoff": 4,
    }
    figure.update_yaxes(**ticks, range=[-0.6, len(names) - 0.4], automargin=True, row=1, col=2)


def _noise(figure: go.Figure, result: LatentGeometry) -> None:
    level, psnr, low, high = (
        np.array([getattr(x, f) for x in result.noise]) for f in ("level", "psnr", "low", "high")
    )
    bars = {
        "type": "data",
        "symmetric": False,
        "array": high - psnr,
        "arrayminus": psnr - low,
        "thickness": 1.5,
    }
    figure.add_scatter(
        x=level, y=psnr, error_y=bars, mode="lines+markers", line_color=COLORS[0], showlegend=False, row=1, col=3,
        hovertemplate="noise %{x:.3g}: %{y:.2f} dB<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="noise, deviations", rangemode="tozero", row=1, col=3)
    figure.update_yaxes(title="PSNR, dB", row=1, col=3)
