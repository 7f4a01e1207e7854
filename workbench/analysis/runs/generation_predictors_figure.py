"""Figure of the correlation of diagnostics with the quality of generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.analysis.runs.diagnostics import BY_NAME
from workbench.core.counted import counted

if TYPE_CHECKING:
    from workbench.analysis.runs.generation_predictors import (
        DiagnosticCorrelation,
        GenerationPredictors,
    )

# Row and column of the panels of the best diagnostics.
PANELS = ((1, 2), (1, 3), (2, 2), (2, 3))
MAX_LABELED_POINTS = 6  # more names of tokenizers would overlap
MIN_HEIGHT_PX = 560
ROW_HEIGHT_PX = 26
GRAY = COLORS[6]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "star")  # of families
REFERENCE_COLOR = COLORS[2]


def draw(result: GenerationPredictors) -> go.Figure:
    """Draw the ranking of diagnostics, and the best four against the generation distance."""
    panels: list[dict[str, Any] | None] = [
        {} if i < result.num_diagnostics else None for i in range(len(PANELS))
    ]
    figure = make_subplots(
        2,
        3,
        specs=[[{"rowspan": 2}, *panels[:2]], [None, *panels[2:]]],
        column_widths=[0.4, 0.3, 0.3],
        horizontal_spacing=0.08,
        vertical_spacing=0.24,
    )
    _add_ranking(figure, result)
    for index, (row, column) in enumerate(PANELS[: result.num_diagnostics]):
        _add_panel(figure, result, index, row, column)
    title = (
        f"Predictors of generation: {len(result.significant)} of {result.num_diagnostics}"
        " diagnostics beyond chance"
    )
    num_families = counted(len(set(result.families)), "family", "families")
    subtitle = (
        f"n = {result.n} tokenizers of {num_families} · {result.metric} of {result.images:,} images"
        f" · bars: 95 % intervals · seed {result.seed}"
    )
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        height=max(MIN_HEIGHT_PX, 180 + ROW_HEIGHT_PX * result.num_diagnostics),
        legend={"orientation": "h", "y": -0.14, "yanchor": "top"},
        showlegend=True,
    )
    return apply_theme(figure)


def _add_ranking(figure: go.Figure, result: GenerationPredictors) -> None:
    correlations = result.correlations[::-1]
    _add_chance_band(figure, result)
    significant = [c for c in correlations if c.significant]
    insignificant = [c for c in correlations if not c.significant]
    _add_correlations(figure, significant, "beyond chance", "circle", COLORS[0])
    _add_correlations(figure, insignificant, "not beyond chance", "circle-open", GRAY)
    _add_families(figure, result)
    names = [c.diagnostic for c in correlations]
    figure.update_xaxes(
        title=f"Spearman with {result.metric} (< 0: more is better)",
        range=[-1.06, 1.06],
        row=1,
        col=1,
    )
    figure.update_yaxes(
        title="",
        range=[-0.7, len(names) - 0.3],
        type="category",
        categoryorder="array",
        categoryarray=names,
        tickmode="array",
        tickvals=names,
        ticktext=names,
        automargin=True,
        row=1,
        col=1,
    )


def _add_families(figure: go.Figure, result: GenerationPredictors) -> None:
    """Explain the symbols of the panels, if there are several families."""
    names = tuple(dict.fromkeys(result.families))
    if len(names) == 1:
        return
    for index, name in enumerate(names):
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"symbol": f"{SYMBOLS[index % len(SYMBOLS)]}-open", "size": 8, "color": GRAY},
            name=f"tokenizers: {name}",
            row=1,
            col=1,
        )


def _add_chance_band(figure: go.Figure, result: GenerationPredictors) -> None:
    # A rectangle has no entry in the legend, so an empty trace provides it.
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": "square", "size": 12, "color": GRAY, "opacity": 0.4},
        name=f"best of {result.num_diagnostics} by chance, 95 %",
        row=1,
        col=1,
    )
    figure.add_vrect(
        x0=-result.chance,
        x1=result.chance,
        fillcolor=GRAY,
        opacity=0.18,
        line_width=0,
        layer="below",
        row=1,
        col=1,
    )


def _add_correlations(
    figure: go.Figure,
    correlations: list[DiagnosticCorrelation],
    name: str,
    symbol: str,
    color: str,
) -> None:
    value = np.array([c.spearman for c in correlations])
    high = np.array([c.high for c in correlations])
    low = np.array([c.low for c in correlations])
    figure.add_scatter(
        x=value,
        y=[c.diagnostic for c in correlations],
        mode="markers",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": high - value,
            "arrayminus": value - low,
            "thickness": 1.4,
        },
        marker={
            "symbol": symbol,
            "size": 10,
            "color": color,
            "line": {"width": 2, "color": color},
        },
        customdata=[(c.kendall, c.p, c.adjusted) for c in correlations],
        name=name,
        hovertemplate=(
            "%{x:+.2f}, Kendall %{customdata[0]:+.2f}<br>p = %{customdata[1]:.3~g}, adjusted"
            " %{customdata[2]:.3~g}<extra>%{y}</extra>"
        ),
        row=1,
        col=1,
    )


def _add_panel(
    figure: go.Figure, result: GenerationPredictors, index: int, row: int, column: int
) -> None:
    """Draw one diagnostic against the generation distance, one point per tokenizer."""
    correlation = result.correlations[index]
    value = np.array([d.value for d in result.distances])
    high = np.array([d.high for d in result.distances])
    low = np.array([d.low for d in result.distances])
    names = list(dict.fromkeys(result.families))
    suffix = "" if correlation.significant else "-open"
    symbols = [SYMBOLS[names.index(name) % len(SYMBOLS)] + suffix for name in result.families]
    has_labels = result.n <= MAX_LABELED_POINTS
    figure.add_scatter(
        x=result.values[:, index],
        y=value,
        mode="markers+text" if has_labels else "markers",
        text=[d.run for d in result.distances],
        textposition="top center",
        textfont_size=10,
        showlegend=False,
        cliponaxis=False,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": high - value,
            "arrayminus": value - low,
            "thickness": 1.2,
        },
        marker={
            "size": 8,
            "color": COLORS[0] if correlation.significant else GRAY,
            "symbol": symbols,
        },
        customdata=result.families,
        hovertemplate="%{text}: %{x:.4~g}, %{y:.4~g}<br>%{customdata}<extra></extra>",
        row=row,
        col=column,
    )
    figure.add_scatter(
        x=result.values[:, index],
        y=[d.class_gaussians for d in result.distances],
        mode="markers",
        marker={
            "symbol": "line-ew",
            "size": 14,
            "line": {"width": 2, "color": REFERENCE_COLOR},
        },
        name="class Gaussians, no training",
        legendgroup="class Gaussians",
        showlegend=index == 0
        and bool(np.isfinite([d.class_gaussians for d in result.distances]).any()),
        hovertemplate="%{y:.4~g}<extra>class Gaussians</extra>",
        row=row,
        col=column,
    )
    title = (
        f"{correlation.diagnostic} ({correlation.spearman:+.2f})"
        f"<br><sub>{BY_NAME[correlation.diagnostic].meaning}</sub>"
    )
    figure.update_xaxes(title={"text": title, "font_size": 12}, nticks=4, row=row, col=column)
    figure.update_yaxes(title=result.metric, nticks=5, row=row, col=column)
