"""Distances between the codewords of a codebook, and the causes of dead codes."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import (
    MAX_TOKENS_IN_MEMORY,
    Codes,
    parse_codes,
    require_vectors,
)
from workbench.analysis.codebook.hubness import hubness
from workbench.analysis.codebook.usage import CodebookStats, codebook_stats, worst_verdict
from workbench.analysis.stats.dispersion import participation_ratio, spectrum
from workbench.analysis.stats.sampling import Subset, subsample
from workbench.core.counted import mean_count
from workbench.core.errors import NotApplicable, UserError
from workbench.core.mapped_memory import release_mapped_pages

# Multiply-adds of one nearest-neighbor search. Larger codebooks are searched for random codes.
MAX_SEARCH_OPERATIONS = 2e10
MIN_SEARCHED_CODES = 64
# Codes closer than this fraction of the median distance are duplicates.
DUPLICATE_DISTANCE = 1e-3
# A code is far if the nearest used code is more than this many median distances away.
FAR_DISTANCE = 3.0
MAX_COVARIANCE_CODES = 100_000
CAUSES = ("duplicate", "far", "rare", "passed over")
CAUSE_LABELS = {
    "duplicate": "duplicates of another code",
    "far": "far from all used codes",
    "rare": "expected to be used with more tokens",
    "passed over": "near used codes, never nearest",
}
COLUMNS = (
    "size",
    "used",
    "verdict",
    "searched",
    "duplicates",
    "median",
    "low",
    "high",
    "radius_ratio",
    "norm",
    "norm_cv",
    "cosine",
    "participation",
    "hubness",
    "hubness_gaussian",
    "hubness_gaussian_max",
)


@dataclass(frozen=True, eq=False)
class CodebookDistances:
    """Distances of one codebook. Numbers of codes are estimates if only some were searched."""

    size: int
    used: int
    verdict: str  # verdict of `codebook_usage` for the same tokens
    searched: int  # codes whose nearest other code was searched
    distances: np.ndarray = field(repr=False)  # (searched,): distance to the nearest other code
    is_used: np.ndarray = field(repr=False)  # bool (searched,)
    duplicates: float  # codes within a thousandth of the median distance of another code
    dead: dict[str, float]  # dead codes by cause
    median: float  # median of the positive distances
    low: float  # 5th percentile of the distances
    high: float  # 95th percentile of the distances
    # Median distance over the RMS distance of tokens to their code; NaN if tokens are their codes.
    radius_ratio: float
    norm: float  # mean norm of the codewords
    norm_cv: float  # standard deviation of the norms over their mean
    cosine: float  # mean cosine over all pairs of codes
    participation: float  # participation ratio of the covariance of the codewords
    # Skewness of the 10-nearest-neighbor in-degrees; NaN for 20 codes or fewer.
    hubness: float
    hubness_gaussian: float  # mean for five draws of Gaussian vectors of the same covariance
    hubness_gaussian_max: float  # largest of the five


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeDistances(Result):
    """Distances of every codebook."""

    codebooks: tuple[CodebookDistances, ...]
    dimensions: int
    seed: int

    def table(self) -> pd.DataFrame:
        """Return one row per codebook."""
        rows = []
        for i, codebook in enumerate(self.codebooks):
            row = {"codebook": str(i)} | {name: getattr(codebook, name) for name in COLUMNS}
            rows.append(row | {f"dead: {cause}": codebook.dead[cause] for cause in CAUSES})
        return pd.DataFrame(rows)

    @property
    def subset(self) -> Subset | None:
        """The codes whose nearest other code was searched, if they are not all."""
        first = self.codebooks[0]
        return Subset.if_partial(first.searched, first.size, "codes")

    def summary(self) -> str:
        """State the dead codes by cause, the duplicates, the distances and the hubness."""
        sentences = (
            self._dead_sentence(),
            self._distance_sentence(),
            self._hubness_sentence(),
        )
        return " ".join(sentence for sentence in sentences if sentence)

    def _dead_sentence(self) -> str:
        dead = {cause: self._mean_dead(cause) for cause in CAUSES}
        total = sum(dead.values())
        if not total:
            return "No code is unused."
        size = f"{self._mean('size'):,.0f} codes"
        if len(self.codebooks) > 1:
            size += f" of each of {len(self.codebooks)} codebooks, on average"
        causes = ", ".join(
            f"{mean_count(count)} {CAUSE_LABELS[cause]}" for cause, count in dead.items() if count
        )
        verdict = worst_verdict([codebook.verdict for codebook in self.codebooks])
        return f"{mean_count(total)} of the {size} are unused (usage: {verdict}): {causes}."

    def _distance_sentence(self) -> str:
        subset = "" if self.subset is None else f" ({self.subset})"
        return (
            f"The median distance to the nearest other code is {self._mean('median'):.3g}{subset},"
            f" and the mean norm is {self._mean('norm'):.3g};"
            f" {mean_count(self._mean('duplicates'))} codes are duplicates."
        )

    def _hubness_sentence(self) -> str:
        skewness = self._mean("hubness")
        if np.isnan(skewness):
            return ""
        return (
            f"Hubness (skewness of 10-nearest-neighbor in-degrees): {skewness:.2f}; Gaussian"
            f" vectors have {self._mean('hubness_gaussian'):.2f}"
            f" (at most {self._mean('hubness_gaussian_max'):.2f})."
        )

    def _mean(self, name: str) -> float:
        return float(np.mean([getattr(codebook, name) for codebook in self.codebooks]))

    def _mean_dead(self, cause: str) -> float:
        return float(np.mean([codebook.dead[cause] for codebook in self.codebooks]))


def code_distances(
    codes: np.ndarray,
    codebook: np.ndarray,
    latents: np.ndarray | None = None,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeDistances:
    """Measure the distance of each code to the nearest other, and classify dead codes by cause.

    A dead code gets the first cause that applies:

    - *duplicate*: it is within a thousandth of the median distance of another code;
    - *far*: the nearest used code is over three median distances away (used codes represent the
      data, because encoder outputs are not stored);
    - *rare*: as many of the remaining codes as Chao's estimate expects more tokens to reach;
    - *passed over*: the rest.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim)
        The codewords. Of large codebooks, random codes are searched.
    latents : ndarray of float, shape (n_images, n_tokens, dim), optional
        Vectors that the decoder reads, to measure the distance of tokens to their codes.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are left out.
    seed : int, default 0
        Seed of the subsets of codes and of the Gaussian reference.

    Returns
    -------
    CodeDistances
        Distances, duplicates, dead codes by cause, and hubness of each codebook.

    Raises
    ------
    UserError
        If the codebook contains NaN, or the codes do not match it.
    NotApplicable
        If there are no tokens, there is only one code, or the vectors of the codebook are not
        known.

    Examples
    --------
    >>> import numpy as np
    >>> codebook = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 0.0]]])
    >>> distances = code_distances(np.array([[0, 1, 2, 2]]), codebook)
    >>> distances.codebooks[0].median, distances.codebooks[0].dead["far"]
    (1.0, 1.0)
    """
    codebook = require_vectors(codebook, "The analysis of code distances")
    parsed = parse_codes(codes, codebook, active, "The analysis of code distances")
    if parsed.codebook_size < 2:
        raise NotApplicable("Code distances need at least two codes; this codebook has one.")
    radii = _radii(parsed, codebook, latents)
    codebooks = []
    for codewords, counts, radius in zip(codebook, parsed.counts, radii, strict=True):
        if not np.isfinite(codewords).all():
            raise UserError(
                "The codebook contains NaN or infinity. Collect the evidence from an earlier step."
            )
        codebooks.append(
            _measure(np.asarray(codewords, np.float32), counts, radius, np.random.default_rng(seed))
        )
    return CodeDistances(codebooks=tuple(codebooks), dimensions=codebook.shape[2], seed=seed)


def nearest_other(codewords: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search the nearest other row of some rows of a table.

    Parameters
    ----------
    codewords : ndarray of float, shape (k, dim)
        The table.
    rows : ndarray of int, shape (m,)
        Indices of the rows whose nearest other row is searched.

    Returns
    -------
    nearest : ndarray of int, shape (m,)
        Index of the nearest other row.
    distances : ndarray of float64, shape (m,)
        Distance to it; exactly 0 for a copy.

    Examples
    --------
    >>> import numpy as np
    >>> nearest, distances = nearest_other(np.array([[0.0], [1.0], [3.0]]), np.array([0, 2]))
    >>> nearest.tolist(), distances.tolist()
    ([1, 1], [1.0, 2.0])
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(codewords)
    two_nearest = search.kneighbors(codewords[rows], return_distance=False)
    nearest = np.where(two_nearest[:, 0] == rows, two_nearest[:, 1], two_nearest[:, 0])
    # Computed again from differences: the search's sums of squares lose small distances.
    difference = codewords[rows].astype(np.float64) - codewords[nearest]
    return nearest, np.linalg.norm(difference, axis=1)


def max_searched_codes(size: int, dim: int) -> int:
    """Return how many of `size` codes can be searched within a few seconds."""
    affordable = MAX_SEARCH_OPERATIONS // (size * dim)
    return int(min(size, max(MIN_SEARCHED_CODES, affordable)))


def _measure(
    codewords: np.ndarray, counts: np.ndarray, radius: float, random: np.random.Generator
) -> CodebookDistances:
    size = len(codewords)
    is_used = counts > 0
    usage = codebook_stats(counts)
    max_rows = max_searched_codes(size, codewords.shape[1])
    rows = subsample(size, max_rows, random)
    distances = nearest_other(codewords, rows)[1]
    positive = distances[distances > 0]
    median = float(np.median(positive)) if len(positive) else 0.0
    low, high = np.percentile(distances, [5, 95])
    norms = np.linalg.norm(codewords, axis=1).astype(np.float64)
    spanned = codewords[subsample(size, MAX_COVARIANCE_CODES, random)]
    codewords_hubness, gaussian_hubness, gaussian_hubness_max = hubness(codewords, random)
    dead = _dead_by_cause(codewords, usage, median, max_rows, random)
    varies = bool(np.ptp(spanned, axis=0).any())
    return CodebookDistances(
        size=size,
        used=usage.used,
        verdict=usage.verdict,
        searched=len(rows),
        distances=distances,
        is_used=is_used[rows],
        duplicates=float((distances <= DUPLICATE_DISTANCE * median).mean() * size),
        dead=dead,
        median=median,
        low=float(low),
        high=float(high),
        radius_ratio=median / radius if radius > 0 else float("nan"),
        norm=float(norms.mean()),
        norm_cv=float(norms.std() / (norms.mean() or 1)),
        cosine=_mean_cosine(codewords, norms),
        participation=participation_ratio(spectrum(spanned)) if varies else 0.0,
        hubness=codewords_hubness,
        hubness_gaussian=gaussian_hubness,
        hubness_gaussian_max=gaussian_hubness_max,
    )


def _mean_cosine(codewords: np.ndarray, norms: np.ndarray) -> float:
    """Return the mean over all pairs, from the squared norm of the sum of unit vectors."""
    size = len(codewords)
    direction_sum = (1 / np.where(norms > 0, norms, np.inf)) @ codewords
    return float((np.square(direction_sum).sum() - (norms > 0).sum()) / (size * (size - 1)))


def _dead_by_cause(
    codewords: np.ndarray,
    usage: CodebookStats,
    median: float,
    max_rows: int,
    random: np.random.Generator,
) -> dict[str, float]:
    from sklearn.neighbors import NearestNeighbors

    used = np.flatnonzero(usage.counts)
    dead = np.flatnonzero(usage.counts == 0)
    if not len(dead):
        return dict.fromkeys(CAUSES, 0.0)
    rows = dead[subsample(len(dead), max_rows, random)]
    scale = len(dead) / len(rows)
    is_duplicate = nearest_other(codewords, rows)[1] <= DUPLICATE_DISTANCE * median
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(codewords[used])
    distance_to_used = search.kneighbors(codewords[rows])[0][:, 0]
    is_far = ~is_duplicate & (distance_to_used > FAR_DISTANCE * median)
    remaining = float((~is_duplicate & ~is_far).sum() * scale)
    rare = min(remaining, usage.chao1 - usage.used)
    return {
        "duplicate": float(is_duplicate.sum() * scale),
        "far": float(is_far.sum() * scale),
        "rare": rare,
        "passed over": remaining - rare,
    }


def _radii(codes: Codes, codebook: np.ndarray, latents: np.ndarray | None) -> np.ndarray:
    """Return the RMS distance of the tokens of each codebook to their codes, (n_codebooks,).

    It is 0 if tokens are their codes, or if the latents are missing or have another shape.
    """
    squares = np.zeros(codes.num_codebooks)
    shape = (*codes.codes.shape, codebook.shape[2])
    if latents is None or latents.shape != shape:
        return squares
    codewords = codebook.reshape(-1, codebook.shape[2])
    step = max(1, MAX_TOKENS_IN_MEMORY // (shape[1] * shape[2]))
    for start in range(0, len(latents), step):
        part = slice(start, start + step)
        ids = codes.ids(part)
        difference = np.asarray(latents[part], np.float64) - codewords[ids]
        square = np.square(difference).sum(axis=2) * (ids >= 0)
        blocks = square.reshape(len(ids), codes.num_codebooks, codes.tokens_per_codebook)
        squares += blocks.sum(axis=(0, 2))
        release_mapped_pages()
    return np.sqrt(squares / codes.counts.sum(axis=1))
