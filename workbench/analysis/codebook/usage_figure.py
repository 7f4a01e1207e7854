"""Figure of a codebook's usage, in three panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import betaincinv

from workbench.analysis.codebook.uniform_usage import uniform_counts
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, MAGNITUDE_SCALE, apply_theme
from workbench.core.counted import mean_count

if TYPE_CHECKING:
    from workbench.analysis.codebook.usage import CodebookStats, CodebookUsage

MAX_CELLS = 4096  # a larger codebook is drawn with several codes per cell
MAX_CELLS_PER_ROW = 256  # the same for one row per codebook
MAX_LINES = 6  # codebooks drawn as lines; the table contains all of them
GRAY = COLORS[6]
# Verdicts that are marked in the title, with their symbols; a color is never the only mark.
VERDICT_SYMBOLS = {"collapsed": "✖", "borderline": "▲", "uneven": "▲"}


def draw(result: CodebookUsage) -> go.Figure:
    """Draw frequency by rank, codes by tokens, and the codebook as a grid."""
    figure = make_subplots(
        rows=1, cols=3, column_widths=[0.34, 0.34, 0.32], horizontal_spacing=0.12
    )
    first = result.codebooks[0]
    _add_uniform_band(figure, first, result.log)
    _add_zipf_law(figure, first)
    for i, codebook in enumerate(result.codebooks[:MAX_LINES]):
        name = f"codebook {i}" if len(result.codebooks) > 1 else "this tokenizer"
        _add_codebook_lines(figure, codebook, name, COLORS[i])
    if len(result.codebooks) == 1:
        _add_chao1(figure, first)
    figure.add_scatter(
        x=first.token_counts,
        y=first.rarefaction_uniform,
        mode=_line_mode(first),
        name="uniform usage",
        line={"color": GRAY, "dash": "dash"},
        row=1,
        col=2,
    )
    _add_grid(figure, result.codebooks)
    _label_panels(figure, result)
    _add_title(figure, result)
    return apply_theme(figure)


def _add_codebook_lines(figure: go.Figure, codebook: CodebookStats, name: str, color: str) -> None:
    rank = _thinned_ranks(codebook.size)
    style = {"line_color": color, "name": name, "legendgroup": name}
    figure.add_scatter(
        x=rank,
        y=np.sort(codebook.counts)[::-1][rank - 1],
        showlegend=False,
        row=1,
        col=1,
        **style,
    )
    figure.add_scatter(
        x=codebook.token_counts,
        y=codebook.rarefaction,
        mode=_line_mode(codebook),
        row=1,
        col=2,
        **style,
    )


def _add_uniform_band(figure: go.Figure, codebook: CodebookStats, log: bool) -> None:
    """Draw the 95 % band of a uniform source at each rank, from binomial order statistics."""
    rank = _thinned_ranks(codebook.size)
    counts, probability = uniform_counts(codebook.size, codebook.tokens)
    cumulative = probability.cumsum()
    cumulative[-1] = 1
    low, high = (
        counts[np.searchsorted(cumulative, betaincinv(codebook.size - rank + 1, rank, q))]
        for q in (0.025, 0.975)
    )
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=rank, y=high, showlegend=False, row=1, col=1, **edge)
    figure.add_scatter(
        x=rank,
        y=low,
        showlegend=True,
        name="uniform usage, 95 %",
        fill="tonexty",
        fillcolor="rgba(127,127,127,0.45)",
        row=1,
        col=1,
        **edge,
    )
    kind = "log" if log else "linear"
    figure.update_xaxes(title="rank of the code", type=kind, row=1, col=1)
    figure.update_yaxes(title="tokens per code", type=kind, row=1, col=1)
    if log:
        top = np.log10(max(codebook.counts.max(), high.max(), 2))
        figure.update_yaxes(range=[-0.1, top * 1.05 + 0.05], dtick=1, row=1, col=1)
        figure.update_xaxes(dtick=1, tickangle=0, row=1, col=1)


def _add_zipf_law(figure: go.Figure, codebook: CodebookStats) -> None:
    """Draw the fitted law over the ranks of the fit, scaled to the tokens there."""
    fit = codebook.zipf
    if np.isnan(fit.exponent):
        return
    rank = np.unique(np.geomspace(fit.low, fit.high, 50).round())
    law = np.arange(fit.low, fit.high + 1.0) ** -fit.exponent
    tokens = np.sort(codebook.counts)[::-1][fit.low - 1 : fit.high].sum()
    figure.add_scatter(
        x=rank,
        y=tokens * rank**-fit.exponent / law.sum(),
        mode="lines",
        name=f"Zipf fit, exponent {fit.exponent:.2f}",
        line={"color": COLORS[1], "dash": "dash", "width": 3},
        row=1,
        col=1,
    )


def _add_chao1(figure: go.Figure, codebook: CodebookStats) -> None:
    """Draw the estimate as a line and its interval as a band."""
    ends = codebook.token_counts[[0, -1]]
    figure.add_scatter(
        x=np.concatenate([ends, ends[::-1]]),
        y=np.repeat([codebook.chao1_low, codebook.chao1_high], 2),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor="rgba(0,114,178,0.2)",
        name="reachable codes, 95 %",
        hoverinfo="skip",
        row=1,
        col=2,
    )
    figure.add_scatter(
        x=ends,
        y=[codebook.chao1] * 2,
        mode="lines",
        name="reachable codes (Chao1)",
        line={"color": COLORS[0], "dash": "dot"},
        row=1,
        col=2,
    )


def _add_grid(figure: go.Figure, codebooks: tuple[CodebookStats, ...]) -> None:
    """Draw the mean count of each cell of codes, and mark the cells without tokens."""
    mean, first_code = _cells(codebooks)
    has_code_per_cell = len(codebooks) == 1 and codebooks[0].size <= MAX_CELLS
    figure.add_heatmap(
        meta="code" if has_code_per_cell else None,
        z=np.log10(1 + mean),
        customdata=np.stack([first_code, mean], axis=-1),
        colorscale=MAGNITUDE_SCALE,
        hovertemplate="code %{customdata[0]}: %{customdata[1]:,.1f} tokens<extra></extra>",
        colorbar={"title": "tokens", **_log_ticks(np.nanmax(mean)), "thickness": 12},
        row=1,
        col=3,
    )
    unused = np.argwhere(mean == 0)
    cell_size = 160 / max(mean.shape)
    figure.add_scatter(
        x=unused[:, 1],
        y=unused[:, 0],
        mode="markers",
        marker={
            "symbol": "x-thin",
            "size": float(np.clip(cell_size, 2, 10)),
            "line": {"color": DEAD_COLOR, "width": 1.5},
        },
        name="unused",
        hoverinfo="skip",
        row=1,
        col=3,
    )
    if has_code_per_cell:
        _add_frames(figure, mean, first_code, float(np.clip(1.3 * cell_size, 4, 14)))


def _cells(codebooks: tuple[CodebookStats, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean count and the first code of each cell, one row per codebook or a square."""
    max_cells = MAX_CELLS if len(codebooks) == 1 else MAX_CELLS_PER_ROW
    cells = [np.array_split(c.counts, min(c.size, max_cells)) for c in codebooks]
    mean = np.array([[cell.mean() for cell in row] for row in cells])
    first_code = np.cumsum([0] + [len(cell) for cell in cells[0][:-1]])
    if len(codebooks) > 1:
        return mean, np.broadcast_to(first_code, mean.shape)
    side = int(np.ceil(np.sqrt(mean.size)))
    padded = np.full(side * -(-mean.size // side), np.nan)
    padded[: mean.size] = mean[0]
    return padded.reshape(-1, side), np.resize(first_code, padded.size).reshape(-1, side)


def _add_frames(figure: go.Figure, mean: np.ndarray, codes: np.ndarray, size: float) -> None:
    """Draw a frame around every cell, visible if its code is selected.

    A heatmap supports neither lasso selection nor markers for selected cells.
    """
    cells = np.argwhere(~np.isnan(mean))
    figure.add_scatter(
        meta="code",
        x=cells[:, 1],
        y=cells[:, 0],
        customdata=codes[tuple(cells.T)],
        mode="markers",
        marker={
            "symbol": "square-open",
            "size": size,
            "color": COLORS[1],
            "line": {"width": 2},
            "opacity": 0,
        },
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 0}},
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=3,
    )


def _label_panels(figure: go.Figure, result: CodebookUsage) -> None:
    figure.update_xaxes(title="tokens counted", type="log", dtick=1, tickangle=0, row=1, col=2)
    figure.update_yaxes(title="codes used", rangemode="tozero", row=1, col=2)
    has_several = len(result.codebooks) > 1
    max_cells = MAX_CELLS_PER_ROW if has_several else MAX_CELLS
    codes_per_cell = -(-result.codebooks[0].size // max_cells)
    cell = (
        "one code per cell" if codes_per_cell == 1 else f"about {codes_per_cell:,} codes per cell"
    )
    quiet = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(title=cell, showticklabels=False, row=1, col=3, **quiet)
    figure.update_yaxes(autorange="reversed", row=1, col=3, **quiet)
    if has_several:
        figure.update_yaxes(title="codebook", dtick=1, row=1, col=3)
    else:
        figure.update_yaxes(title="codes by index", showticklabels=False, row=1, col=3)
    figure.update_xaxes(tickfont_size=11)


def _add_title(figure: go.Figure, result: CodebookUsage) -> None:
    first = result.codebooks[0]
    used = np.mean([codebook.used for codebook in result.codebooks])
    perplexity = np.mean([codebook.perplexity for codebook in result.codebooks])
    count = f"{used:,.0f}"
    scope = ""
    if len(result.codebooks) > 1:
        count = mean_count(float(used))
        scope = f" in each of {len(result.codebooks)} codebooks, means shown"
    title = (
        f"Codebook usage: {_marked_verdict(result.verdict)}, {count} of {first.size:,} codes,"
        f" perplexity {perplexity:,.1f}"
    )
    subtitle = (
        f"n = {first.tokens:,} tokens{scope} · uniform usage would use"
        f" {mean_count(first.used_uniform)} codes,"
        f" perplexity {mean_count(first.perplexity_uniform)}"
    )
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        height=440,
        legend={"orientation": "h", "y": -0.24, "yanchor": "top"},
    )


def _marked_verdict(verdict: str) -> str:
    """Return the verdict, bold and in the color of dead codes if the codebook has a fault."""
    symbol = VERDICT_SYMBOLS.get(verdict)
    if symbol is None:
        return verdict
    return f"<b style='color:{DEAD_COLOR}'>{symbol} {verdict}</b>"


def _line_mode(codebook: CodebookStats) -> str:
    return "lines" if len(codebook.token_counts) > 1 else "markers"


def _thinned_ranks(size: int) -> np.ndarray:
    return np.unique(np.geomspace(1, size, 300).round().astype(np.int64))


def _log_ticks(top: float) -> dict[str, Any]:
    """Return ticks at 0 and at powers of ten for an axis of log10(1 + value)."""
    values = [0, *(10**i for i in range(int(np.log10(max(top, 1))) + 1))]
    return {
        "tickvals": [float(np.log10(1 + v)) for v in values],
        "ticktext": [f"{v:,}" for v in values],
    }
