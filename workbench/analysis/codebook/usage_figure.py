"""The picture of a codebook's usage: three panels."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.codebook.usage import CodebookStats, CodebookUsage
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, MAGNITUDE_SCALE, apply_theme

MOST_CELLS = 4096  # a larger book is drawn with several codes a cell
MOST_LINES = 6  # books drawn as lines; the table has them all
GREY = COLORS[6]


def draw(result: CodebookUsage) -> go.Figure:
    """Rank and frequency; codes against tokens; the book as a grid."""
    figure = make_subplots(
        rows=1, cols=3, column_widths=[0.34, 0.34, 0.32], horizontal_spacing=0.12
    )
    several = len(result.books) > 1
    _ranks(figure, result.books[0], result.log)
    _zipf(figure, result.books[0])
    for i, book in enumerate(result.books[:MOST_LINES]):
        name, colour = f"book {i}" if several else "our tokens", COLORS[i]
        rank = _thinned(book.size)
        line = {"line_color": colour, "name": name, "legendgroup": name}
        figure.add_scatter(
            x=rank, y=np.sort(book.counts)[::-1][rank - 1], showlegend=False, row=1, col=1, **line
        )
        figure.add_scatter(x=book.seen, y=book.rarefaction, mode=_mode(book), row=1, col=2, **line)
        if not several:
            _chao(figure, book, colour)
    first = result.books[0]
    uniform = {"name": "uniform source", "line": {"color": GREY, "dash": "dash"}}
    figure.add_scatter(x=first.seen, y=first.uniform, mode=_mode(first), row=1, col=2, **uniform)
    _grid(figure, result.books)
    return _labelled(figure, result)


def _ranks(figure: go.Figure, book: CodebookStats, log: bool) -> None:
    """The band in which 95 % of a uniform source's counts at each rank lie: binomial order statistics."""
    from scipy.stats import beta, binom

    rank = _thinned(book.size)
    low, high = (
        binom.ppf(beta.ppf(q, book.size - rank + 1, rank), book.tokens, 1 / book.size)
        for q in (0.025, 0.975)
    )
    edge = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=rank, y=high, row=1, col=1, **edge)
    figure.add_scatter(
        x=rank, y=low, row=1, col=1, **{**edge, "showlegend": True}, name="uniform, 95 %", fill="tonexty",
        fillcolor="rgba(127,127,127,0.45)",
    )  # fmt: skip
    kind = "log" if log else "linear"
    figure.update_xaxes(title="rank of the code", type=kind, row=1, col=1)
    figure.update_yaxes(title="times chosen", type=kind, row=1, col=1)
    if log:
        top = np.log10(max(book.counts.max(), high.max(), 2))
        figure.update_yaxes(range=[-0.1, top * 1.05 + 0.05], dtick=1, row=1, col=1)
        figure.update_xaxes(dtick=1, tickangle=0, row=1, col=1)


def _zipf(figure: go.Figure, book: CodebookStats) -> None:
    """The fitted law over the ranks it was fitted to, as high as our tokens there."""
    if np.isnan(book.zipf.exponent):
        return
    rank = np.unique(np.geomspace(book.zipf.low, book.zipf.high, 50).round())
    law = np.arange(book.zipf.low, book.zipf.high + 1.0) ** -book.zipf.exponent
    times = np.sort(book.counts)[::-1][book.zipf.low - 1 : book.zipf.high].sum()
    figure.add_scatter(
        x=rank, y=times * rank**-book.zipf.exponent / law.sum(), mode="lines", row=1, col=1,
        name=f"rank to the -{book.zipf.exponent:.2f}", line={"color": COLORS[1], "dash": "dash", "width": 3},
    )  # fmt: skip


def _chao(figure: go.Figure, book: CodebookStats, colour: str) -> None:
    figure.add_scatter(
        x=book.seen[[0, -1]], y=[book.chao1] * 2, mode="lines", name="reachable (Chao1)",
        line={"color": colour, "dash": "dot"}, row=1, col=2,
    )  # fmt: skip


def _grid(figure: go.Figure, books: tuple[CodebookStats, ...]) -> None:
    cells = [
        np.array_split(book.counts, min(book.size, MOST_CELLS if len(books) == 1 else 256))
        for book in books
    ]
    mean = np.array([[cell.mean() for cell in row] for row in cells])
    first = np.cumsum([0] + [len(cell) for cell in cells[0][:-1]])
    if len(books) == 1:
        side = int(np.ceil(np.sqrt(mean.size)))
        padded = np.full(side * -(-mean.size // side), np.nan)
        padded[: mean.size] = mean[0]
        mean, first = padded.reshape(-1, side), np.resize(first, padded.size).reshape(-1, side)
    else:
        first = np.broadcast_to(first, mean.shape)
    alone = len(books) == 1 and books[0].size <= MOST_CELLS  # a code to a cell
    figure.add_heatmap(
        meta="code" if alone else None, z=np.log10(1 + mean),
        customdata=np.stack([first, mean], axis=-1), colorscale=MAGNITUDE_SCALE, row=1, col=3,
        hovertemplate="code %{customdata[0]}: chosen %{customdata[1]:,.1f} times<extra></extra>",
        colorbar={"title": "times", **_ticks(np.nanmax(mean)), "thickness": 12},
    )  # fmt: skip
    dead, size = np.argwhere(mean == 0), 160 / max(mean.shape)
    mark = {
        "symbol": "x-thin",
        "size": float(np.clip(size, 2, 10)),
        "line": {"color": DEAD_COLOR, "width": 1.5},
    }
    figure.add_scatter(
        x=dead[:, 1],
        y=dead[:, 0],
        mode="markers",
        marker=mark,
        name="× dead",
        hoverinfo="skip",
        row=1,
        col=3,
    )
    if alone:
        _frames(figure, mean, first, float(np.clip(1.3 * size, 4, 14)))


def _frames(figure: go.Figure, mean: np.ndarray, codes: np.ndarray, size: float) -> None:
    """A frame around every cell, seen where its code is selected: a heatmap can be neither lassoed nor marked."""
    cells = np.argwhere(~np.isnan(mean))
    frame = {
        "symbol": "square-open",
        "size": size,
        "color": COLORS[1],
        "line": {"width": 2},
        "opacity": 0,
    }
    figure.add_scatter(
        meta="code", x=cells[:, 1], y=cells[:, 0], customdata=codes[tuple(cells.T)], mode="markers", marker=frame,
        selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0}},
        showlegend=False, hoverinfo="skip", row=1, col=3,
    )  # fmt: skip


def _labelled(figure: go.Figure, result: CodebookUsage) -> go.Figure:
    first, several = result.books[0], len(result.books) > 1
    each = -(-first.size // (256 if several else MOST_CELLS))
    cell = "a cell is a code" if each == 1 else f"a cell is about {each:,} codes"
    figure.update_xaxes(title="tokens seen", type="log", dtick=1, tickangle=0, row=1, col=2)
    figure.update_yaxes(title="codes used", rangemode="tozero", row=1, col=2)
    figure.update_xaxes(
        title=cell, showticklabels=False, showgrid=False, zeroline=False, row=1, col=3
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, row=1, col=3)
    if several:
        figure.update_yaxes(title="book", dtick=1, row=1, col=3)
    else:
        figure.update_yaxes(title="codes in order", showticklabels=False, row=1, col=3)
    used, even = (
        np.mean([getattr(book, x) for book in result.books]) for x in ("used", "perplexity")
    )
    title = f"{used:,.{1 if several else 0}f} of {first.size:,} codes used, as evenly as {even:,.1f}: {result.verdict}"
    each = f" in each of {len(result.books)} books, whose mean this is" if several else ""
    subtitle = (
        f"n = {first.tokens:,} tokens{each} · a uniform source would use {first.ceiling:,.1f}"
    )
    figure.update_layout(title={"text": title, "subtitle": {"text": subtitle}}, height=440)
    figure.update_layout(legend={"orientation": "h", "y": -0.24, "yanchor": "top"})
    figure.update_xaxes(tickfont_size=11)
    return apply_theme(figure)


def _mode(book: CodebookStats) -> str:
    return "lines" if len(book.seen) > 1 else "markers"


def _thinned(size: int) -> np.ndarray:
    return np.unique(np.geomspace(1, size, 300).round().astype(np.int64))


def _ticks(top: float) -> dict[str, list]:
    values = [0, *(10**i for i in range(int(np.log10(max(top, 1))) + 1))]
    return {
        "tickvals": [float(np.log10(1 + v)) for v in values],
        "ticktext": [f"{v:,}" for v in values],
    }
