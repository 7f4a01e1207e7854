"""Figure of the irreducible variance of the velocity: over time, by direction, and its shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.learnability.velocity_variance import (
    BY_CLASS,
    LABEL_FREE,
    LABEL_FREE_FULL,
    POOLED,
    white_noise_curve,
)
from workbench.analysis.plotting.style import COLORS, apply_theme

if TYPE_CHECKING:
    from workbench.analysis.learnability.flow_loss import FlowLoss
    from workbench.analysis.learnability.velocity_variance import VelocityVariance

LINES = {
    BY_CLASS: {"color": COLORS[0]},
    POOLED: {"color": COLORS[2], "dash": "dot"},
    LABEL_FREE: {"color": COLORS[1], "dash": "dash"},
    LABEL_FREE_FULL: {"color": COLORS[3], "dash": "longdash"},
}
WHITE_NOISE_LINE = {"color": COLORS[6], "dash": "dashdot"}
BAND_COLOR = "rgba(0,114,178,0.2)"
EXCESS_COLOR = "rgba(213,94,0,0.2)"
SHARE_COLORS = {"position": COLORS[6], "class": COLORS[1], "within": COLORS[0]}
TEXT_COLORS = {"position": "white", "class": "black", "within": "white"}
MIN_LABELED_PERCENT = 6  # narrower parts of the bar have no room for their number


def draw(result: VelocityVariance) -> go.Figure:
    """Draw the variance over time, the square roots of the spectra, and the shares.

    Parameters
    ----------
    result : VelocityVariance
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = make_subplots(1, 3, column_widths=[0.47, 0.37, 0.16], horizontal_spacing=0.1)
    _draw_curves(figure, result)
    _draw_spectra(figure, result)
    _draw_shares(figure, result)
    scale = f"scaled {result.scaling}" + (
        ", position means removed" if result.center_positions else ""
    )
    subtitle = (
        f"n = {result.sample_text(result.images)},"
        f" {result.tokens} tokens of {result.channels} channels, {scale}"
        " · comparable at equal dimensions per image and estimator"
    )
    figure.update_layout(
        title={"text": "Velocity irreducible variance", "subtitle": {"text": subtitle}},
        height=470,
        barmode="stack",
        legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
    )
    return apply_theme(figure)


def _draw_curves(figure: go.Figure, result: VelocityVariance) -> None:
    times = result.times
    if len(result.class_low):
        figure.add_scatter(
            x=np.concatenate([times, times[::-1]]),
            y=np.concatenate([result.class_high, result.class_low[::-1]]),
            fill="toself",
            fillcolor=BAND_COLOR,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            name="10 to 90 % of classes",
            row=1,
            col=1,
        )
    for estimate in result.estimates:
        by_class = estimate.name == BY_CLASS
        figure.add_scatter(
            x=times,
            y=result.class_curve if by_class else estimate.spectrum.at(times),
            mode="lines",
            line=LINES[estimate.name],
            name=f"{estimate.name}: {estimate.value:.3g}",
            legendgroup=estimate.name,
            hovertemplate="t = %{x:.2f}: %{y:.3f}<extra>" + estimate.name + "</extra>",
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=times,
        y=white_noise_curve(times),
        mode="lines",
        line=WHITE_NOISE_LINE,
        name="white noise: 1.57",
        hovertemplate="t = %{x:.2f}: %{y:.3f}<extra>white noise</extra>",
        row=1,
        col=1,
    )
    if result.flow is not None:
        _draw_flow(figure, result.flow)
    figure.update_xaxes(title="time (0 is data, 1 is noise)", range=[0, 1], row=1, col=1)
    figure.update_yaxes(title="irreducible variance per number", rangemode="tozero", row=1, col=1)


def _draw_flow(figure: go.Figure, flow: FlowLoss) -> None:
    """Draw the loss of the flow, the curve at its scale, and the area between it and a bound."""
    figure.add_scatter(
        x=flow.times,
        y=flow.irreducible,
        mode="lines",
        line={"color": COLORS[5], "dash": "dot", "width": 1},
        name=f"{flow.bound_name}, at the scale of {flow.run}: {flow.bound:.3g}",
        hovertemplate="t = %{x:.2f}: %{y:.3f}<extra>" + flow.bound_name + "</extra>",
        row=1,
        col=1,
    )
    excess = f" ({flow.mean_loss - flow.bound:+.3g})" if flow.is_bound else ""
    figure.add_scatter(
        x=flow.times,
        y=flow.loss,
        mode="lines+markers",
        fill="tonexty" if flow.is_bound else "none",
        fillcolor=EXCESS_COLOR,
        line={"color": COLORS[5]},
        name=f"loss of {flow.run}: {flow.mean_loss:.3g}{excess}",
        hovertemplate="t = %{x:.2f}: %{y:.3f}<extra>" + flow.run + "</extra>",
        row=1,
        col=1,
    )


def _draw_spectra(figure: go.Figure, result: VelocityVariance) -> None:
    for estimate in result.estimates:
        roots = np.sqrt(estimate.spectrum.eigenvalues)
        figure.add_scatter(
            x=np.arange(1, len(roots) + 1),
            y=roots,
            mode="lines",
            line=LINES[estimate.name],
            showlegend=False,
            legendgroup=estimate.name,
            hovertemplate="direction %{x}: %{y:.3f}<extra>" + estimate.name + "</extra>",
            row=1,
            col=2,
        )
    figure.add_scatter(
        x=[1, result.dimensions],
        y=[1, 1],
        mode="lines",
        line=WHITE_NOISE_LINE,
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="direction", row=1, col=2)
    figure.update_yaxes(title="standard deviation", rangemode="tozero", row=1, col=2)


def _draw_shares(figure: go.Figure, result: VelocityVariance) -> None:
    shares = result.shares
    values = {"within": shares.within, "class": shares.class_, "position": shares.position}
    for name, value in values.items():
        if np.isnan(value):
            continue
        percent = 100 * value
        figure.add_bar(
            x=[""],
            y=[percent],
            marker_color=SHARE_COLORS[name],
            text=[f"{name}<br>{percent:.0f} %" if percent >= MIN_LABELED_PERCENT else ""],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont_color=TEXT_COLORS[name],
            showlegend=False,
            hovertemplate=name + ": %{y:.1f} %<extra></extra>",
            row=1,
            col=3,
        )
    figure.update_xaxes(showticklabels=False, row=1, col=3)
    figure.update_yaxes(title="share of the variance, %", range=[0, 100], row=1, col=3)
