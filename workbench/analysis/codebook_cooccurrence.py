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

from workbench.analysis.codes import Codes, read
from workbench.analysis.result import Range, Result
from workbench.analysis.style import COLOURS, themed
from workbench.errors import NotApplicable, UserError

SHOWN = 12  # pairs in the bars
MOST_LISTED = 500  # pairs in the table


@dataclass(frozen=True)
class Pair:
    """Two codes that come together more often, or less, than if they did not heed each other."""

    first: str  # code, or book:code where there are several books
    second: str
    together: int  # neighbouring pairs, or images that hold both
    expected: float
    pmi: float  # log2(together / expected), bits
    surprise: float  # G^2 of the 2 x 2 table: above 3.84 in 1 of 20 pairs by chance


@dataclass(frozen=True, eq=False)
class CodeCooccurrence(Result):
    """How the commonest codes come together."""

    names: tuple[str, ...]  # of those codes, the commonest first
    pmi: np.ndarray = field(repr=False)  # (m, m) bits; NaN where a pair came together too rarely to say
    pairs: tuple[Pair, ...] = field(repr=False)  # the most surprising first
    coverage: float  # share of the tokens that chose one of those codes
    same: float  # share of neighbouring tokens with the same code; NaN without a grid
    least: int
    unit: str  # "neighbours" or "images"
    n: int  # of those

    @property
    def together(self) -> tuple[Pair, ...]:
        """The pairs that come together more often than expected, the most surprising first."""
        return tuple(p for p in self.pairs if p.pmi > 0)

    def figure(self) -> go.Figure:
        """The table of pointwise mutual information, and the most surprising pairs."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.2)
        places, bound = list(range(len(self.names))), max(float(np.nanmax(np.abs(self.pmi), initial=0)), 0.1)
        names = np.array(self.names)
        pair = np.stack(np.broadcast_arrays(names[:, None], names[None]), axis=-1)
        figure.add_heatmap(
            x=places, y=places, z=self.pmi, customdata=pair, zmin=-bound, zmax=bound, colorscale="RdBu_r",
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
            marker_color=COLOURS[0], hovertemplate="%{y}: %{x:.2f} bits, %{text}<extra></extra>", row=1, col=2,
        )  # fmt: skip
        longest = max((p.pmi for p in shown), default=1)
        figure.update_xaxes(title="bits above independence", range=[0, 1.25 * longest], row=1, col=2)
        figure.update_yaxes(title="codes", type="category", automargin=True, row=1, col=2)
        what = "pairs of neighbouring tokens" if self.unit == "neighbours" else "images, codes anywhere in the same one"
        said = f"n = {self.n:,} {what} · the {len(self.names)} commonest codes, pairs seen {self.least} times or more"
        title = {"text": "Codes that come together", "subtitle": {"text": said}}
        return themed(figure.update_layout(title=title, height=480, showlegend=False))

    def table(self) -> pd.DataFrame:
        """One row a pair, the most surprising first."""
        columns = ("first", "second", "together", "expected", "pmi", "surprise")
        return pd.DataFrame([{name: getattr(p, name) for name in columns} for p in self.pairs[:MOST_LISTED]], None, columns)

    def summary(self) -> str:
        """The most surprising pair, how much the codes cover, and how often neighbours agree."""
        covered = f"The {len(self.names)} commonest codes hold {100 * self.coverage:.0f} % of the tokens."
        where = "side by side" if self.unit == "neighbours" else "in one image"
        found = self.together[:1]
        said = "No two of them come together more often than by chance."
        if found:
            p = found[0]
            said = (
                f"Of these, {p.first} and {p.second} come {where} most surprisingly: {p.together:,} times, where"
                f" {p.expected:,.1f} would be expected."
            )
        same = "" if np.isnan(self.same) else f" Neighbouring tokens have the same code {100 * self.same:.1f} % of the time."
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

    Pairs that came together, or would be expected to, fewer than `least` times are left out. Raises NotApplicable for
    one image without a grid or a single code, UserError for a grid that does not hold the tokens and what `read`
    refuses.
    """
    found = read(codes, codebook, active, "Code co-occurrence")
    totals = found.counts.ravel()
    order = np.argsort(-totals, kind="stable")[:commonest]
    order = order[totals[order] > 0]
    if len(order) < 2 or (grid is None and len(codes) < 2):
        raise NotApplicable("Code co-occurrence needs two codes, and a grid of tokens or two images; here is neither.")
    if grid is not None and grid[0] * grid[1] != codes.shape[1]:
        size = f"{grid[0]} × {grid[1]}"
        raise UserError(f"A grid of {size} does not hold {codes.shape[1]} tokens. Do both come from one run?")
    rank = np.full(len(totals) + 1, len(order))  # the others share the last place
    rank[order], rank[-1] = np.arange(len(order)), -1  # of an inactive token, whose id is -1
    count = (lambda: _neighbours(found, rank, len(order), grid)) if grid else (lambda: _images(found, rank, len(order)))
    together, alone, n, same = count()
    names = tuple(str(i) if found.books == 1 else f"{i // found.size}:{i % found.size}" for i in order.tolist())
    unit = "neighbours" if grid else "images"
    expected, pmi, surprise = _compared(together, alone, n, least)
    coverage = float(totals[order].sum() / totals.sum())
    upper = np.argwhere(np.triu(~np.isnan(pmi), 0 if grid else 1))
    upper = upper[np.argsort(-surprise[tuple(upper.T)], kind="stable")]
    pairs = [
        Pair(names[i], names[j], int(together[i, j]), *(float(x[i, j]) for x in (expected, pmi, surprise)))
        for i, j in upper.tolist()
    ]
    return CodeCooccurrence(names, pmi, tuple(pairs), coverage, same, least, unit, n)


def _neighbours(
    found: Codes, rank: np.ndarray, m: int, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Neighbouring pairs (m, m) in either order, the share of pairs' ends at each code (m,), pairs, share alike."""
    table, alike, n = np.zeros((m + 1) ** 2, np.int64), 0, 0
    for ids in found.parts():
        square = ids.reshape(-1, *grid)
        for a, b in ((square[:, :, :-1], square[:, :, 1:]), (square[:, :-1], square[:, 1:])):
            seen = (a >= 0) & (b >= 0)
            a, b = a[seen], b[seen]
            table += np.bincount(rank[a] * (m + 1) + rank[b], minlength=len(table))
            alike, n = alike + int((a == b).sum()), n + len(a)
    if not n:
        raise NotApplicable("Code co-occurrence needs active tokens side by side; this evidence has none.")
    square = table.reshape(m + 1, m + 1)
    ends = (square.sum(axis=0) + square.sum(axis=1)) / (2 * n)
    both = square + square.T - np.diag(np.diag(square))
    return both[:m, :m], ends[:m], n, alike / n


def _images(found: Codes, rank: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Images that hold both codes (m, m), the share that holds each (m,), images, NaN."""
    table = np.zeros((m, m), np.int64)
    for ids in found.parts():
        holds = np.zeros((len(ids), m + 2), np.float32)  # the last two: other codes, inactive tokens
        np.put_along_axis(holds, rank[ids], 1, axis=1)
        table += (holds[:, :m].T @ holds[:, :m]).round().astype(np.int64)
    n = len(found.rows)
    return table, np.diag(table) / n, n, float("nan")


def _compared(
    together: np.ndarray, alone: np.ndarray, n: int, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected counts, pointwise mutual information in bits and G^2, each (m, m); NaN for what is too rare."""
    product = np.outer(alone, alone)
    if np.isnan(together).any() or n == 0:
        raise ValueError
    return product, product, product
