"""Figure of runs compared on the same images, in two panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.run_colors import colors_of_runs, dot
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.runs.metrics import METRICS

if TYPE_CHECKING:
    from workbench.analysis.runs.metrics import MetricComparison

VERDICT_SYMBOLS = {"better": "triangle-up", "worse": "triangle-down", "undecided": "circle-open"}
VERDICT_COLORS = {"better": COLORS[0], "worse": COLORS[5], "undecided": COLORS[6]}
ROW_HEIGHT_PX = 56
MIN_LABELED_PERCENT = 8  # narrower bars have no room for their number


def draw(result: MetricComparison) -> go.Figure:
    """Draw mean differences on the left, and fractions of images by outcome on the right."""
    figure = make_subplots(
        1, 2, column_widths=[0.58, 0.42], horizontal_spacing=0.05, shared_yaxes=True
    )
    runs = [d.run for d in result.differences]
    colors = colors_of_runs([result.reference, *runs], result.run_colors)
    names = [
        f"{dot(colors[d.run])} {d.run}<br><sub>{d.verdict}</sub>" for d in result.differences[::-1]
    ]
    _add_differences(figure, result, names)
    _add_outcomes(figure, result, names)
    info = METRICS[result.metric]
    side = "right" if info.higher_is_better else "left"
    subtitle = (
        f"n = {result.n:,} paired images · bars: 95 % bootstrap intervals"
        f" · {side} of the line is better"
    )
    if result.excluded:
        subtitle += f" · runs excluded: {len(result.excluded)}"
    figure.update_layout(
        title={
            "text": f"{result.name[0].upper()}{result.name[1:]} compared with {result.reference}",
            "subtitle": {"text": subtitle},
        },
        barmode="stack",
        height=250 + ROW_HEIGHT_PX * len(names),
        # The legend is placed below the titles of the axes.
        legend={"orientation": "h", "yref": "container", "y": 0.02, "yanchor": "bottom"},
    )
    figure.update_yaxes(
        title="",
        tickmode="array",
        tickvals=names,
        ticktext=names,
        automargin=True,
        range=[-0.6, len(names) - 0.4],
    )
    return apply_theme(figure)


def _add_differences(figure: go.Figure, result: MetricComparison, names: list[str]) -> None:
    differences = result.differences[::-1]
    value = np.array([d.difference for d in differences])
    high = np.array([d.high for d in differences])
    low = np.array([d.low for d in differences])
    figure.add_scatter(
        x=value,
        y=names,
        mode="markers",
        showlegend=False,
        hovertemplate="%{x:+.4~g}<extra>%{y}</extra>",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": high - value,
            "arrayminus": value - low,
            "color": COLORS[6],
        },
        marker={
            "size": 10,
            "symbol": [VERDICT_SYMBOLS[d.verdict] for d in differences],
            "color": [VERDICT_COLORS[d.verdict] for d in differences],
        },
        row=1,
        col=1,
    )
    figure.add_vline(x=0, line={"color": COLORS[6], "dash": "dash"}, row=1, col=1)
    figure.update_xaxes(
        title=f"{result.label}: difference to {result.reference}", zeroline=False, row=1, col=1
    )


def _add_outcomes(figure: go.Figure, result: MetricComparison, names: list[str]) -> None:
    differences = result.differences[::-1]
    for outcome, counts, color, pattern, text_color in (
        ("better", [d.better for d in differences], COLORS[0], "", "white"),
        ("tied", [d.tied for d in differences], COLORS[6], ".", "black"),
        ("worse", [d.worse for d in differences], COLORS[5], "/", "black"),
    ):
        percent = [100 * count / result.n for count in counts]
        figure.add_bar(
            x=percent,
            y=names,
            name=outcome if outcome == "tied" else f"{outcome} than {result.reference}",
            orientation="h",
            marker={"color": color, "pattern": {"shape": pattern, "solidity": 0.1}},
            width=0.5,
            text=[f"{p:.0f} %" if p >= MIN_LABELED_PERCENT else "" for p in percent],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont_color=text_color,
            textangle=0,
            hovertemplate=f"{outcome} on %{{x:.1f}} %<extra>%{{y}}</extra>",
            row=1,
            col=2,
        )
    figure.update_xaxes(title="images, %", range=[0, 100], row=1, col=2)
