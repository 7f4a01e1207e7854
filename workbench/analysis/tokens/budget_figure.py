"""The picture of a token budget: quality against cost, one panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.tokens.metrics import QUALITY_METRICS

if TYPE_CHECKING:
    from workbench.analysis.tokens.budget import Point, TokenBudget

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
COSTS = {
    "tokens": "tokens an image",
    "bits": "bits an image",
    "bits per pixel": "bits per pixel",
    "GMACs": "generator's work, billions of multiply-adds (one SiT-XL pass)",
}
# How the points of one run are joined, and what the legend calls them.
LOOKS = {
    "prefix": ({"marker_symbol": "{}-open", "line_dash": "dash"}, "{}, its first tokens"),
    "adaptive": ({"marker_symbol": "{}-dot", "line_dash": "dot"}, "{}, adaptive"),
}


def draw(result: TokenBudget) -> go.Figure:
    """Trained runs of a class joined by a line, a run's prefixes dashed, its requests dotted; the frontier grey."""
    figure, against = go.Figure(), result.against
    best = result.frontier
    if len(best) > 1:
        line = {"color": COLORS[6], "width": 7, "shape": "hv"}
        x, y = [p.cost(against) for p in best], [p.value for p in best]
        figure.add_scatter(
            x=x, y=y, mode="lines", line=line, opacity=0.35, name="frontier", hoverinfo="skip"
        )
    for i, name in enumerate(dict.fromkeys(p.tokenizer for p in result.points)):
        look = {"marker": {"color": COLORS[i % 6], "size": 9}, "line_color": COLORS[i % 6]}
        symbol = SYMBOLS[i % 6]
        mine = [p for p in result.points if p.tokenizer == name]
        trained = [p for p in mine if p.kind == "trained"]
        if trained:
            figure.add_trace(_line(trained, result, name=name, marker_symbol=symbol, **look))
        for kind, (own, label) in LOOKS.items():
            for run in dict.fromkeys(p.run for p in mine if p.kind == kind):
                points = [p for p in mine if p.kind == kind and p.run == run]
                own = {key: text.format(symbol) for key, text in own.items()}
                figure.add_trace(_line(points, result, name=label.format(run), **look, **own))
    costs = sorted({p.cost(against) for p in result.points} - {0.0}) or [
        1.0
    ]  # 0 has no place on a log axis
    if result.floor is not None:
        line = {"color": COLORS[6], "dash": "dash"}
        x, y = [costs[0], costs[-1]], [result.floor] * 2
        figure.add_scatter(
            x=x, y=y, mode="lines", line=line, name="two sets of real images", hoverinfo="skip"
        )
    ends = [math.log10(costs[0]) - 0.08, math.log10(costs[-1]) + 0.08]
    figure.update_xaxes(
        title=COSTS[against],
        type="log",
        range=ends,
        minor_showgrid=False,
        tickangle=0,
        **_ticks(costs),
    )
    _, unit, rises = QUALITY_METRICS[result.metric]
    figure.update_yaxes(title=f"{result.label}, {unit}" if unit else result.label)
    left = len(result.left_out) + len(result.unmeasured) + len(result.priceless)
    kind = "half-sample" if result.metric == "rfd" else "bootstrap"
    said = f"n = {result.n:,} held-out images · bars: 95 % {kind} intervals"
    said += f" · runs left out: {left}" if left else ""
    title = {
        "text": f"Token budget, {'higher' if rises else 'lower'} is better",
        "subtitle": {"text": said},
    }
    figure.update_layout(title=title, height=480, showlegend=True)
    return apply_theme(
        figure.update_layout(legend={"orientation": "h", "y": -0.24, "yanchor": "top"})
    )


def _ticks(costs: Sequence[float]) -> dict[str, list]:
    """Powers of two around the costs, about ten at most."""
    low, high = math.floor(math.log2(costs[0])), math.ceil(math.log2(costs[-1]))
    step = -(-(high - low + 1) // 10)
    values = [2.0**i for i in range(low, high + 1, step)]
    return {"tickvals": values, "ticktext": [f"{v:,.4g}" for v in values]}


def _line(points: Sequence[Point], result: TokenBudget, **look: object) -> go.Scatter:
    points = sorted(points, key=lambda p: p.cost(result.against))
    value = np.array([p.value for p in points])
    up, down = np.array([p.high for p in points]) - value, value - np.array([p.low for p in points])
    hover = f"%{{text}}, %{{x:,.4g}} {result.against}: %{{y:.4g}}<extra></extra>"
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2}
    return go.Scatter(
        x=[p.cost(result.against) for p in points], y=value, text=[p.run for p in points],
        customdata=[p.run for p in points], meta="run",
        error_y=bars, hovertemplate=hover, mode="lines+markers", **look,
    )  # fmt: skip
