"""Figure of the published tokenizers: gFID against iFID, with the line and the runs on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from scipy.special import stdtrit

from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.runs.expectation import published_fit
from workbench.core.counted import counted
from workbench.storage.calibration import REGIME, CalibrationTokenizer

if TYPE_CHECKING:
    from workbench.analysis.runs.generation_prediction import GenerationPrediction

NUM_POINTS = 40  # of the line
TICKS = (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
PUBLISHED_COLOR = COLORS[6]  # gray: the other colors are those of runs
CLOSE = 0.2  # of two points whose labels would overlap, in units of log iFID and log gFID
SYMBOLS = {"grid": "square", "one-dimensional": "circle"}


def draw(result: GenerationPrediction) -> go.Figure:
    """Draw gFID against iFID on logarithmic axes, the line, and the runs that can be placed.

    Parameters
    ----------
    result : GenerationPrediction
        The result to draw.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = go.Figure()
    _add_line(figure)
    for latents, symbol in SYMBOLS.items():
        tokenizers = [t for t in result.tokenizers if t.latents == latents]
        figure.add_scatter(
            x=[t.ifid for t in tokenizers],
            y=[t.gfid_xl for t in tokenizers],
            mode="markers+text",
            text=[t.name for t in tokenizers],
            textposition=_positions(tokenizers),
            textfont={"size": 11},
            marker={"symbol": symbol, "size": 9, "color": PUBLISHED_COLOR},
            name=f"published, {latents} latents",
            hovertemplate="%{text}: iFID %{x}, gFID %{y}<extra></extra>",
        )
    placed = [p for p in result.placements if p.has_place]
    if placed:
        colors = colors_of_runs([p.run for p in placed], result.run_colors)
        figure.add_scatter(
            x=[p.ifid for p in placed],
            y=[p.expected for p in placed],
            error_y={
                "type": "data",
                "array": [p.high - p.expected for p in placed],
                "arrayminus": [p.expected - p.low for p in placed],
            },
            mode="markers+text",
            text=[p.run for p in placed],
            textposition="bottom center",
            marker={"symbol": "diamond", "size": 12, "color": [colors[p.run] for p in placed]},
            name="runs, expected",
        )
    num_without = sum(bool(p.differences) for p in result.placements)
    subtitle = f"n = {len(result.tokenizers)} published tokenizers"
    if num_without:
        runs = counted(num_without, "run")
        subtitle += f" · {runs} without an iFID of the published protocol not shown"
    num_outside = len(result.placements) - len(placed) - num_without
    if num_outside:
        runs = counted(num_outside, "run is", "runs are")
        subtitle += f" · {runs} outside the range of the table and not shown"
    subtitle += f"<br>{REGIME}"
    ticks = {"type": "log", "tickvals": TICKS, "ticktext": [f"{tick:g}" for tick in TICKS]}
    figure.update_xaxes(title="iFID (lower is better)", **ticks)
    figure.update_yaxes(title="gFID of SiT-XL (lower is better)", **ticks)
    figure.update_layout(
        title={"text": "Runs among published tokenizers", "subtitle": {"text": subtitle}},
        height=560,
        margin={"t": 84},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top"},
    )
    return apply_theme(figure)


def _positions(tokenizers: Sequence[CalibrationTokenizer]) -> list[str]:
    """Return the side of each point that its label is on: below if another one is just above."""
    points = np.log([[t.ifid, t.gfid_xl] for t in tokenizers])
    positions = []
    for point in points:
        shifts = points - point
        is_close = (np.abs(shifts) < CLOSE).all(axis=1) & (shifts[:, 1] > 0)
        positions.append("bottom center" if is_close.any() else "top center")
    return positions


def _add_line(figure: go.Figure) -> None:
    """Draw the line with the 95 % interval of a new tokenizer."""
    fit = published_fit()
    x = np.linspace(fit.x.min(), fit.x.max(), NUM_POINTS)
    margin = stdtrit(fit.n - 2, 0.975) * fit.prediction_deviation(x)
    center = fit.predict(x)
    figure.add_scatter(
        x=np.exp(np.concatenate([x, x[::-1]])),
        y=np.exp(np.concatenate([center + margin, (center - margin)[::-1]])),
        fill="toself",
        fillcolor="rgba(127,127,127,0.15)",
        line={"width": 0},
        hoverinfo="skip",
        name="95 % of new tokenizers",
    )
    figure.add_scatter(
        x=np.exp(x),
        y=np.exp(center),
        mode="lines",
        line={"color": COLORS[6], "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
