"""Figure of a token budget: quality against cost, in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.tokens.metrics import QUALITY_METRICS

if TYPE_CHECKING:
    from workbench.analysis.tokens.budget import BudgetPoint, TokenBudget

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
GRAY = COLORS[6]
MAX_TICKS = 10
MAX_LABELED_RUNS = 8  # more names would cover each other; the legend has all
COST_LABELS = {
    "tokens": "tokens per image",
    "bits": "bits per image",
    "bits per pixel": "bits per pixel",
    "GMACs": "work of a generator, billions of multiply-adds (one SiT-XL pass)",
}
COST_TITLES = {
    "tokens": "token budget",
    "bits": "bits per image",
    "bits per pixel": "bits per pixel",
    "GMACs": "work of a generator",
}


def draw(result: TokenBudget) -> go.Figure:
    """Draw quality against cost, with the Pareto frontier in gray."""
    figure = go.Figure()
    _add_frontier(figure, result)
    colors = colors_of_runs((point.run for point in result.points), result.run_colors)
    for i, tokenizer in enumerate(dict.fromkeys(point.tokenizer for point in result.points)):
        points = [point for point in result.points if point.tokenizer == tokenizer]
        symbol = SYMBOLS[i % len(SYMBOLS)]
        _add_trained(figure, result, points, colors, symbol)
        _add_prefixes(figure, result, points, colors, symbol)
        _add_adaptive(figure, result, points, colors, symbol)
    # A cost of 0 cannot be drawn on a logarithmic axis.
    costs = sorted({point.cost(result.against) for point in result.points} - {0.0}) or [1.0]
    _add_floor(figure, result, costs)
    _label_axes(figure, result, costs)
    _add_title(figure, result)
    return apply_theme(figure)


def _add_frontier(figure: go.Figure, result: TokenBudget) -> None:
    points = result.frontier
    if len(points) < 2:
        return
    figure.add_scatter(
        x=[point.cost(result.against) for point in points],
        y=[point.value for point in points],
        mode="lines",
        line={"color": GRAY, "width": 7, "shape": "hv"},
        opacity=0.35,
        name="Pareto frontier",
        hoverinfo="skip",
    )


def _add_trained(
    figure: go.Figure,
    result: TokenBudget,
    points: Sequence[BudgetPoint],
    colors: Mapping[str, str],
    symbol: str,
) -> None:
    """Add the trained runs of a class, labeled with their names and joined by a gray line."""
    trained = [point for point in points if point.kind == "all tokens"]
    if len(trained) > 1:
        trained.sort(key=lambda point: point.cost(result.against))
        figure.add_scatter(
            x=[point.cost(result.against) for point in trained],
            y=[point.value for point in trained],
            mode="lines",
            line={"color": GRAY, "width": 1},
            name=trained[0].tokenizer,
            showlegend=False,
            hoverinfo="skip",
        )
    positions = _label_positions(result) if len(colors) <= MAX_LABELED_RUNS else {}
    for run, of_run in _by_run(points, "all tokens").items():
        trace = _line(of_run, result, run, colors[run], symbol, dash=None)
        if positions:
            of_labels = [positions[run, cost] for cost in trace.x]
            trace.update(mode="lines+markers+text", textposition=of_labels)
            trace.update(textfont={"color": colors[run], "size": 12}, cliponaxis=False)
        figure.add_trace(trace)


def _label_positions(result: TokenBudget) -> dict[tuple[str, float], str]:
    """Return where the name of a run is written, by run and cost.

    Of runs of one cost, the best has its name above and the worst below, so that they do not touch.
    """
    by_cost: dict[float, list[BudgetPoint]] = {}
    for point in result.points:
        if point.kind == "all tokens":
            by_cost.setdefault(point.cost(result.against), []).append(point)
    positions: dict[tuple[str, float], str] = {}
    for cost, points in by_cost.items():
        points.sort(key=lambda point: -point.value)
        names = ["top center", *["middle left"] * (len(points) - 2), "bottom center"]
        positions |= {
            (point.run, cost): name
            for point, name in zip(points, names[: len(points)], strict=True)
        }
    return positions


def _add_prefixes(
    figure: go.Figure,
    result: TokenBudget,
    points: Sequence[BudgetPoint],
    colors: Mapping[str, str],
    symbol: str,
) -> None:
    """Join the prefixes of each run by a dashed line."""
    for run, prefixes in _by_run(points, "prefix").items():
        name = f"{run}, first tokens only"
        figure.add_trace(_line(prefixes, result, name, colors[run], f"{symbol}-open", dash="dash"))


def _add_adaptive(
    figure: go.Figure,
    result: TokenBudget,
    points: Sequence[BudgetPoint],
    colors: Mapping[str, str],
    symbol: str,
) -> None:
    """Join the requests of each adaptive run by a dotted line, and those of perfect halting."""
    for run, requests in _by_run(points, "adaptive").items():
        name = f"{run}, adaptive"
        figure.add_trace(_line(requests, result, name, colors[run], f"{symbol}-dot", dash="dot"))
    for run, requests in _by_run(points, "perfect").items():
        name = f"{run}, perfect halting"
        figure.add_trace(_line(requests, result, name, GRAY, f"{symbol}-open-dot", dash="dot"))


def _by_run(points: Sequence[BudgetPoint], kind: str) -> dict[str, list[BudgetPoint]]:
    runs: dict[str, list[BudgetPoint]] = {}
    for point in points:
        if point.kind == kind:
            runs.setdefault(point.run, []).append(point)
    return runs


def _line(
    points: Sequence[BudgetPoint],
    result: TokenBudget,
    name: str,
    color: str,
    symbol: str,
    dash: str | None,
) -> go.Scatter:
    points = sorted(points, key=lambda point: point.cost(result.against))
    value = np.array([point.value for point in points])
    high = np.array([point.high for point in points])
    low = np.array([point.low for point in points])
    runs = [point.run for point in points]
    return go.Scatter(
        x=[point.cost(result.against) for point in points],
        y=value,
        text=runs,
        customdata=runs,
        meta="run",
        error_y={
            "type": "data",
            "symmetric": False,
            "array": high - value,
            "arrayminus": value - low,
            "thickness": 1.2,
        },
        hovertemplate=f"%{{text}}, %{{x:,.4~g}} {result.against}: %{{y:.4~g}}<extra></extra>",
        mode="lines+markers",
        name=name,
        marker={"color": color, "size": 9, "symbol": symbol},
        line={"color": color, "dash": dash},
    )


def _add_floor(figure: go.Figure, result: TokenBudget, costs: Sequence[float]) -> None:
    if result.floor is None:
        return
    figure.add_scatter(
        x=[costs[0], costs[-1]],
        y=[result.floor] * 2,
        mode="lines",
        line={"color": GRAY, "dash": "dash"},
        name="two sets of real images",
        hoverinfo="skip",
    )


def _label_axes(figure: go.Figure, result: TokenBudget, costs: Sequence[float]) -> None:
    figure.update_xaxes(
        title=COST_LABELS[result.against],
        type="log",
        range=[math.log10(costs[0]) - 0.08, math.log10(costs[-1]) + 0.08],
        minor_showgrid=False,
        tickangle=0,
        **_power_of_two_ticks(costs),
    )
    unit = QUALITY_METRICS[result.metric].unit
    figure.update_yaxes(title=f"{result.label}, {unit}" if unit else result.label)


def _add_title(figure: go.Figure, result: TokenBudget) -> None:
    direction = "higher" if QUALITY_METRICS[result.metric].higher_is_better else "lower"
    interval = "half-sample" if result.metric == "rfd" else "bootstrap"
    subtitle = f"n = {result.n:,} {result.image_kind} · bars: 95 % {interval} intervals"
    if result.excluded:
        subtitle += f" · runs excluded: {len(result.excluded)}"
    subtitle += f" · {direction} is better, further left is cheaper"
    figure.update_layout(
        title={
            "text": f"Reconstruction quality by {COST_TITLES[result.against]}",
            "subtitle": {"text": subtitle},
        },
        height=480,
        showlegend=True,
        legend={"orientation": "h", "y": -0.24, "yanchor": "top"},
    )


def _power_of_two_ticks(costs: Sequence[float]) -> dict[str, Any]:
    low = math.floor(math.log2(costs[0]))
    high = math.ceil(math.log2(costs[-1]))
    step = -(-(high - low + 1) // MAX_TICKS)
    values = [2.0**i for i in range(low, high + 1, step)]
    return {"tickvals": values, "ticktext": [f"{value:,.4g}" for value in values]}
