"""How far apart the codes of a book lie, and why those that no token chose are dead."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Range, Result
from workbench.analysis.codebook.codes import AT_ONCE, Codes, parse_codes
from workbench.analysis.codebook.hubness import hubness
from workbench.analysis.codebook.usage import codebook_stats
from workbench.analysis.stats.dispersion import participation_ratio, spectrum
from workbench.analysis.stats.sampling import subsample
from workbench.core.errors import NotApplicable, UserError

WORK = 2e10  # multiply-adds of a search: of a larger book some codes are looked at, drawn at random
TWIN = 1e-3  # of the median distance: nearer codes are duplicates
FAR = 3.0  # times the median distance: farther from every used code there is nothing to choose this one
CAUSES = ("duplicate", "far", "rare", "passed over")
MEANING = {
    "duplicate": "a copy of another",
    "far": "far from all that is used",
    "rare": "within reach of more tokens",
    "passed over": "near used ones, never nearest",
}
HUBNESS = ("hubness", "hubness_gaussian", "hubness_gaussian_most")
MOST_SPANNED = 100_000  # codes whose covariance is taken


@dataclass(frozen=True, eq=False)
class BookDistances:
    """The distances of one book. Where codes were drawn, numbers of codes are estimates for the whole book."""

    size: int
    used: int
    looked_at: int  # codes whose nearest other was searched
    distances: np.ndarray = field(repr=False)  # (looked_at,) from a code to the nearest other
    chosen: np.ndarray = field(repr=False)  # bool (looked_at,): whether any token chose it
    duplicates: float  # codes within a thousandth of the median distance from another
    dead: dict[str, float]  # dead codes by cause
    median: float  # of the distances
    low: float  # their 5th and 95th percentiles
    high: float
    radius_ratio: float  # median distance over the tokens' RMS distance to their code; NaN where these are the codes
    norm: float  # mean length of a code
    norm_cv: float  # deviation of the lengths, over their mean
    cosine: float  # mean over all pairs of codes
    participation: float  # participation ratio of the codes' covariance: directions they fill
    hubness: float  # skewness of how often a code is among the 10 nearest of others; NaN for 20 codes or fewer
    hubness_gaussian: (
        float  # that of as many Gaussian vectors of the same covariance: mean of five draws
    )
    hubness_gaussian_most: float  # and the largest


@dataclass(frozen=True, eq=False)
class CodeDistances(Result):
    """The distances of every book."""

    books: tuple[BookDistances, ...]
    dimensions: int
    seed: int

    def figure(self) -> go.Figure:
        """Nearest-code distances of used and of dead codes, and the book by what became of its codes."""
        from workbench.analysis.codebook.distances_figure import draw

        return draw(self)

    def table(self) -> pd.DataFrame:
        """One row a book."""
        names = ("size", "used", "looked_at", "duplicates", "median", "low", "high", "radius_ratio")
        names += ("norm", "norm_cv", "cosine", "participation", *HUBNESS)
        rows = [
            {
                "book": str(i),
                **{x: getattr(b, x) for x in names},
                **{f"dead: {c}": b.dead[c] for c in CAUSES},
            }
            for i, b in enumerate(self.books)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The usual distance, duplicates, and the dead codes by cause."""
        names = ("median", "duplicates", "size", "norm")
        mean = {name: float(np.mean([getattr(b, name) for b in self.books])) for name in names}
        dead = {cause: float(np.mean([b.dead[cause] for b in self.books])) for cause in CAUSES}
        total, first = sum(dead.values()), self.books[0]
        parts = ", ".join(f"{_count(x)} {MEANING[cause]}" for cause, x in dead.items() if x)
        each = f" in each of {len(self.books)} books, on average" if len(self.books) > 1 else ""
        drawn = "" if first.looked_at == first.size else f" ({first.looked_at:,} codes drawn)"
        why = (
            f"{_count(total)} {'is' if total == 1 else 'are'} dead: {parts}."
            if total
            else "None is dead."
        )
        return (
            f"Half of the codes have another within {mean['median']:.3g}{drawn}; their mean length is"
            f" {mean['norm']:.3g}. {_count(mean['duplicates'])} of {mean['size']:,.0f} codes are duplicates{each}."
            f" {why}{self._hubs()}"
        )

    def _hubs(self) -> str:
        mine, usual, most = (float(np.mean([getattr(b, x) for b in self.books])) for x in HUBNESS)
        if np.isnan(mine):
            return ""
        told = f"skewness {mine:.2f}, Gaussians' {usual:.2f}, at most {most:.2f}"
        return f" How often a code is among the 10 nearest of others: {told}."


def code_distances(
    codes: np.ndarray,
    codebook: np.ndarray,
    latents: np.ndarray | None = None,
    active: np.ndarray | None = None,
    *,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> CodeDistances:
    """Search the nearest other code of each entry of a codebook (g, k, d), and say why some were never chosen.

    A dead code is a *duplicate* within a thousandth of the median distance of another code; else *far* where the
    nearest used code is over three times that median away (encoder outputs are not kept, so used codes stand for the
    data); of the rest as many are *rare* as Chao's estimate expects more tokens to reach, and the others are *passed
    over*. Of large books random codes are looked at. Raises UserError for NaN in the codebook and what `read` refuses.
    """
    found = parse_codes(codes, codebook, active, "Code distances")
    if found.size < 2:
        raise NotApplicable("Code distances need at least two codes; this codebook has one.")
    books = []
    for words, counts, radius in zip(
        codebook, found.counts, _radii(found, codebook, latents), strict=True
    ):
        if not np.isfinite(words).all():
            raise UserError("The codebook holds NaN or infinity. Collect from an earlier step.")
        books.append(
            _measured(np.asarray(words, np.float32), counts, radius, np.random.default_rng(seed))
        )
    return CodeDistances(tuple(books), codebook.shape[2], seed)


def nearest_other(words: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some rows of words (k, d), the nearest other row, int (m,), and its distance, (m,): 0 for an exact copy."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(words)
    two = search.kneighbors(words[places], return_distance=False)
    nearest = np.where(two[:, 0] == places, two[:, 1], two[:, 0])
    # Again, and exactly: squares of sums lose small distances.
    return nearest, np.linalg.norm(words[places].astype(np.float64) - words[nearest], axis=1)


def searchable(size: int, dim: int) -> int:
    """How many codes can be searched among `size` of `dim` channels in a few seconds."""
    return int(min(size, max(64, WORK // (size * dim))))


def _measured(
    words: np.ndarray, counts: np.ndarray, radius: float, random: np.random.Generator
) -> BookDistances:
    size, used = len(words), counts > 0
    most = searchable(size, words.shape[1])
    places = subsample(size, most, random)
    distances = nearest_other(words, places)[1]
    apart = distances[distances > 0]
    median = float(np.median(apart)) if len(apart) else 0.0
    low, high = np.percentile(distances, [5, 95])
    norms = np.linalg.norm(words, axis=1).astype(np.float64)
    directions = (
        1 / np.where(norms > 0, norms, np.inf)
    ) @ words  # their sum; its square holds every pair's cosine
    spanned = words[subsample(size, MOST_SPANNED, random)]
    hubs = dict(zip(HUBNESS, hubness(words, random), strict=True))
    return BookDistances(
        size=size,
        used=int(used.sum()),
        looked_at=len(places),
        distances=distances,
        chosen=used[places],
        duplicates=float((distances <= TWIN * median).mean() * size),
        dead=_causes(words, counts, median, most, random),
        median=median,
        low=float(low),
        high=float(high),
        radius_ratio=median / radius if radius > 0 else float("nan"),
        norm=float(norms.mean()),
        norm_cv=float(norms.std() / (norms.mean() or 1)),
        cosine=float((np.square(directions).sum() - (norms > 0).sum()) / (size * (size - 1))),
        participation=participation_ratio(spectrum(spanned))
        if np.ptp(spanned, axis=0).any()
        else 0.0,
        **hubs,
    )


def _causes(
    words: np.ndarray, counts: np.ndarray, median: float, most: int, random: np.random.Generator
) -> dict[str, float]:
    """How many of the dead codes are dead for each cause."""
    from sklearn.neighbors import NearestNeighbors

    used, dead = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    if not len(dead):
        return dict.fromkeys(CAUSES, 0.0)
    looked_at = dead[subsample(len(dead), most, random)]
    scale = len(dead) / len(looked_at)
    twin = nearest_other(words, looked_at)[1] <= TWIN * median
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(words[used])
    far = ~twin & (search.kneighbors(words[looked_at])[0][:, 0] > FAR * median)
    left = float((~twin & ~far).sum() * scale)
    rare = min(left, codebook_stats(counts).chao1 - len(used))
    return dict(
        zip(
            CAUSES,
            (float(twin.sum() * scale), float(far.sum() * scale), rare, left - rare),
            strict=True,
        )
    )


def _radii(found: Codes, codebook: np.ndarray, latents: np.ndarray | None) -> np.ndarray:
    """The RMS distance of each book's tokens to their codes, (g,); 0 where tokens are their codes, or are not known."""
    squares = np.zeros(found.books)
    if (
        latents is None
        or latents.shape[:2] != found.rows.shape
        or latents.shape[2] != codebook.shape[2]
    ):
        return squares
    words, block = codebook.reshape(-1, codebook.shape[2]), found.rows.shape[1] // found.books
    step = max(1, AT_ONCE // (found.rows.shape[1] * codebook.shape[2]))
    for start in range(0, len(latents), step):
        part = slice(start, start + step)
        ids = found.ids(part)
        square = np.square(np.asarray(latents[part], np.float64) - words[ids]).sum(axis=2) * (
            ids >= 0
        )
        squares += square.reshape(len(ids), found.books, block).sum(axis=(0, 2))
    return np.sqrt(squares / found.counts.sum(axis=1))


def _count(codes: float) -> str:
    return f"{codes:,.1f}" if codes % 1 else f"{codes:,.0f}"
