"""Distances between real, reconstructed and generated images in the features of a network.

A Fréchet distance is named after its feature extractor, for example fd_resnet56; only that of
Inception is called FID. It is biased upward in the number of images. Therefore all sets are cut to
one n, and 2 FD(n) - FD(n/2) is reported as well, which removes the part of the bias that falls as
1/n (after arXiv 1911.07023). Near copies of training images are counted.

The interpolation distance compares held-out images with decoded midpoints of latents and their
nearest neighbors. It follows the abstract of arXiv 2603.05630; the full paper was not available.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.feature_distances import (
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.generation.memorization import (
    TAIL_SHARE,
    Memorization,
    gallery,
    memorization,
)
from workbench.core.errors import NotApplicable, UserError

MIN_IMAGES = 10  # per set
MIN_RELIABLE_IMAGES = 1000  # with fewer images, a small distance is mostly bias
MIN_TAIL_IMAGES = 500  # with fewer held-out images, 1 % of them are a handful
FLOOR = "floor"
# Name, real set, evaluated set. The floor is the distance between two sets of real images.
PAIRS = (
    (FLOOR, "held-out", "training"),
    ("r", "held-out", "reconstructions"),
    ("i", "held-out", "midpoints"),
    ("g", "training", "samples"),
    ("gap", "reconstructions", "samples"),
)
# Sets of features that belong to the same images, row by row.
PAIRED_SETS = ("held-out", "reconstructions", "midpoints")
Sets = dict[str, np.ndarray]


@dataclass(frozen=True)
class Distance:
    """Distance between two sets of images of equal size."""

    name: str  # rFD, gFD, iFD (interpolation), gap, floor
    real: str
    evaluated: str
    value: float  # Fréchet distance
    # 95 % interval of its variation at this n, by half samples; conservative near the floor.
    low: float
    high: float
    extrapolated: float  # to unlimited n, with about the same variation
    kid: float  # kernel distance; unbiased, so it may be negative
    kid_error: float  # standard error over blocks
    precision: float  # fraction of the evaluated images on the manifold of the real images
    recall: float  # fraction of the real images on the manifold of the evaluated images


@dataclass(frozen=True, eq=False)
class Fidelity(Result):
    """Distances between real, reconstructed and generated images."""

    distances: tuple[Distance, ...]
    memorization: Memorization | None  # None without samples, training and held-out images
    # uint8 (height, width, 4): samples above their nearest training images.
    gallery: np.ndarray | None = field(repr=False)
    feature_extractor: str
    n: int  # images of each set
    dimensions: int
    splits: int
    neighbors: int
    seed: int
    warnings: tuple[str, ...]

    @property
    def metric(self) -> str:
        """Name of the distance as a column: fd_resnet56, or fid for Inception."""
        if self.feature_extractor == "inception":
            return "fid"
        return f"fd_{self.feature_extractor}" if self.feature_extractor else "fd"

    @property
    def label(self) -> str:
        """Name of the distance in text: FID in capitals."""
        return self.metric.upper() if self.metric == "fid" else self.metric

    def table(self) -> pd.DataFrame:
        """Return one row per pair of sets."""
        rows = pd.DataFrame([asdict(distance) for distance in self.distances])
        return rows.rename(columns={"name": "distance", "value": self.metric}).assign(n=self.n)

    def summary(self) -> str:
        """State every distance with its interval, the floor, the near copies and the warnings."""
        sentences = []
        scores = [
            f"{d.name} {d.value:.4g} ({d.low:.4g} to {d.high:.4g})"
            for d in self.distances
            if d.name != FLOOR
        ]
        if scores:
            sentences.append(
                f"{', '.join(scores)}: {self.label} with 95 % intervals, n = {self.n:,} images."
            )
        sentences += [
            f"Two sets of real images have a distance of {d.value:.4g} ({d.low:.4g} to"
            f" {d.high:.4g}), {self.label} at n = {self.n:,}."
            for d in self.distances
            if d.name == FLOOR
        ]
        if self.memorization:
            copies = self.memorization
            sentences.append(
                f"{100 * copies.share:.1f} % of the samples ({100 * copies.low:.1f} to"
                f" {100 * copies.high:.1f} %) are as near to a training image as the nearest"
                f" {100 * TAIL_SHARE:g} % of held-out images."
            )
        return " ".join([*sentences, *self.warnings])


def fidelity(
    features: np.ndarray | None = None,
    train_features: np.ndarray | None = None,
    reconstruction_features: np.ndarray | None = None,
    sample_features: np.ndarray | None = None,
    midpoint_features: np.ndarray | None = None,
    feature_extractor: str = "",
    samples: np.ndarray | None = None,
    train_images: np.ndarray | None = None,
    *,
    splits: Annotated[int, Range(10, 200)] = 40,
    neighbors: Annotated[int, Range(1, 10)] = 3,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> Fidelity:
    """Compare held-out, training, reconstructed and generated images by their features.

    Parameters
    ----------
    features, train_features, reconstruction_features, sample_features, midpoint_features : \
ndarray of float, shape (n, dim), optional
        Features of held-out images, training images, reconstructions of the held-out images,
        samples, and decoded midpoints of latents. Pairs with a missing set are left out.
    feature_extractor : str, optional
        Name of the network of the features.
    samples, train_images : ndarray of uint8, shape (n, height, width, channels), optional
        The images of the samples and training images, for the gallery of near copies.
    splits : int, default 40
        Number of half samples behind the intervals.
    neighbors : int, default 3
        The k of the manifolds of precision and recall.
    seed : int, default 0
        Seed of the subsets, half samples and bootstrap.

    Returns
    -------
    Fidelity
        Fréchet and kernel distance, precision and recall of each pair, and near copies.

    Raises
    ------
    NotApplicable
        If there are no two sets to compare, or a set has under 10 images.
    UserError
        If sets differ in dimensions, the reconstructions do not match the images, or features
        contain NaN.

    References
    ----------
    Heusel et al., arXiv 1706.08500; Binkowski et al., arXiv 1801.01401; Kynkäänniemi et al.,
    arXiv 1904.06991; Chong and Forsyth, arXiv 1911.07023.

    Examples
    --------
    >>> import numpy as np
    >>> features = np.random.default_rng(0).normal(size=(50, 2))
    >>> result = fidelity(features, reconstruction_features=features + 1)
    >>> result.distances[0].name, round(result.distances[0].value, 6)
    ('rFD', 2.0)
    """
    optional_sets = {
        "held-out": features,
        "training": train_features,
        "reconstructions": reconstruction_features,
        "midpoints": midpoint_features,
        "samples": sample_features,
    }
    sets = _check_sets({name: x for name, x in optional_sets.items() if x is not None})
    pairs = [pair for pair in PAIRS if pair[1] in sets and pair[2] in sets]
    if not pairs:
        raise NotApplicable(
            "Fidelity needs the features of two sets of images, such as held-out images and"
            " reconstructions. Collect them with a feature extractor."
        )
    used = {name: sets[name] for name in sets if any(name in pair[1:] for pair in pairs)}
    equal_sets = _cut_to_equal_size(used, seed)
    near_copies = None
    copies_gallery = None
    if {"held-out", "training", "samples"} <= sets.keys():
        near_copies = memorization(sets["samples"], sets["held-out"], sets["training"], seed)
        if samples is not None and train_images is not None:
            copies_gallery = gallery(near_copies, samples, train_images)
    return Fidelity(
        distances=tuple(
            _distance(
                _distance_name(name, feature_extractor),
                real,
                evaluated,
                equal_sets,
                splits,
                neighbors,
                seed,
            )
            for name, real, evaluated in pairs
        ),
        memorization=near_copies,
        gallery=copies_gallery,
        feature_extractor=feature_extractor,
        n=min(map(len, used.values())),
        dimensions=next(iter(used.values())).shape[1],
        splits=splits,
        neighbors=neighbors,
        seed=seed,
        warnings=_warnings(used, near_copies),
    )


def feature_distance(seed: int = 0, **sets: np.ndarray) -> float:
    """Compute only the Fréchet distance that `fidelity` reports for two sets.

    Parameters
    ----------
    seed : int, default 0
        Seed of the subsets of equal size.
    **sets : ndarray of float, shape (n, dim)
        Two sets, named as in a `Distance`, with `held_out` for "held-out".

    Returns
    -------
    float

    Raises
    ------
    NotApplicable, UserError
        As `fidelity`.
    """
    named = {name.replace("_", "-"): rows for name, rows in sets.items()}
    equal_sets = _cut_to_equal_size(_check_sets(named), seed)
    return frechet_distance(*equal_sets.values())


def _distance_name(name: str, feature_extractor: str) -> str:
    if name not in ("r", "i", "g"):
        return name
    return f"{name}FID" if feature_extractor == "inception" else f"{name}FD"


def _check_sets(sets: Sets) -> Sets:
    """Return the sets as float64, checked for size, NaN and dimensions."""
    checked = {}
    for name, rows in sets.items():
        rows = np.asarray(rows, np.float64)
        if len(rows) < MIN_IMAGES:
            raise NotApplicable(
                f"Fidelity needs at least {MIN_IMAGES} images per set; there are {len(rows)}"
                f" {name}."
            )
        num_invalid = int((~np.isfinite(rows)).any(axis=1).sum())
        if num_invalid:
            raise UserError(
                f"The features of {num_invalid} of {len(rows)} images contain NaN or infinity"
                f" ({name})."
            )
        checked[name] = rows
    if len({rows.shape[1] for rows in checked.values()}) > 1:
        dimensions = ", ".join(f"{name} {rows.shape[1]}" for name, rows in checked.items())
        raise UserError(
            f"The features differ in dimensions ({dimensions})."
            " Were all of them computed by one feature extractor?"
        )
    num_images = len(checked.get("held-out", ()))
    num_reconstructions = len(checked.get("reconstructions", ()))
    if num_images and num_reconstructions and num_images != num_reconstructions:
        raise UserError(
            f"There are features of {num_images} images and {num_reconstructions} reconstructions."
            " Do both come from one run?"
        )
    return checked


def _cut_to_equal_size(sets: Sets, seed: int) -> Sets:
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


def _distance(
    name: str, real: str, evaluated: str, sets: Sets, splits: int, neighbors: int, seed: int
) -> Distance:
    a, b = sets[real], sets[evaluated]
    value = frechet_distance(a, b)
    error, half_value = half_samples(
        lambda half: frechet_distance(a[half], b[half]), len(a), splits=splits, seed=seed
    )
    margin = 1.96 * float(error)
    kid, kid_error = kernel_distance(a, b)
    precision, recall = precision_recall(a, b, neighbors)
    return Distance(
        name=name,
        real=real,
        evaluated=evaluated,
        value=value,
        low=max(value - margin, 0.0),
        high=value + margin,
        extrapolated=2 * value - float(half_value),
        kid=kid,
        kid_error=kid_error,
        precision=precision,
        recall=recall,
    )


def _warnings(sets: Sets, near_copies: Memorization | None) -> tuple[str, ...]:
    smallest = min(sets, key=lambda name: len(sets[name]))
    n, dimensions = sets[smallest].shape
    warnings = []
    if any(len(rows) > n for rows in sets.values()):
        warnings.append(f"All sets are cut to the {n:,} images of the smallest, {smallest}.")
    if n < 2 * dimensions:
        warnings.append(
            f"{n:,} images are fewer than two per dimension ({dimensions:,}), so that covariances"
            " are uncertain."
        )
    if n < MIN_RELIABLE_IMAGES:
        warnings.append(
            f"With under {MIN_RELIABLE_IMAGES:,} images, a small distance is mostly bias: compare"
            " runs at equal n only."
        )
    if near_copies is not None and len(near_copies.held_out) < MIN_TAIL_IMAGES:
        warnings.append(
            f"The nearest 1 % of {len(near_copies.held_out)} held-out images are only a few images."
        )
    return tuple(warnings)
