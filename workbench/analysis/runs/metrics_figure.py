"""The picture of runs compared on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.runs.metrics import METRICS

if TYPE_CHECKING:
    from workbench.analysis.runs.metrics import MetricComparison

SYMBOLS = {"better": "triangle-up", "worse": "triangle-down", "undecided": "circle-open"}
HUES = {"better": COLORS[0], "worse": COLORS[5], "undecided": COLORS[6]}


def draw(result: MetricComparison) -> go.Figure:
    """Mean differences at the left, and at the right on how many of the images a run is better."""
    figure = make_subplots(
        1, 2, column_widths=[0.58, 0.42], horizontal_spacing=0.05, shared_yaxes=True
    )
    shown = result.differences[::-1]
    names = [f"{d.run}<br><sub>{d.verdict}</sub>" for d in shown]
    _differences(figure, result, names)
    _images(figure, result, names)
    side = "right" if METRICS[result.metric][2] else "left"
    said = f"n = {result.n:,} paired images · bars: 95 % bootstrap intervals · {side} of the line is better"
    left = f" · left out: {len(result.left_out)}" if result.left_out else ""
    title = f"Compared with {result.reference}: {METRICS[result.metric][0]}"
    figure.update_layout(title={"text": title, "subtitle": {"text": said + left}}, barmode="stack")
    legend = {
        "orientation": "h",
        "yref": "container",
        "y": 0.02,
        "yanchor": "bottom",
    }  # below the axes' titles
    figure.update_layout(height=250 + 56 * len(shown), legend=legend)
    figure.update_yaxes(tickmode="array", tickvals=names, ticktext=names, automargin=True)
    figure.update_yaxes(title="", range=[-0.6, len(names) - 0.4])
    return apply_theme(figure)


def _differences(figure: go.Figure, result: MetricComparison, names: list[str]) -> None:
    shown = result.differences[::-1]
    value = np.array([d.difference for d in shown])
    up, down = np.array([d.high for d in shown]) - value, value - np.array([d.low for d in shown])
    figure.add_scatter(
        x=value, y=names, mode="markers", showlegend=False, hovertemplate="%{x:+.4g}<extra>%{y}</extra>",
        error_x={"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": COLORS[6]},
        marker={"size": 10, "symbol": [SYMBOLS[d.verdict] for d in shown], "color": [HUES[d.verdict] for d in shown]},
        row=1, col=1,
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": COLORS[6], "dash": "dash"}, row=1, col=1)
    figure.update_xaxes(
        title=f"{result.label}: less {result.reference}'s", zeroline=False, row=1, col=1
    )


def _images(figure: go.Figure, result: MetricComparison, names: list[str]) -> None:
    shown = result.differences[::-1]
    kinds = (
        ("better", COLORS[0], "", "white"),
        ("tied", COLORS[6], ".", "black"),
        ("worse", COLORS[5], "/", "black"),
    )
    for kind, colour, pattern, ink in kinds:
        share = [100 * getattr(d, kind) / result.n for d in shown]
        figure.add_bar(
            x=share, y=names, name=f"{kind} than {result.reference}" if kind != "tied" else kind, orientation="h",
            marker={"color": colour, "pattern": {"shape": pattern, "solidity": 0.1}}, width=0.5,
            text=[f"{s:.0f} %" if s >= 8 else "" for s in share], textposition="inside", insidetextanchor="middle",
            insidetextfont_color=ink,
            textangle=0, hovertemplate=f"{kind} on %{{x:.1f}} %<extra>%{{y}}</extra>", row=1, col=2,
        )  # fmt: skip
    figure.update_xaxes(title="images, %", range=[0, 100], row=1, col=2)
