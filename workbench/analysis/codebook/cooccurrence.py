"""Co-occurrence of codes: pointwise mutual information among the most frequent codes.

Tokens on a grid are paired with their right and lower neighbors. Tokens without a grid are paired
with every other token of their image.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import xlogy

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import Codes, check_grid, parse_codes
from workbench.analysis.plotting.style import COLORS, apply_theme
from workbench.core.errors import NotApplicable

Unit = Literal["neighbors", "images"]
MAX_BARS = 12
MIN_BAR_SLOTS = 6  # keeps the bars of few pairs thin
MAX_TABLE_ROWS = 500
# The gray midpoint differs from the background in both the light and the dark theme.
DIVERGING_SCALE = ((0, COLORS[0]), (0.5, "#9a9a9a"), (1, COLORS[5]))


@dataclass(frozen=True)
class CodePair:
    """Two codes whose co-occurrence is compared with independence."""

    first: str  # code, or codebook:code if there are several codebooks
    second: str
    count: int  # neighboring pairs, or images that contain both
    expected: float  # the same under independence
    pmi: float  # log2(count / expected), in bits
    # G^2, the likelihood ratio of the count: large if both it and the association are large.
    surprise: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeCooccurrence(Result):
    """Co-occurrence of the most frequent codes."""

    names: tuple[str, ...]  # names of the codes, the most frequent first
    # (m, m), in bits; NaN where a pair is too rare.
    pmi: np.ndarray = field(repr=False)
    # The most surprising first, at most MAX_TABLE_ROWS.
    pairs: tuple[CodePair, ...] = field(repr=False)
    coverage: float  # fraction of the tokens that selected one of these codes
    same: float  # fraction of neighboring tokens with the same code; NaN without a grid
    min_count: int
    unit: Unit
    n: int  # number of neighboring pairs, or of images

    @property
    def attracted(self) -> tuple[CodePair, ...]:
        """Pairs of different codes that co-occur often and more than expected."""
        return tuple(
            pair
            for pair in self.pairs
            if pair.pmi > 0 and pair.count >= self.min_count and pair.first != pair.second
        )

    def figure(self) -> go.Figure:
        """Draw the matrix of pointwise mutual information and the most surprising pairs."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.2)
        self._add_matrix(figure)
        self._add_bars(figure)
        pairs = "pairs of neighboring tokens" if self.unit == "neighbors" else "images"
        subtitle = (
            f"n = {self.n:,} {pairs} · the {len(self.names)} most frequent codes,"
            f" pairs with a count of {self.min_count} or more"
        )
        figure.update_layout(
            title={"text": "Code co-occurrence", "subtitle": {"text": subtitle}},
            height=480,
            showlegend=False,
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per pair, the most surprising first."""
        return pd.DataFrame([asdict(pair) for pair in self.pairs])

    def summary(self) -> str:
        """State the most surprising pair, the coverage, and the agreement of neighbors."""
        sentences = [
            self._attraction_sentence(),
            f"The {len(self.names)} most frequent codes cover {100 * self.coverage:.0f} % of the"
            " tokens.",
        ]
        if not np.isnan(self.same):
            sentences.append(f"{100 * self.same:.1f} % of neighboring tokens have the same code.")
        return " ".join(sentences)

    def _attraction_sentence(self) -> str:
        if not self.attracted:
            return "No two codes co-occur more often than expected by chance."
        pair = self.attracted[0]
        scope = "as neighbors" if self.unit == "neighbors" else "in one image"
        return (
            f"Codes {pair.first} and {pair.second} co-occur {scope} most surprisingly:"
            f" {pair.count:,} times, versus {pair.expected:,.1f} expected."
        )

    def _add_matrix(self, figure: go.Figure) -> None:
        ranks = list(range(len(self.names)))
        names = np.array(self.names)
        bound = max(float(np.abs(np.nan_to_num(self.pmi)).max()), 0.1)
        figure.add_heatmap(
            x=ranks,
            y=ranks,
            z=self.pmi,
            customdata=np.stack(np.broadcast_arrays(names[:, None], names[None]), axis=-1),
            zmin=-bound,
            zmax=bound,
            colorscale=DIVERGING_SCALE,
            hovertemplate="%{customdata[0]} and %{customdata[1]}: %{z:.2f} bits<extra></extra>",
            colorbar={"title": "bits", "thickness": 12, "x": 0.46},
            row=1,
            col=1,
        )
        axis = {"title": "rank of the code", "showgrid": False, "zeroline": False}
        figure.update_xaxes(constrain="domain", row=1, col=1, **axis)
        figure.update_yaxes(autorange="reversed", row=1, col=1, **axis)

    def _add_bars(self, figure: go.Figure) -> None:
        pairs = self.attracted[:MAX_BARS][::-1]
        figure.add_bar(
            x=[pair.pmi for pair in pairs],
            y=[f"{pair.first} & {pair.second}" for pair in pairs],
            orientation="h",
            text=[f"{pair.count:,}×" for pair in pairs],
            textposition="outside",
            cliponaxis=False,
            marker_color=COLORS[0],
            hovertemplate="%{y}: %{x:.2f} bits, %{text}<extra></extra>",
            row=1,
            col=2,
        )
        longest = max((pair.pmi for pair in pairs), default=1)
        figure.update_xaxes(
            title="pointwise mutual information, bits", range=[0, 1.25 * longest], row=1, col=2
        )
        figure.update_yaxes(
            title="codes, most surprising first",
            type="category",
            automargin=True,
            range=[min(0, len(pairs) - MIN_BAR_SLOTS) - 0.5, len(pairs) - 0.5],
            row=1,
            col=2,
        )


@dataclass(frozen=True, eq=False)
class _PairCounts:
    """Counts of pairs of codes, symmetric (m, m), and those expected under independence."""

    observed: np.ndarray
    expected: np.ndarray
    n: int  # neighboring pairs, or images
    same: float  # fraction of neighbors with the same code; NaN without a grid


def code_cooccurrence(
    codes: np.ndarray,
    codebook: np.ndarray | int,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    *,
    num_codes: Annotated[int, Range(8, 256, 8)] = 48,
    min_count: Annotated[int, Range(1, 50)] = 5,
) -> CodeCooccurrence:
    """Count how often the most frequent codes co-occur, and compare with independence.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand.
    grid : (int, int), optional
        Rows and columns of the token grid. Without a grid, codes of one image are paired.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.
    num_codes : int, default 48
        Number of codes to compare, the most frequent first.
    min_count : int, default 5
        The matrix shows pairs whose observed or expected count is at least this large.

    Returns
    -------
    CodeCooccurrence
        Pointwise mutual information of the codes, in bits, and the most surprising pairs.

    Raises
    ------
    NotApplicable
        If there are under two codes, neither a grid nor two images, or no co-occurring codes.
    UserError
        If the grid does not hold the tokens, or the codes do not match the codebook.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([[0, 1, 2, 3]] * 10 + [[0, 1, 3, 2]] * 10)
    >>> result = code_cooccurrence(codes, np.eye(4)[None], grid=(2, 2))
    >>> result.n, result.pairs[0].first, result.pairs[0].second
    (80, '2', '3')
    """
    parsed = parse_codes(codes, codebook, active, "Code co-occurrence")
    check_grid(grid, codes.shape[1])
    totals = parsed.counts.ravel()
    order = np.argsort(-totals, kind="stable")[:num_codes]
    order = order[totals[order] > 0]
    if len(order) < 2 or (grid is None and len(codes) < 2):
        raise NotApplicable(
            "Code co-occurrence needs at least two codes and either a token grid or two images."
        )
    rank = np.full(len(totals) + 1, len(order))  # all other codes share the last rank
    rank[order] = np.arange(len(order))
    rank[-1] = -1  # the id of an inactive token is -1
    if grid:
        pairs = _count_neighbors(parsed, rank, len(order), grid)
    else:
        pairs = _count_images(parsed, rank, len(order))
    pmi, surprise = _association(pairs)
    is_frequent = np.maximum(pairs.observed, pairs.expected) >= min_count
    return CodeCooccurrence(
        names=_names(order, parsed),
        pmi=np.where(is_frequent, pmi, np.nan),
        pairs=_ranked_pairs(_names(order, parsed), pairs, pmi, surprise),
        coverage=float(totals[order].sum() / totals.sum()),
        same=pairs.same,
        min_count=min_count,
        unit="neighbors" if grid else "images",
        n=pairs.n,
    )


def _names(ids: np.ndarray, codes: Codes) -> tuple[str, ...]:
    if codes.num_codebooks == 1:
        return tuple(str(i) for i in ids.tolist())
    size = codes.codebook_size
    return tuple(f"{i // size}:{i % size}" for i in ids.tolist())


def _ranked_pairs(
    names: tuple[str, ...], pairs: _PairCounts, pmi: np.ndarray, surprise: np.ndarray
) -> tuple[CodePair, ...]:
    """Return the pairs that occur, the most surprising first."""
    indices = np.argwhere(np.triu(pairs.observed))
    if not len(indices):
        raise NotApplicable("Code co-occurrence needs two codes that co-occur; no two of these do.")
    order = np.argsort(-surprise[tuple(indices.T)], kind="stable")[:MAX_TABLE_ROWS]
    return tuple(
        CodePair(
            first=names[i],
            second=names[j],
            count=int(pairs.observed[i, j]),
            expected=float(pairs.expected[i, j]),
            pmi=float(pmi[i, j]),
            surprise=float(surprise[i, j]),
        )
        for i, j in indices[order].tolist()
    )


def _count_neighbors(codes: Codes, rank: np.ndarray, m: int, grid: tuple[int, int]) -> _PairCounts:
    """Count pairs of horizontal and vertical neighbors in either order."""
    table = np.zeros((m + 1) ** 2, np.int64)
    same = n = 0
    for ids in codes.iter_ids():
        tokens = ids.reshape(-1, *grid)
        horizontal = (tokens[:, :, :-1], tokens[:, :, 1:])
        vertical = (tokens[:, :-1], tokens[:, 1:])
        for first, second in (horizontal, vertical):
            is_active = (first >= 0) & (second >= 0)
            a, b = first[is_active], second[is_active]
            table += np.bincount(rank[a] * (m + 1) + rank[b], minlength=len(table))
            same += int((a == b).sum())
            n += len(a)
    if not n:
        raise NotApplicable(
            "Code co-occurrence needs neighboring active tokens; this evidence has none."
        )
    ordered = table.reshape(m + 1, m + 1)
    expected = np.outer(ordered.sum(axis=1), ordered.sum(axis=0)) / n
    return _PairCounts(
        observed=_in_either_order(ordered)[:m, :m],
        expected=_in_either_order(expected)[:m, :m],
        n=n,
        same=same / n,
    )


def _in_either_order(table: np.ndarray) -> np.ndarray:
    return table + table.T - np.diag(np.diag(table))


def _count_images(codes: Codes, rank: np.ndarray, m: int) -> _PairCounts:
    """Count images that contain both codes."""
    table = np.zeros((m, m), np.int64)
    for ids in codes.iter_ids():
        # The last two columns collect other codes and inactive tokens.
        contains = np.zeros((len(ids), m + 2), np.float32)
        np.put_along_axis(contains, rank[ids], 1, axis=1)
        table += (contains[:, :m].T @ contains[:, :m]).round().astype(np.int64)
    n = len(codes.codes)
    expected = np.outer(np.diag(table), np.diag(table)) / n
    np.fill_diagonal(table, 0)  # a code always co-occurs with itself
    return _PairCounts(observed=table, expected=expected, n=n, same=float("nan"))


def _association(pairs: _PairCounts) -> tuple[np.ndarray, np.ndarray]:
    """Return pointwise mutual information in bits and G^2, both (m, m); NaN for a count of 0."""
    n = pairs.n
    observed = np.where(pairs.observed > 0, pairs.observed, np.nan)
    expected = np.minimum(np.maximum(pairs.expected, 1e-300), n)
    rest = xlogy(n - observed, (n - observed) / np.maximum(n - expected, 1e-300))
    pmi = np.log2(observed / expected)
    return pmi, 2 * (observed * np.log(observed / expected) + rest)
