"""Distances between sets of images, from their features.

All sets of a comparison are cut to one size. Those of the same images keep the same images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.analysis.generation.distance_names import distance_name
from workbench.analysis.generation.feature_distances import (
    MAX_MANIFOLD_IMAGES,
    frechet_distance,
    frechet_error,
    gaussian_distance,
    gaussian_kernel_distance,
    has_influence_error,
    kernel_distance,
    precision_recall,
)
from workbench.analysis.generation.half_sampling import half_samples
from workbench.core.errors import NotApplicable, UserError
from workbench.core.moments import BLOCK_ROWS, Moments

MIN_IMAGES = 10  # per set
# With more features, errors come from influence functions: resampling would take minutes.
MAX_RESAMPLED_FEATURES = 512
MAX_SPLITS_OF_WIDE_FEATURES = 10
FLOOR = "floor"
# Name, real set, evaluated set. The floor is the distance between two sets of real images.
PAIRS = (
    (FLOOR, "held-out", "training"),
    ("r", "held-out", "reconstructions"),
    ("i", "held-out", "interpolations"),
    ("i", "held-out", "midpoints"),
    ("g", "training", "samples"),
    ("gap", "reconstructions", "samples"),
)
# Sets that are compared with a file of reference statistics.
REFERENCE_PAIRS = (("r", "reconstructions"), ("g", "samples"))
# Sets of features that belong to the same images, row by row.
PAIRED_SETS = ("held-out", "reconstructions", "interpolations", "midpoints")
Sets = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Distance between two sets of images of equal size, or of a set to reference statistics.

    A value that cannot be computed is NaN.

    Attributes
    ----------
    name : str
        rFD, gFD, iFD (interpolation), gap or floor; FID or FDD in place of FD.
    real, evaluated : str
        Names of the sets.
    value : float
        Fréchet distance.
    low, high : float
        95 % interval of its variation at this n, by half samples, which are conservative near the
        floor, or by influence functions for over 512 features or over 10,000 images.
    extrapolated : float
        The distance extrapolated to unlimited n, with about the same variation.
    kid : float
        Kernel distance; unbiased, so that it may be negative.
    kid_error : float
        Standard error over blocks.
    precision : float
        Fraction of the evaluated images on the manifold of the real images.
    recall : float
        Fraction of the real images on the manifold of the evaluated images.
    precision_error, recall_error : float
        Binomial standard errors, for fixed manifolds.
    cmmd : float or None
        Distance with a Gaussian kernel; None for features other than CLIP's.
    n : int
        Images of the evaluated set.
    """

    name: str
    real: str
    evaluated: str
    value: float
    low: float = np.nan
    high: float = np.nan
    extrapolated: float = np.nan
    kid: float = np.nan
    kid_error: float = np.nan
    precision: float = np.nan
    recall: float = np.nan
    precision_error: float = np.nan
    recall_error: float = np.nan
    cmmd: float | None = None
    n: int


@dataclass(frozen=True, kw_only=True)
class SetComparison:
    """The settings with which all pairs of sets are compared.

    Attributes
    ----------
    feature_extractor : str
        Name of the network of the features.
    splits : int
        Number of half samples behind an interval.
    neighbors : int
        The k of the manifolds of precision and recall.
    seed : int
        Seed of the subsets and half samples.
    """

    feature_extractor: str
    splits: int
    neighbors: int
    seed: int

    def of_sets(self, sets: Sets, pairs: Sequence[tuple[str, str, str]]) -> tuple[Distance, ...]:
        """Compare sets of images, cut to equal size."""
        if not pairs:
            return ()
        equal_sets = cut_to_equal_size(sets, self.seed)
        return tuple(
            self._of_pair(name, real, evaluated, equal_sets[real], equal_sets[evaluated])
            for name, real, evaluated in pairs
        )

    def with_reference(
        self, sets: Sets, reference: Moments | None, reference_name: str
    ) -> tuple[Distance, ...]:
        """Compare all images of the sets with reference statistics, which are fixed."""
        if reference is None:
            return ()
        distances = []
        for prefix, evaluated in REFERENCE_PAIRS:
            if evaluated not in sets:
                continue
            rows = sets[evaluated]
            moments = Moments.from_rows(rows)
            value = gaussian_distance(reference, moments)
            has_full_rank = len(rows) > moments.dim
            error = frechet_error(rows, reference, moments) if has_full_rank else np.nan
            distances.append(
                Distance(
                    name=distance_name(prefix, self.feature_extractor),
                    real=reference_name,
                    evaluated=evaluated,
                    value=value,
                    low=np.fmax(value - 1.96 * error, 0.0) if has_full_rank else np.nan,
                    high=value + 1.96 * error,
                    n=len(rows),
                )
            )
        return tuple(distances)

    def _of_pair(
        self, prefix: str, real: str, evaluated: str, a: np.ndarray, b: np.ndarray
    ) -> Distance:
        value = frechet_distance(a, b)
        error, half_value = self._error(a, b)
        margin = 1.96 * error
        kid, kid_error = kernel_distance(a, b)
        precision, recall = precision_recall(a, b, self.neighbors)
        num_manifold = min(len(b), MAX_MANIFOLD_IMAGES)
        is_clip = self.feature_extractor.partition(":")[0] == "clip"
        has_own_name = prefix in ("r", "i", "g")
        return Distance(
            name=distance_name(prefix, self.feature_extractor) if has_own_name else prefix,
            real=real,
            evaluated=evaluated,
            value=value,
            low=max(value - margin, 0.0),
            high=value + margin,
            extrapolated=2 * value - half_value,
            kid=kid,
            kid_error=kid_error,
            precision=precision,
            recall=recall,
            precision_error=_binomial_error(precision, num_manifold),
            recall_error=_binomial_error(recall, num_manifold),
            cmmd=gaussian_kernel_distance(a, b)[0] if is_clip else None,
            n=len(b),
        )

    def _error(self, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        """Return the standard error of the distance, and the mean distance of half samples."""
        n, dim = b.shape
        is_wide = dim > MAX_RESAMPLED_FEATURES
        has_influence = (is_wide and n > dim) or has_influence_error(n, dim)
        splits = min(self.splits, MAX_SPLITS_OF_WIDE_FEATURES) if is_wide else self.splits
        error, half_value = half_samples(
            lambda half: frechet_distance(a[half], b[half]),
            n,
            splits=1 if has_influence else splits,
            seed=self.seed,
        )
        if has_influence:
            error = np.array(frechet_error(b, Moments.from_rows(a), Moments.from_rows(b), a))
        return float(error), float(half_value)


def pairs_of(sets: Sets) -> list[tuple[str, str, str]]:
    """Return the pairs of which both sets are present."""
    return [pair for pair in PAIRS if pair[1] in sets and pair[2] in sets]


def present_sets(sets: Mapping[str, np.ndarray | None]) -> Sets:
    """Return the sets that are not None, checked for size, NaN and dimensions."""
    return check_sets({name: rows for name, rows in sets.items() if rows is not None})


def check_sets(sets: Sets) -> Sets:
    """Return the sets after a check of their sizes, values and dimensions."""
    for name, rows in sets.items():
        _check_rows(name, rows)
    if len({rows.shape[1] for rows in sets.values()}) > 1:
        dimensions = ", ".join(f"{name} {rows.shape[1]}" for name, rows in sets.items())
        raise UserError(
            f"The features differ in dimensions ({dimensions})."
            " Were all of them computed by one feature extractor?"
        )
    num_images = len(sets.get("held-out", ()))
    num_reconstructions = len(sets.get("reconstructions", ()))
    if num_images and num_reconstructions and num_images != num_reconstructions:
        raise UserError(
            f"There are features of {num_images} images and {num_reconstructions} reconstructions."
            " Do both come from one run?"
        )
    return sets


def _check_rows(name: str, rows: np.ndarray) -> None:
    """Check the number and the values of features in blocks: large sets are on disk."""
    if len(rows) < MIN_IMAGES:
        raise NotApplicable(
            f"Fidelity needs at least {MIN_IMAGES} images per set; there are {len(rows)} {name}."
        )
    num_invalid = sum(
        int((~np.isfinite(rows[start : start + BLOCK_ROWS])).any(axis=1).sum())
        for start in range(0, len(rows), BLOCK_ROWS)
    )
    if num_invalid:
        raise UserError(
            f"The features of {num_invalid} of {len(rows)} images contain NaN or infinity ({name})."
        )


def cut_to_equal_size(sets: Sets, seed: int) -> Sets:
    """Cut the sets to the smallest; sets of the same images keep the same images, in one order."""
    random = np.random.default_rng(seed)
    n = min(map(len, sets.values()))
    num_held_out = max(len(sets.get("held-out", ())), len(sets.get("reconstructions", ())))
    shared_order = random.permutation(num_held_out)
    cut = {}
    for name, rows in sets.items():
        is_paired = name in PAIRED_SETS and len(rows) == num_held_out
        order = shared_order if is_paired else random.permutation(len(rows))
        cut[name] = rows[order[:n]]
    return cut


def reference_moments(mean: np.ndarray | None, covariance: np.ndarray | None) -> Moments | None:
    """Return the moments of a reference set; None without a mean or a covariance."""
    if mean is None or covariance is None:
        return None
    return Moments(np.asarray(mean, np.float64), np.asarray(covariance, np.float64), None)


def _binomial_error(share: float, n: int) -> float:
    return float(np.sqrt(share * (1 - share) / n))
