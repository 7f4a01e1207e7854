"""Figure of spectral energy: energy by frequency, and the share of high frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.learnability.spectral_energy import QUANTILES
from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.learnability.spectral_energy import SpectralEnergy

SPECTRUM_COLORS = (COLORS[0], COLORS[1], COLORS[2])
SPECTRUM_SYMBOLS = ("circle", "square", "diamond")
GRAY = COLORS[6]


def draw(result: SpectralEnergy) -> go.Figure:
    """Draw energy by frequency on the left, and the high shares next to white noise on the right.

    Parameters
    ----------
    result : SpectralEnergy
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = make_subplots(1, 2, column_widths=[0.6, 0.4], horizontal_spacing=0.14)
    _draw_energy(figure, result)
    _draw_shares(figure, result)
    subtitle = (
        f"n = {result.sample_text(result.images)}, {result.side} × {result.side} tokens of"
        f" {result.channels} channels, scaled {result.scaling} · bars: 95 % over images"
    )
    figure.update_layout(
        title={"text": "Spectral energy", "subtitle": {"text": subtitle}},
        height=450,
        legend={"orientation": "h", "yref": "container", "y": 0.02, "yanchor": "bottom"},
    )
    return apply_theme(figure)


def _draw_energy(figure: go.Figure, result: SpectralEnergy) -> None:
    frequencies = np.arange(2 * result.side - 1)
    for i, spectrum in enumerate(result.spectra):
        figure.add_scatter(
            x=frequencies,
            y=spectrum.energy,
            mode="lines+markers",
            line_color=SPECTRUM_COLORS[i],
            marker={"symbol": SPECTRUM_SYMBOLS[i], "size": 7},
            name=f"{spectrum.name}: slope {spectrum.slope[0]:.2f}",
            legendgroup=spectrum.name,
            hovertemplate="u + v = %{x}: %{y:.3~g}<extra>" + spectrum.name + "</extra>",
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=[0, frequencies[-1]],
        y=[1, 1],
        mode="lines",
        line={"color": GRAY, "dash": "dash"},
        name="white noise: slope 0",
        hoverinfo="skip",
        row=1,
        col=1,
    )
    figure.update_xaxes(title="frequency u + v", row=1, col=1)
    figure.update_yaxes(
        title="mean energy of a cell", type="log", dtick=1, exponentformat="power", row=1, col=1
    )


def _draw_shares(figure: go.Figure, result: SpectralEnergy) -> None:
    names = [f"SEC {quantile:g}" for quantile in QUANTILES]
    middle = (len(result.spectra) - 1) / 2
    for i, spectrum in enumerate(result.spectra):
        value, low, high = 100 * spectrum.high_shares.T
        figure.add_scatter(
            x=value,
            y=np.arange(len(names)) + 0.2 * (i - middle),
            customdata=names,
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - value,
                "arrayminus": value - low,
                "thickness": 1.5,
            },
            mode="markers",
            marker={"color": SPECTRUM_COLORS[i], "symbol": SPECTRUM_SYMBOLS[i], "size": 9},
            showlegend=False,
            legendgroup=spectrum.name,
            hovertemplate="%{customdata}: %{x:.1f} %<extra>" + spectrum.name + "</extra>",
            row=1,
            col=2,
        )
    figure.add_scatter(
        x=100 * result.white_noise,
        y=np.arange(len(names)),
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 40, "color": GRAY, "line_width": 2},
        showlegend=False,
        hovertemplate="white noise: %{x:.1f} %<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="share of the energy, %", range=[0, 100], row=1, col=2)
    figure.update_yaxes(
        tickmode="array",
        tickvals=np.arange(len(names)),
        ticktext=names,
        range=[len(names) - 0.4, -0.6],
        zeroline=False,
        ticklabelstandoff=4,
        row=1,
        col=2,
    )
