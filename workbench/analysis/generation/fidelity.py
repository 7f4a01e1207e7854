"""Distances between real, reconstructed and generated images in the features of a network.

A Fréchet distance is named after its feature extractor, for example fd_resnet56; only that of
Inception is called FID. It is biased upward in the number of images. Therefore all sets are cut to
one n, and 2 FD(n) - FD(n/2) is reported as well, which removes the part of the bias that falls as
1/n (after arXiv 1911.07023). Near copies of training images are counted.

sFID uses features that keep their position in the image, the Inception score the logits of the
samples. A reference set may be a file of statistics, such as that of ADM's evaluator; its distances
use all images that there are.

The interpolation distance compares held-out images with decoded points between their latents and
near latents of training images (arXiv 2603.05630); evidence of earlier versions has the midpoints
of nearest held-out latents instead. The distance of decoded draws from one Gaussian per class,
which needs no training, is given next to that of samples.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.generation.distance_names import (
    SHORT_NAME,
    distance_column,
    distance_name,
    full_name,
    network_title,
)
from workbench.analysis.generation.feature_distances import (
    MAX_MANIFOLD_IMAGES,
    frechet_distance,
    frechet_error,
    gaussian_distance,
    gaussian_kernel_distance,
    has_influence_error,
    inception_score,
    kernel_distance,
    precision_recall,
)
from workbench.analysis.generation.gaussian_reference import (
    CLASS_GAUSSIANS,
    ReferenceDistance,
    reference_distances,
)
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.generation.memorization import (
    TAIL_SHARE,
    Memorization,
    gallery,
    memorization,
)
from workbench.analysis.stats.sampling import Subset
from workbench.core.errors import NotApplicable, UserError
from workbench.core.moments import BLOCK_ROWS, Moments

MIN_IMAGES = 10  # per set
MIN_RELIABLE_IMAGES = 1000  # with fewer images, a small distance is mostly bias
MIN_TAIL_IMAGES = 500  # with fewer held-out images, 1 % of them are a handful
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
REAL_SET_NAMES = {"held-out": "held-out images", "training": "training images"}
# Sets that are compared with a file of reference statistics.
REFERENCE_PAIRS = (("r", "reconstructions"), ("g", "samples"))
# Sets of features that belong to the same images, row by row.
PAIRED_SETS = ("held-out", "reconstructions", "interpolations", "midpoints")
Sets = dict[str, np.ndarray]


@dataclass(frozen=True)
class Distance:
    """Distance between two sets of images of equal size, or of a set to reference statistics.

    A value that cannot be computed is NaN.
    """

    name: str  # rFD, gFD, iFD (interpolation), gap, floor; FID or FDD in place of FD
    real: str
    evaluated: str
    value: float  # Fréchet distance
    # 95 % interval of its variation at this n, by half samples, which are conservative near the
    # floor, or by influence functions for over 512 features or over 10,000 images.
    low: float
    high: float
    extrapolated: float  # to unlimited n, with about the same variation
    kid: float  # kernel distance; unbiased, so it may be negative
    kid_error: float  # standard error over blocks
    precision: float  # fraction of the evaluated images on the manifold of the real images
    recall: float  # fraction of the real images on the manifold of the evaluated images
    precision_error: float  # binomial standard errors, for fixed manifolds
    recall_error: float
    cmmd: float | None  # distance with a Gaussian kernel; None for features other than CLIP's
    n: int  # images of the evaluated set


@dataclass(frozen=True)
class ClassScore:
    """The Inception score of a set of images."""

    evaluated: str
    score: float
    deviation: float  # over ten parts of the set
    n: int


@dataclass(frozen=True, eq=False)
class Fidelity(Result):
    """Distances between real, reconstructed and generated images."""

    distances: tuple[Distance, ...]
    # Of decoded draws from Gaussians to training images; empty if they were not collected.
    references: tuple[ReferenceDistance, ...]
    spatial_distances: tuple[Distance, ...]  # sFID; empty without spatial features
    scores: tuple[ClassScore, ...]  # Inception scores; empty without logits
    memorization: Memorization | None  # None without samples, training and held-out images
    # uint8 (height, width, 4): samples above their nearest training images.
    gallery: np.ndarray | None = field(repr=False)
    feature_extractor: str
    n: int  # images of each set
    dimensions: int
    splits: int
    neighbors: int
    seed: int
    protocol: str  # network, weights, resizing and versions; empty if they are not known
    feature_extractor_reason: str
    warnings: tuple[str, ...]

    @property
    def metric(self) -> str:
        """Name of the distance as a column: fd_resnet56, or fid for Inception."""
        return distance_column(self.feature_extractor)

    @property
    def label(self) -> str:
        """Name of the distance in text: FID, FDD, or FD with its network."""
        name = distance_name("", self.feature_extractor)
        if name != SHORT_NAME or not self.feature_extractor:
            return name
        return f"{name} ({network_title(self.feature_extractor)})"

    def full_name(self, distance: Distance) -> str:
        """Return the name of a distance with its network, number of images and reference set."""
        real = REAL_SET_NAMES.get(distance.real, distance.real)
        return full_name(distance.name, self.feature_extractor, distance.n, real)

    @property
    def samples_distance(self) -> Distance | None:
        """The distance of samples to training images; None without a generator."""
        return next((d for d in self.distances if d.evaluated == "samples"), None)

    @property
    def class_gaussians(self) -> ReferenceDistance | None:
        """The distance of draws from one Gaussian per class; None if it was not collected."""
        return next((r for r in self.references if r.name == CLASS_GAUSSIANS), None)

    def table(self) -> pd.DataFrame:
        """Return one row per pair of sets, and the scores of the classes of the evaluated set."""
        distances = (*self.distances, *self.spatial_distances, *self._reference_rows())
        rows = pd.DataFrame([asdict(distance) for distance in distances])
        scores = {score.evaluated: score for score in self.scores}
        if scores:
            rows["inception_score"] = [
                getattr(scores.get(d.evaluated), "score", np.nan) for d in distances
            ]
        if rows["cmmd"].isna().all():
            rows = rows.drop(columns="cmmd")
        return rows.rename(columns={"name": "distance", "value": self.metric}).assign(
            protocol=self.protocol
        )

    def summary(self) -> str:
        """State every distance with its interval, the floor, the near copies and the warnings."""
        sentences = [
            f"{self.full_name(d)}: {_value_text(d)}."
            for d in (*self.distances, *self.spatial_distances)
            if d.name != FLOOR
        ]
        if any(d.name != FLOOR for d in self.distances):
            sentences.append("Parentheses after a value are 95 % intervals.")
        sentences += [
            f"Two sets of real images have a distance of {_value_text(d)}, {self.label} at"
            f" n = {d.n:,}."
            for d in self.distances
            if d.name == FLOOR
        ]
        sentences += self._reference_sentences()
        sentences += [
            f"The Inception score of the {score.evaluated} is {score.score:.4g} ±"
            f" {score.deviation:.2g} (deviation over ten parts, n = {score.n:,})."
            for score in self.scores
        ]
        if self.memorization:
            copies = self.memorization
            sentences.append(
                f"{100 * copies.share:.1f} % of the samples ({100 * copies.low:.1f} to"
                f" {100 * copies.high:.1f} %) are as near to a training image as the nearest"
                f" {100 * TAIL_SHARE:g} % of held-out images."
            )
        sentences += self.warnings
        if self.protocol:
            sentences.append(f"Protocol: {self.protocol}. {self.feature_extractor_reason}".rstrip())
        return " ".join(sentences)

    def _reference_rows(self) -> list[Distance]:
        return [
            Distance(
                name=reference.name,
                real="training",
                evaluated=f"decoded {reference.name}",
                value=reference.value,
                low=np.nan,
                high=np.nan,
                extrapolated=np.nan,
                kid=np.nan,
                kid_error=np.nan,
                precision=np.nan,
                recall=np.nan,
                precision_error=np.nan,
                recall_error=np.nan,
                cmmd=None,
                n=reference.n,
            )
            for reference in self.references
        ]

    def _reference_sentences(self) -> list[str]:
        gaussians = self.class_gaussians
        samples = self.samples_distance
        if gaussians is None:
            return []
        start = f"One Gaussian per class, drawn without training, has {gaussians.value:.4g}"
        if samples is None:
            return [f"{start}; a generator has to be below it."]
        if samples.value < gaussians.value:
            return [f"{start}; the samples are {gaussians.value / samples.value:.2g} times nearer."]
        return [
            f"{start}; the samples are not nearer, so that the generator has not learned more than"
            " the means and the covariance of the latents."
        ]


def fidelity(
    features: np.ndarray | None = None,
    train_features: np.ndarray | None = None,
    reconstruction_features: np.ndarray | None = None,
    sample_features: np.ndarray | None = None,
    midpoint_features: np.ndarray | None = None,
    feature_extractor: str = "",
    samples: np.ndarray | None = None,
    train_images: np.ndarray | None = None,
    spatial_features: np.ndarray | None = None,
    train_spatial_features: np.ndarray | None = None,
    reconstruction_spatial_features: np.ndarray | None = None,
    sample_spatial_features: np.ndarray | None = None,
    reconstruction_logits: np.ndarray | None = None,
    sample_logits: np.ndarray | None = None,
    reference_mean: np.ndarray | None = None,
    reference_covariance: np.ndarray | None = None,
    reference_spatial_mean: np.ndarray | None = None,
    reference_spatial_covariance: np.ndarray | None = None,
    reference: str = "reference statistics",
    protocol: str = "",
    feature_extractor_reason: str = "",
    interpolation_features: np.ndarray | None = None,
    gaussian_features: np.ndarray | None = None,
    isotropic_features: np.ndarray | None = None,
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
    spatial_features, train_spatial_features, reconstruction_spatial_features, \
sample_spatial_features : ndarray of float, shape (n, spatial_dim), optional
        Features that keep their position in the image, of the same sets, for sFID.
    reconstruction_logits, sample_logits : ndarray of float, shape (n, n_classes), optional
        Logits of the classes, for the Inception score.
    reference_mean, reference_covariance : ndarray of float, shapes (dim,) and (dim, dim), optional
        Moments of the features of a reference set.
    reference_spatial_mean, reference_spatial_covariance : ndarray of float, shapes \
(spatial_dim,) and (spatial_dim, spatial_dim), optional
        Moments of the spatial features of a reference set.
    reference : str, optional
        Name of the reference set, such as ADM reference.
    protocol : str, optional
        How the features were computed, in one line.
    feature_extractor_reason : str, optional
        Why this feature extractor was used.
    interpolation_features : ndarray of float, shape (n, dim), optional
        Features of decoded points between latents of held-out and training images.
    gaussian_features, isotropic_features : ndarray of float, shape (m, dim), optional
        Features of decoded draws from one Gaussian per class, and of decoded isotropic noise.
    splits : int, default 40
        Number of half samples behind the intervals; at most 10 for over 512 features. Sets of
        over 10,000 images have intervals by influence functions.
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
    arXiv 1904.06991; Chong and Forsyth, arXiv 1911.07023; Nash et al., arXiv 2103.03841;
    Salimans et al., arXiv 1606.03498; Jayasumana et al., arXiv 2401.09603.

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
        "interpolations": interpolation_features,
        "midpoints": midpoint_features,
        "samples": sample_features,
    }
    spatial_sets = {
        "held-out": spatial_features,
        "training": train_spatial_features,
        "reconstructions": reconstruction_spatial_features,
        "samples": sample_spatial_features,
    }
    comparison = _Comparison(feature_extractor, splits, neighbors, seed)
    reference_moments = _reference(reference_mean, reference_covariance)
    sets = _check_sets({name: x for name, x in optional_sets.items() if x is not None})
    pairs = [pair for pair in PAIRS if pair[1] in sets and pair[2] in sets]
    if not pairs and not (reference_moments and sets):
        raise NotApplicable(
            "Fidelity needs the features of two sets of images, such as held-out images and"
            " reconstructions. Collect them with a feature extractor."
        )
    used = {name: sets[name] for name in sets if any(name in pair[1:] for pair in pairs)} or sets
    near_copies = None
    copies_gallery = None
    if {"held-out", "training", "samples"} <= sets.keys():
        near_copies = memorization(sets["samples"], sets["held-out"], sets["training"], seed)
        if samples is not None and train_images is not None:
            copies_gallery = gallery(near_copies, samples, train_images)
    distances = comparison.of_sets(used, pairs)
    distances += comparison.with_reference(sets, reference_moments, reference)
    references: tuple[ReferenceDistance, ...] = ()
    if "training" in used:
        training = _cut_to_equal_size(used, seed)["training"]
        references = reference_distances(training, gaussian_features, isotropic_features, seed)
    spatial = _check_sets({name: x for name, x in spatial_sets.items() if x is not None})
    spatial_pairs = [pair for pair in PAIRS if pair[1] in spatial and pair[2] in spatial]
    spatial_reference = _reference(reference_spatial_mean, reference_spatial_covariance)
    spatial_distances = comparison.of_sets(spatial, spatial_pairs)
    spatial_distances += comparison.with_reference(spatial, spatial_reference, reference)
    logits = {"reconstructions": reconstruction_logits, "samples": sample_logits}
    return Fidelity(
        distances=distances,
        references=references,
        spatial_distances=tuple(
            replace(d, name=d.name.replace("FID", "sFID"))
            for d in spatial_distances
            if d.name.endswith("FID")
        ),
        scores=tuple(
            ClassScore(name, *inception_score(values, seed=seed), n=len(values))
            for name, values in logits.items()
            if values is not None
        ),
        memorization=near_copies,
        gallery=copies_gallery,
        feature_extractor=feature_extractor,
        n=min(map(len, used.values())),
        dimensions=next(iter(used.values())).shape[1],
        splits=splits,
        neighbors=neighbors,
        seed=seed,
        protocol=protocol,
        feature_extractor_reason=feature_extractor_reason,
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


def _check_sets(sets: Sets) -> Sets:
    """Return the sets, checked for size, NaN and dimensions. Large sets stay on disk."""
    checked = {}
    for name, rows in sets.items():
        if len(rows) < MIN_IMAGES:
            raise NotApplicable(
                f"Fidelity needs at least {MIN_IMAGES} images per set; there are {len(rows)}"
                f" {name}."
            )
        num_invalid = sum(
            int((~np.isfinite(rows[start : start + BLOCK_ROWS])).any(axis=1).sum())
            for start in range(0, len(rows), BLOCK_ROWS)
        )
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


@dataclass(frozen=True)
class _Comparison:
    """The settings with which all pairs of sets are compared."""

    feature_extractor: str
    splits: int
    neighbors: int
    seed: int

    def of_sets(self, sets: Sets, pairs: Sequence[tuple[str, str, str]]) -> tuple[Distance, ...]:
        """Compare sets of images, cut to equal size."""
        if not pairs:
            return ()
        equal_sets = _cut_to_equal_size(sets, self.seed)
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
                    extrapolated=np.nan,
                    kid=np.nan,
                    kid_error=np.nan,
                    precision=np.nan,
                    recall=np.nan,
                    precision_error=np.nan,
                    recall_error=np.nan,
                    cmmd=None,
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


def _reference(mean: np.ndarray | None, covariance: np.ndarray | None) -> Moments | None:
    if mean is None or covariance is None:
        return None
    return Moments(np.asarray(mean, np.float64), np.asarray(covariance, np.float64), None)


def _binomial_error(share: float, n: int) -> float:
    return float(np.sqrt(share * (1 - share) / n))


def _value_text(distance: Distance) -> str:
    if np.isnan(distance.low):
        return f"{distance.value:.4g}"
    return f"{distance.value:.4g} ({distance.low:.4g} to {distance.high:.4g})"


def _warnings(sets: Sets, near_copies: Memorization | None) -> tuple[str, ...]:
    smallest = min(sets, key=lambda name: len(sets[name]))
    n, dimensions = sets[smallest].shape
    warnings = []
    if any(len(rows) > n for rows in sets.values()):
        warnings.append(f"All sets are cut to the {n:,} images of the smallest, {smallest}.")
    if n > MAX_MANIFOLD_IMAGES:
        warnings.append(
            f"Precision and recall use {Subset(MAX_MANIFOLD_IMAGES, n, 'images of each set')}."
        )
    if n <= dimensions:
        warnings.append(
            f"{n:,} images are no more than the {dimensions:,} features: covariances are singular"
            f" and distances far too high. Use at least {2 * dimensions:,} images."
        )
    elif n < 2 * dimensions:
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
