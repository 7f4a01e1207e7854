"""Which codes come together, and which keep apart: pointwise mutual information among the commonest codes.

Tokens on a grid are paired with the neighbours at their right and below; others with every token of their image.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import xlogy

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, check_grid, parse_codes
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.errors import NotApplicable

SHOWN = 12  # pairs in the bars
LEAST_BARS = 6  # that there is room for
MOST_LISTED = 500  # pairs in the table
DIVERGING = (
    (0, COLORS[0]),
    (0.5, "#9a9a9a"),
    (1, COLORS[5]),
)  # grey is told from no cell on light and on dark


@dataclass(frozen=True)
class Pair:
    """Two codes that come together more often, or less, than if they did not heed each other."""

    first: str  # code, or book:code where there are several books
    second: str
    together: int  # neighbouring pairs, or images that hold both
    expected: float
    pmi: float  # log2(together / expected), bits
    surprise: (
        float  # G^2, the likelihood ratio of the count: large where both it and the association are
    )


@dataclass(frozen=True, eq=False)
class CodeCooccurrence(Result):
    """How the commonest codes come together."""

    names: tuple[str, ...]  # of those codes, the commonest first
    pmi: np.ndarray = field(
        repr=False
    )  # (m, m) bits; NaN where a pair came together too rarely to say
    pairs: tuple[Pair, ...] = field(repr=False)  # the most surprising first, MOST_LISTED at most
    coverage: float  # share of the tokens that chose one of those codes
    same: float  # share of neighbouring tokens with the same code; NaN without a grid
    least: int
    unit: str  # "neighbours" or "images"
    n: int  # of those

    @property
    def together(self) -> tuple[Pair, ...]:
        """Pairs of different codes that come together often, and more so than expected; the most surprising first."""
        return tuple(
            p for p in self.pairs if p.pmi > 0 and p.together >= self.least and p.first != p.second
        )

    def figure(self) -> go.Figure:
        """The table of pointwise mutual information, and the most surprising pairs."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.2)
        places, bound = (
            list(range(len(self.names))),
            max(float(np.abs(np.nan_to_num(self.pmi)).max()), 0.1),
        )
        names = np.array(self.names)
        pair = np.stack(np.broadcast_arrays(names[:, None], names[None]), axis=-1)
        figure.add_heatmap(
            x=places, y=places, z=self.pmi, customdata=pair, zmin=-bound, zmax=bound, colorscale=DIVERGING,
            hovertemplate="%{customdata[0]} and %{customdata[1]}: %{z:.2f} bits<extra></extra>",
            colorbar={"title": "bits", "thickness": 12, "x": 0.46}, row=1, col=1,
        )  # fmt: skip
        quiet = {"showgrid": False, "zeroline": False}
        figure.update_xaxes(title="rank of the code", constrain="domain", **quiet, row=1, col=1)
        figure.update_yaxes(title="rank of the code", autorange="reversed", **quiet, row=1, col=1)
        shown = self.together[:SHOWN][::-1]
        text = [f"{p.first} & {p.second}" for p in shown]
        counts = [f"{p.together:,}×" for p in shown]
        figure.add_bar(
            x=[p.pmi for p in shown], y=text, orientation="h", text=counts, textposition="outside", cliponaxis=False,
            marker_color=COLORS[0], hovertemplate="%{y}: %{x:.2f} bits, %{text}<extra></extra>", row=1, col=2,
        )  # fmt: skip
        longest = max((p.pmi for p in shown), default=1)
        figure.update_xaxes(
            title="bits above independence", range=[0, 1.25 * longest], row=1, col=2
        )
        places = [
            min(0, len(shown) - LEAST_BARS) - 0.5,
            len(shown) - 0.5,
        ]  # bars of few pairs are no thicker
        figure.update_yaxes(
            title="codes", type="category", automargin=True, range=places, row=1, col=2
        )
        what = (
            "pairs of neighbouring tokens"
            if self.unit == "neighbours"
            else "images, codes anywhere in the same one"
        )
        said = f"n = {self.n:,} {what} · the {len(self.names)} commonest codes, pairs seen {self.least} times or more"
        title = {"text": "Codes that come together", "subtitle": {"text": said}}
        return apply_theme(figure.update_layout(title=title, height=480, showlegend=False))

    def table(self) -> pd.DataFrame:
        """One row a pair, the most surprising first."""
        columns = ("first", "second", "together", "expected", "pmi", "surprise")
        return pd.DataFrame([{name: getattr(p, name) for name in columns} for p in self.pairs])

    def summary(self) -> str:
        """The most surprising pair, how much the codes cover, and how often neighbours agree."""
        covered = (
            f"The {len(self.names)} commonest codes hold {100 * self.coverage:.0f} % of the tokens."
        )
        where = "side by side" if self.unit == "neighbours" else "in one image"
        found = self.together[:1]
        said = "No two of them come together more often than by chance."
        if found:
            p = found[0]
            said = (
                f"Of these, {p.first} and {p.second} come {where} most surprisingly: {p.together:,} times, where"
                f" {p.expected:,.1f} would be expected."
            )
        same = f" Neighbouring tokens have the same code {100 * self.same:.1f} % of the time."
        same = "" if np.isnan(self.same) else same
        return f"{covered} {said}{same}"


def code_cooccurrence(
    codes: np.ndarray,
    codebook: np.ndarray,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    *,
    commonest: Annotated[int, Range(8, 256, 8)] = 48,
    least: Annotated[int, Range(1, 50)] = 5,
) -> CodeCooccurrence:
    """Count how the `commonest` codes of (n, tokens) come together, and compare with independence.

    The figure leaves out pairs that came together, and would be expected to, fewer than `least` times. Raises
    NotApplicable where no two of them ever come together, UserError for a grid that does not hold the tokens and what
    `read` refuses.
    """
    found = parse_codes(codes, codebook, active, "Code co-occurrence")
    check_grid(grid, codes.shape[1])
    totals = found.counts.ravel()
    order = np.argsort(-totals, kind="stable")[:commonest]
    order = order[totals[order] > 0]
    if len(order) < 2 or (grid is None and len(codes) < 2):
        raise NotApplicable(
            "Code co-occurrence needs two codes, and a grid of tokens or two images; here is neither."
        )
    rank = np.full(len(totals) + 1, len(order))  # the others share the last place
    rank[order], rank[-1] = np.arange(len(order)), -1  # of an inactive token, whose id is -1
    counted = (
        _neighbours(found, rank, len(order), grid) if grid else _images(found, rank, len(order))
    )
    together, expected, n, same = counted
    names = tuple(
        str(i) if found.books == 1 else f"{i // found.size}:{i % found.size}"
        for i in order.tolist()
    )
    unit = "neighbours" if grid else "images"
    pmi, surprise = _compared(together, expected, n)
    coverage = float(totals[order].sum() / totals.sum())
    upper = np.argwhere(np.triu(together))
    if not len(upper):
        raise NotApplicable(
            "Code co-occurrence needs two codes that come together; no two of these ever do."
        )
    upper = upper[np.argsort(-surprise[tuple(upper.T)], kind="stable")][:MOST_LISTED]
    pairs = [
        Pair(
            names[i],
            names[j],
            int(together[i, j]),
            *(float(x[i, j]) for x in (expected, pmi, surprise)),
        )
        for i, j in upper.tolist()
    ]
    shown = np.where(np.maximum(together, expected) >= least, pmi, np.nan)
    return CodeCooccurrence(names, shown, tuple(pairs), coverage, same, least, unit, n)


def _neighbours(
    found: Codes, rank: np.ndarray, m: int, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Neighbouring pairs (m, m) in either order, those expected, how many pairs there are, and the share alike."""
    table, alike, n = np.zeros((m + 1) ** 2, np.int64), 0, 0
    for ids in found.parts():
        square = ids.reshape(-1, *grid)
        for a, b in ((square[:, :, :-1], square[:, :, 1:]), (square[:, :-1], square[:, 1:])):
            seen = (a >= 0) & (b >= 0)
            a, b = a[seen], b[seen]
            table += np.bincount(rank[a] * (m + 1) + rank[b], minlength=len(table))
            alike, n = alike + int((a == b).sum()), n + len(a)
    if not n:
        raise NotApplicable(
            "Code co-occurrence needs active tokens side by side; this evidence has none."
        )
    square = table.reshape(m + 1, m + 1)
    before, after = square.sum(axis=1), square.sum(axis=0)
    expected = np.outer(before, after) / n
    both, either = (x + x.T - np.diag(np.diag(x)) for x in (square, expected))
    return both[:m, :m], either[:m, :m], n, alike / n


def _images(found: Codes, rank: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Images that hold both codes (m, m), those expected, how many images there are, and NaN."""
    table = np.zeros((m, m), np.int64)
    for ids in found.parts():
        holds = np.zeros(
            (len(ids), m + 2), np.float32
        )  # the last two: other codes, inactive tokens
        np.put_along_axis(holds, rank[ids], 1, axis=1)
        table += (holds[:, :m].T @ holds[:, :m]).round().astype(np.int64)
    n = len(found.rows)
    expected = np.outer(np.diag(table), np.diag(table)) / n
    np.fill_diagonal(table, 0)  # a code with itself says nothing
    return table, expected, n, float("nan")


def _compared(together: np.ndarray, expected: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise mutual information in bits and G^2 of counts (m, m) among n; NaN for what never comes together."""
    seen, expected = (
        np.where(together > 0, together, np.nan),
        np.minimum(np.maximum(expected, 1e-300), n),
    )
    rest = xlogy(n - seen, (n - seen) / np.maximum(n - expected, 1e-300))
    return np.log2(seen / expected), 2 * (seen * np.log(seen / expected) + rest)
