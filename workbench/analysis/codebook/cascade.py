"""Displacement of a cascade's value table from its frozen index table.

UniCode^2's cascade looks a token's code up in the index table F and reads the value from the table
E, which starts as a copy of F.

References
----------
UniCode^2, arXiv 2506.20214.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import parse_codes, require_vectors
from workbench.analysis.codebook.distances import max_searched_codes
from workbench.analysis.plotting.style import COLORS, DEAD_COLOR, apply_theme
from workbench.analysis.stats.dispersion import effective_rank
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.stats.sampling import subsample
from workbench.core.counted import counted
from workbench.core.errors import UserError

MAX_POINTS = 4000
MIN_CORRELATED_CODES = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class CascadeDisplacement(Result):
    """The value table E compared with the index table F that it started as."""

    counts: np.ndarray = field(repr=False)  # int (m,): tokens of some codes
    displacement: np.ndarray = field(repr=False)  # (m,): |E - F| / |F| of the same codes
    cosines: np.ndarray = field(repr=False)  # (m,): cosine of E and F of the same codes
    size: int  # codes of all codebooks
    tokens: int
    untouched: int  # codes whose value equals the index bit for bit
    untouched_used: int  # those of them that tokens selected
    median: float  # median displacement of the codes that moved
    # Spearman correlation of displacement and frequency among codes that moved; NaN if constant.
    correlation: float
    retrieved: float  # fraction of values whose nearest index row is their own
    searched: int  # codes whose nearest index row was searched
    cka: float  # linear centered kernel alignment of the two tables
    rank_index: float  # effective rank of F; 0 for a constant table
    rank_value: float  # effective rank of E
    rank_difference: float  # effective rank of E - F
    seed: int

    def figure(self) -> go.Figure:
        """Draw displacement by frequency, and a histogram of the cosines of the tables."""
        figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.16)
        self._add_displacement(figure)
        self._add_cosines(figure)
        subset = ""
        if len(self.displacement) < self.size:
            subset = f", {len(self.displacement):,} drawn (seed {self.seed})"
        subtitle = f"{self.size:,} codes{subset} · n = {self.tokens:,} tokens"
        figure.update_layout(
            title={
                "text": "Displacement of the value table E from the index table F",
                "subtitle": {"text": subtitle},
            },
            height=440,
            legend={"orientation": "h", "y": -0.2, "yanchor": "top"},
        )
        return apply_theme(figure)

    def table(self) -> pd.DataFrame:
        """Return one row per measure."""
        rows = {
            "codes": self.size,
            "never updated": self.untouched,
            "never updated but used": self.untouched_used,
            "median displacement": self.median,
            "rank correlation with frequency": self.correlation,
            "self-retrieval": self.retrieved,
            "linear CKA": self.cka,
            "effective rank of F": self.rank_index,
            "effective rank of E": self.rank_value,
            "effective rank of E - F": self.rank_difference,
        }
        return pd.DataFrame({"measure": list(rows), "value": [float(x) for x in rows.values()]})

    def summary(self) -> str:
        """State the number of updated rows, their displacement and the self-retrieval."""
        if self.untouched == self.size:
            return (
                f"None of the {self.size:,} codes has moved:"
                " the value table equals the index table bit for bit."
            )
        correlation = ""
        if not np.isnan(self.correlation):
            correlation = f" (rank correlation with frequency {self.correlation:.2f})"
        sentences = [
            f"{self.size - self.untouched:,} of {self.size:,} codes moved, by a median of"
            f" {100 * self.median:.3g} % of their norm{correlation}."
        ]
        if self.untouched:
            sentences.append(
                f"{counted(self.untouched, 'code was', 'codes were')} never updated, of which"
                f" tokens use {self.untouched_used:,}."
            )
        sentences.append(
            f"{100 * self.retrieved:.1f} % of the values are still nearest to their own index row."
        )
        return " ".join(sentences)

    def _add_displacement(self, figure: go.Figure) -> None:
        for name, mask, color, symbol in (
            ("codes that moved", self.displacement > 0, COLORS[0], "circle"),
            ("× never updated", self.displacement == 0, DEAD_COLOR, "x"),
        ):
            figure.add_scatter(
                x=self.counts[mask] + 1,
                y=self.displacement[mask],
                mode="markers",
                marker={"color": color, "symbol": symbol, "size": 5, "opacity": 0.75},
                name=name,
                hoverinfo="skip",
                row=1,
                col=1,
            )
        figure.update_xaxes(title="tokens per code, plus 1", type="log", dtick=1, row=1, col=1)
        figure.update_yaxes(title="displacement |E − F| / |F|", rangemode="tozero", row=1, col=1)

    def _add_cosines(self, figure: go.Figure) -> None:
        low = min(float(self.cosines.min()), 0.99)
        counts, edges = np.histogram(self.cosines, bins=40, range=(low, 1))
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts,
            width=edges[1] - edges[0],
            marker={"color": COLORS[2], "line": {"width": 0}},
            showlegend=False,
            row=1,
            col=2,
        )
        figure.update_xaxes(title="cosine of E and F", row=1, col=2)
        figure.update_yaxes(title="codes", row=1, col=2)


def cascade_displacement(
    cascade_start: np.ndarray,
    codebook: np.ndarray,
    codes: np.ndarray,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CascadeDisplacement:
    """Compare a cascade's value table with the frozen index table that it started as.

    Parameters
    ----------
    cascade_start : ndarray of float, shape (n_codebooks, codebook_size, dim)
        The frozen index table F.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim)
        The value table E. For large tables, the nearest index row is searched for random codes.
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are not counted.
    seed : int, default 0
        Seed of the subsets of codes.

    Returns
    -------
    CascadeDisplacement
        Displacement by frequency, similarity of the tables, and self-retrieval.

    Raises
    ------
    UserError
        If the tables differ in shape or contain NaN, or if the codes do not match them.
    NotApplicable
        If there are no tokens, or the vectors of the codebook are not known.

    Examples
    --------
    >>> import numpy as np
    >>> index = np.eye(4)[None]
    >>> result = cascade_displacement(index, 2 * index, np.array([[0, 1, 2, 3]]))
    >>> result.median, result.untouched
    (1.0, 0)
    """
    codebook = require_vectors(codebook, "Cascade displacement")
    counts = parse_codes(codes, codebook, active, "Cascade displacement").counts.ravel()
    index, value = _check_tables(cascade_start, codebook)
    random = np.random.default_rng(seed)
    points = subsample(len(index), MAX_POINTS, random)
    tiny = np.finfo(np.float32).tiny
    lengths = np.linalg.norm(index, axis=1)
    displacement = np.linalg.norm(value - index, axis=1) / np.maximum(lengths, tiny)
    products = lengths * np.linalg.norm(value, axis=1)
    cosines = np.einsum("kd,kd->k", index, value) / np.maximum(products, tiny)
    is_untouched = (value == index).all(axis=1)
    moved = displacement[~is_untouched]
    is_retrieved = _is_retrieved(cascade_start, codebook, random)
    return CascadeDisplacement(
        counts=counts[points],
        displacement=displacement[points],
        cosines=cosines[points].clip(-1, 1),
        size=len(displacement),
        tokens=int(counts.sum()),
        untouched=int(is_untouched.sum()),
        untouched_used=int((is_untouched & (counts > 0)).sum()),
        median=float(np.median(moved)) if len(moved) else 0.0,
        correlation=_rank_correlation(moved, counts[~is_untouched]),
        retrieved=float(is_retrieved.mean()),
        searched=len(is_retrieved),
        cka=_linear_cka(index, value),
        rank_index=_effective_rank(index),
        rank_value=_effective_rank(value),
        rank_difference=_effective_rank(value - index),
        seed=seed,
    )


def _check_tables(cascade_start: np.ndarray, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both tables as float32 (n_codebooks * codebook_size, dim)."""
    if cascade_start.shape != codebook.shape:
        index_shape, value_shape = (
            " × ".join(map(str, table.shape)) for table in (cascade_start, codebook)
        )
        raise UserError(
            f"The index table has shape {index_shape} and the value table has shape {value_shape}."
            " Do both come from the same run?"
        )
    dim = codebook.shape[2]
    index = np.asarray(cascade_start, np.float32).reshape(-1, dim)
    value = np.asarray(codebook, np.float32).reshape(-1, dim)
    if not (np.isfinite(index).all() and np.isfinite(value).all()):
        raise UserError(
            "The tables contain NaN or infinity. Collect the evidence from an earlier step."
        )
    return index, value


def _is_retrieved(index: np.ndarray, value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Search the nearest index row of some values per codebook, bool (m,); ties count as hits."""
    from sklearn.neighbors import NearestNeighbors

    hits = []
    tables = zip(np.asarray(index, np.float32), np.asarray(value, np.float32), strict=True)
    for index_rows, value_rows in tables:
        rows = subsample(len(index_rows), max_searched_codes(*index_rows.shape), random)
        search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(index_rows)
        nearest = search.kneighbors(value_rows[rows], return_distance=False)[:, 0]
        is_tie = (index_rows[nearest] == index_rows[rows]).all(axis=1)
        hits.append((nearest == rows) | is_tie)
    return np.concatenate(hits)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < MIN_CORRELATED_CODES or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(spearman(a[:, None], b)[0])


def _cross_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the covariances (dim, dim) between the columns of two tables, times their length."""
    return a.T @ b - len(a) * np.outer(a.mean(axis=0), b.mean(axis=0))


def _linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    # Channel covariances are small; inner products of rows would be a matrix of codes by codes.
    scale = np.linalg.norm(_cross_products(a, a)) * np.linalg.norm(_cross_products(b, b))
    return float(np.square(_cross_products(a, b)).sum() / scale) if scale else 0.0


def _effective_rank(rows: np.ndarray) -> float:
    values = np.linalg.eigvalsh(_cross_products(rows, rows).astype(np.float64)).clip(min=0)
    return effective_rank(values / values.sum()) if values.sum() > 0 else 0.0
