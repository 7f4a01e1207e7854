"""Figure of the distances between codewords, in two panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.core.counted import mean_count

if TYPE_CHECKING:
    from workbench.analysis.codebook.distances import CodeDistances

EQUAL_RATIO = 1e-3  # of the difference of distances that are drawn as equal
NUM_BINS = 40
BAR_LABELS = {
    "duplicate": "× duplicate",
    "far": "× far from used codes",
    "rare": "× expected with more tokens",
    "passed over": "× never nearest",
}


def draw(result: CodeDistances) -> go.Figure:
    """Draw histograms of the nearest-code distances, and bars of used and unused codes."""
    figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.27)
    _add_histograms(figure, result)
    _add_codes_by_cause(figure, result)
    figure.update_layout(
        title={
            "text": "Distances between codewords, and causes of unused codes",
            "subtitle": {"text": _subtitle(result)},
        },
        height=420,
        barmode="stack",
        bargap=0.25,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "traceorder": "normal"},
    )
    return apply_theme(figure)


def _add_histograms(figure: go.Figure, result: CodeDistances) -> None:
    distances = np.concatenate([codebook.distances for codebook in result.codebooks])
    is_used = np.concatenate([codebook.is_used for codebook in result.codebooks])
    low, high = float(distances.min()), float(distances.max())
    if high - low <= EQUAL_RATIO * high:  # a regular codebook: all codes in the middle of a bin
        low, high = 0.0, high * NUM_BINS / (NUM_BINS / 2 + 0.5) or 1.0
    edges = np.linspace(low, high, NUM_BINS + 1)
    used_style: dict[str, Any] = {"color": COLORS[0]}
    dead_style: dict[str, Any] = {"color": DEAD_COLOR, "pattern": {"shape": "x", "size": 5}}
    for name, mask, style in (
        ("used codes", is_used, used_style),
        ("× unused codes", ~is_used, dead_style),
    ):
        if not mask.any():
            continue
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=np.histogram(distances[mask], edges)[0],
            name=name,
            width=edges[1] - edges[0],
            marker={"line": {"width": 0}, **style},
            row=1,
            col=1,
        )
    figure.update_xaxes(title="distance to the nearest other code", row=1, col=1)
    figure.update_yaxes(title="codes", row=1, col=1)


def _add_codes_by_cause(figure: go.Figure, result: CodeDistances) -> None:
    names = ["used", *BAR_LABELS.values()]
    codes = [np.mean([codebook.used for codebook in result.codebooks])]
    codes += [
        np.mean([codebook.dead[cause] for codebook in result.codebooks]) for cause in BAR_LABELS
    ]
    figure.add_bar(
        x=codes,
        y=names,
        orientation="h",
        text=[mean_count(float(x)) for x in codes],
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        marker={"color": [COLORS[0], *[DEAD_COLOR] * len(BAR_LABELS)]},
        hovertemplate="%{y}: %{x:,.1f} codes<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="codes", range=[0, max(codes) * 1.15], row=1, col=2)
    figure.update_yaxes(
        tickmode="array",
        tickvals=names,
        ticktext=names,
        autorange="reversed",
        ticklabelstandoff=4,
        row=1,
        col=2,
    )


def _subtitle(result: CodeDistances) -> str:
    first = result.codebooks[0]
    codes = f"{first.size:,} codes"
    if len(result.codebooks) > 1:
        codes = f"{len(result.codebooks)} codebooks of {codes}, bars are means"
    subset = ""
    if first.searched < first.size:
        subset = f", {first.searched:,} drawn (seed {result.seed})"
    return f"{codes}{subset} · {result.dimensions} dimensions"
