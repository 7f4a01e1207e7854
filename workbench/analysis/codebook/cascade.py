"""How far a cascade's value table moved from its frozen index table, and what of the index is still in it.

Source: UniCode^2's cascade (arXiv 2506.20214): a token's code is looked up in F, and read out of E, which starts as F.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.distances import searchable
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.analysis.stats.dispersion import effective_rank
from workbench.analysis.stats.sampling import subsample
from workbench.core.errors import UserError

MOST_POINTS = 4000


@dataclass(frozen=True, eq=False)
class CascadeDisplacement(Result):
    """The value table E beside the index table F it started as."""

    counts: np.ndarray = field(repr=False)  # int (m,) how often some codes were chosen
    moved: np.ndarray = field(repr=False)  # (m,) |E - F| / |F| of those
    cosines: np.ndarray = field(repr=False)  # (m,) between E and F
    size: int  # codes of all books
    tokens: int
    untouched: int  # codes whose value is the index still, bit for bit
    untouched_used: int  # of those, the ones that tokens chose
    median: float  # displacement of the codes that moved
    correlation: float  # Spearman's, of displacement and frequency, among codes that moved; NaN where none varies
    retrieved: float  # share of values whose nearest index row is their own
    looked_at: int  # codes whose nearest was searched
    cka: float  # linear centred kernel alignment of the two tables
    ranks: tuple[
        float, float, float
    ]  # effective rank of F, of E and of E - F; 0 where a table does not vary
    seed: int

    def figure(self) -> go.Figure:
        """Displacement against frequency, and the cosines between the tables."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.16)
        for name, mine, colour, symbol in (
            ("codes that moved", self.moved > 0, COLORS[0], "circle"),
            ("× never updated", self.moved == 0, DEAD_COLOR, "x"),
        ):
            marker = {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.75}
            figure.add_scatter(
                x=self.counts[mine] + 1, y=self.moved[mine], mode="markers", marker=marker, name=name,
                hoverinfo="skip", row=1, col=1,
            )  # fmt: skip
        figure.update_xaxes(title="times chosen, plus 1", type="log", dtick=1, row=1, col=1)
        figure.update_yaxes(title="displacement |E − F| / |F|", rangemode="tozero", row=1, col=1)
        low = min(float(self.cosines.min()), 0.99)
        counts, edges = np.histogram(self.cosines, bins=40, range=(low, 1))
        bars = {"width": edges[1] - edges[0], "marker": {"color": COLORS[2], "line": {"width": 0}}}
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2, y=counts, showlegend=False, **bars, row=1, col=2
        )
        figure.update_xaxes(title="cosine of E and F", row=1, col=2)
        figure.update_yaxes(title="codes", row=1, col=2)
        shown = (
            ""
            if len(self.moved) == self.size
            else f", {len(self.moved):,} drawn (seed {self.seed})"
        )
        said = f"{self.size:,} codes{shown} · n = {self.tokens:,} tokens"
        title = {"text": "How far the value table moved from the index", "subtitle": {"text": said}}
        figure.update_layout(
            title=title, height=440, legend={"orientation": "h", "y": -0.2, "yanchor": "top"}
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """One row a number."""
        index, value, difference = self.ranks
        rows = {
            "codes": self.size,
            "never updated": self.untouched,
            "never updated, yet chosen": self.untouched_used,
            "median displacement": self.median,
            "rank correlation with frequency": self.correlation,
            "self-retrieval": self.retrieved,
            "linear CKA": self.cka,
            "effective rank of F": index,
            "effective rank of E": value,
            "effective rank of E - F": difference,
        }
        return pd.DataFrame({"measure": list(rows), "value": [float(x) for x in rows.values()]})

    def summary(self) -> str:
        """How many rows moved, how far, and whether the index still finds them."""
        if self.untouched == self.size:
            return f"None of the {self.size:,} codes has moved: the value table is the index table, bit for bit."
        follows = (
            ""
            if np.isnan(self.correlation)
            else f" (rank correlation with frequency {self.correlation:.2f})"
        )
        return (
            f"{self.untouched:,} of {self.size:,} codes were never updated, {self.untouched_used:,} of them chosen by"
            f" some token here; half of the others moved by more than {100 * self.median:.3g} % of their"
            f" length{follows}. {100 * self.retrieved:.1f} % of the values still lie nearest to their own index row."
        )


def cascade_displacement(
    cascade_start: np.ndarray,
    codebook: np.ndarray,
    codes: np.ndarray,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CascadeDisplacement:
    """Compare a cascade's value table, the codebook (g, k, d), with the frozen index table it started as.

    Of large tables random codes are searched and drawn. Raises UserError where the two differ in shape, for NaN and
    for what `read` refuses.
    """
    counts = parse_codes(codes, codebook, active, "Cascade displacement").counts.ravel()
    index, value = _tables(cascade_start, codebook)
    random = np.random.default_rng(seed)
    drawn = subsample(len(index), MOST_POINTS, random)
    lengths, tiny = np.linalg.norm(index, axis=1), np.finfo(np.float32).tiny
    moved = np.linalg.norm(value - index, axis=1) / np.maximum(lengths, tiny)
    untouched = (value == index).all(axis=1)
    cosines = np.einsum("kd,kd->k", index, value) / np.maximum(
        lengths * np.linalg.norm(value, axis=1), tiny
    )
    others, found_again = moved[~untouched], _retrieved(cascade_start, codebook, random)
    return CascadeDisplacement(
        counts=counts[drawn],
        moved=moved[drawn],
        cosines=cosines[drawn].clip(-1, 1),
        size=len(moved),
        tokens=int(counts.sum()),
        untouched=int(untouched.sum()),
        untouched_used=int((untouched & (counts > 0)).sum()),
        median=float(np.median(others)) if len(others) else 0.0,
        correlation=_rank_correlation(others, counts[~untouched]),
        retrieved=float(found_again.mean()),
        looked_at=len(found_again),
        cka=_cka(index, value),
        ranks=tuple(map(_rank, (index, value, value - index))),
        seed=seed,
    )


def _tables(cascade_start: np.ndarray, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index and the value table, float32 (g * k, d), checked."""
    if cascade_start.shape != codebook.shape:
        a, b = (" × ".join(map(str, x.shape)) for x in (cascade_start, codebook))
        raise UserError(
            f"The index table is {a} and the value table {b}. Do both come from the same run?"
        )
    index, value = (
        np.asarray(x, np.float32).reshape(-1, x.shape[2]) for x in (cascade_start, codebook)
    )
    if not (np.isfinite(index).all() and np.isfinite(value).all()):
        raise UserError("The tables hold NaN or infinity. Collect from an earlier step.")
    return index, value


def _retrieved(index: np.ndarray, value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Whether the nearest index row, in its book, of each of some values is its own, bool (m,); ties count as found."""
    from sklearn.neighbors import NearestNeighbors

    hits = []
    for f, e in zip(np.asarray(index, np.float32), np.asarray(value, np.float32), strict=True):
        places = subsample(len(f), searchable(*f.shape), random)
        near = (
            NearestNeighbors(n_neighbors=1, algorithm="brute")
            .fit(f)
            .kneighbors(e[places], return_distance=False)
        )
        hits.append((near[:, 0] == places) | (f[near[:, 0]] == f[places]).all(axis=1))
    return np.concatenate(hits)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if len(a) < 3 or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(spearmanr(a, b).statistic)


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The covariances (d, d) of rows of two tables, times their number."""
    return a.T @ b - len(a) * np.outer(a.mean(axis=0), b.mean(axis=0))


def _cka(a: np.ndarray, b: np.ndarray) -> float:
    # Of the channels' covariances: the rows' inner products would be a matrix of codes by codes.
    scale = np.linalg.norm(_products(a, a)) * np.linalg.norm(_products(b, b))
    return float(np.square(_products(a, b)).sum() / scale) if scale else 0.0


def _rank(rows: np.ndarray) -> float:
    values = np.linalg.eigvalsh(_products(rows, rows).astype(np.float64)).clip(min=0)
    return effective_rank(values / values.sum()) if values.sum() > 0 else 0.0
