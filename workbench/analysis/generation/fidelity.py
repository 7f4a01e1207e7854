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

from collections.abc import Mapping, Sequence
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
    inception_score,
)
from workbench.analysis.generation.gaussian_reference import (
    CLASS_GAUSSIANS,
    ReferenceDistance,
    reference_distances,
)
from workbench.analysis.generation.memorization import (
    TAIL_SHARE,
    Memorization,
    gallery,
    memorization,
)
from workbench.analysis.generation.set_comparison import (
    FLOOR,
    Distance,
    SetComparison,
    Sets,
    check_sets,
    cut_to_equal_size,
    pairs_of,
    present_sets,
    reference_moments,
)
from workbench.analysis.stats.sampling import Subset
from workbench.core.errors import NotApplicable
from workbench.core.result_columns import decimals, number_text

MIN_RELIABLE_IMAGES = 1000  # with fewer images, a small distance is mostly bias
MIN_TAIL_IMAGES = 500  # with fewer held-out images, 1 % of them are a handful


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """The Inception score of a set of images.

    Attributes
    ----------
    evaluated : str
        Name of the set.
    score : float
        The Inception score.
    deviation : float
        Standard deviation over ten parts of the set.
    n : int
        Number of images.
    """

    evaluated: str
    score: float
    deviation: float
    n: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Fidelity(Result):
    """Distances between real, reconstructed and generated images.

    Attributes
    ----------
    distances : tuple of Distance
        One per pair of sets.
    references : tuple of ReferenceDistance
        Distances of decoded draws from Gaussians to training images; empty if they were not
        collected.
    spatial_distances : tuple of Distance
        sFID; empty without spatial features.
    scores : tuple of ClassScore
        Inception scores; empty without logits.
    memorization : Memorization or None
        None without samples, training images and held-out images.
    gallery : ndarray of uint8, shape (height, width, 4), or None
        Samples above their nearest training images.
    feature_extractor : str
        Name of the network of the features.
    n, dimensions : int
        Images of each set, and features of an image.
    splits, neighbors, seed : int
        The controls.
    protocol : str
        Network, weights, resizing and versions; empty if they are not known.
    feature_extractor_reason : str
        Reason for this network, in one sentence.
    warnings : tuple of str
        Sentences on the reliability of the distances.
    image_kind : str
        Name of the images in text.
    guidance : float or None
        Scale of classifier-free guidance of the samples; None if it is not known.
    has_training_images : bool
        Whether the generator was trained on the training images, or they are other images of the
        dataset.
    """

    distances: tuple[Distance, ...]
    references: tuple[ReferenceDistance, ...]
    spatial_distances: tuple[Distance, ...]
    scores: tuple[ClassScore, ...]
    memorization: Memorization | None
    gallery: np.ndarray | None = field(repr=False)
    feature_extractor: str
    n: int
    dimensions: int
    splits: int
    neighbors: int
    seed: int
    protocol: str
    feature_extractor_reason: str
    warnings: tuple[str, ...]
    image_kind: str = "held-out images"
    guidance: float | None = None
    has_training_images: bool = True

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
        """Return the name of a distance with its network, images, reference set and guidance."""
        training = "training images" if self.has_training_images else "images of the dataset"
        names = {"held-out": self.image_kind, "training": training}
        real = names.get(distance.real, distance.real)
        guidance = self.guidance if distance.evaluated == "samples" else None
        return full_name(distance.name, self.feature_extractor, distance.n, real, guidance)

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
            f" {score.deviation:.2g} (standard deviation over ten parts, n = {score.n:,})."
            for score in self.scores
        ]
        if self.memorization:
            sentences.append(_near_copies_text(self.memorization))
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
                n=reference.n,
            )
            for reference in self.references
        ]

    def _reference_sentences(self) -> list[str]:
        gaussians = self.class_gaussians
        if gaussians is None:
            return []
        start = (
            f"Draws from one Gaussian per class, without training, have {gaussians.value:.4g} at"
            f" n = {gaussians.n:,}"
        )
        if np.isnan(gaussians.samples):
            return [f"{start}; a generator must be below it."]
        if gaussians.samples < gaussians.value:
            ratio = gaussians.value / gaussians.samples
            return [f"{start}; the samples are {ratio:.2g} times nearer."]
        if self.guidance is not None and self.guidance != 1:
            return [f"{start}; the samples, with guidance {self.guidance:g}, are not nearer."]
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
    image_kind: str = "held-out images",
    guidance: float | None = None,
    has_training_images: bool = True,
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
    image_kind : str, default "held-out images"
        Name of the images of `features` in text.
    guidance : float, optional
        Scale of classifier-free guidance of the samples; 1 is none.
    has_training_images : bool, default True
        Whether the generator was trained on the images of `train_features`. If not, near copies
        are not counted.
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
    sets = present_sets(
        {
            "held-out": features,
            "training": train_features,
            "reconstructions": reconstruction_features,
            "interpolations": interpolation_features,
            "midpoints": midpoint_features,
            "samples": sample_features,
        }
    )
    moments = reference_moments(reference_mean, reference_covariance)
    pairs = pairs_of(sets)
    if not pairs and not (moments and sets):
        raise NotApplicable(
            "Fidelity needs the features of two sets of images, such as held-out images and"
            " reconstructions. Collect them with a feature extractor."
        )
    used = {name: sets[name] for name in sets if any(name in pair[1:] for pair in pairs)} or sets
    near_copies, copies_gallery = None, None
    if has_training_images:
        near_copies, copies_gallery = _near_copies(sets, samples, train_images, seed)
    comparison = SetComparison(
        feature_extractor=feature_extractor, splits=splits, neighbors=neighbors, seed=seed
    )
    distances = comparison.of_sets(used, pairs)
    distances += comparison.with_reference(sets, moments, reference)
    spatial = present_sets(
        {
            "held-out": spatial_features,
            "training": train_spatial_features,
            "reconstructions": reconstruction_spatial_features,
            "samples": sample_spatial_features,
        }
    )
    spatial_moments = reference_moments(reference_spatial_mean, reference_spatial_covariance)
    spatial_distances = comparison.of_sets(spatial, pairs_of(spatial))
    spatial_distances += comparison.with_reference(spatial, spatial_moments, reference)
    return Fidelity(
        distances=distances,
        references=_gaussian_distances(used, gaussian_features, isotropic_features, seed),
        spatial_distances=_spatial_names(spatial_distances),
        scores=_class_scores(
            {"reconstructions": reconstruction_logits, "samples": sample_logits}, seed
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
        image_kind=image_kind,
        guidance=guidance,
        has_training_images=has_training_images,
    )


def _near_copies(
    sets: Sets, samples: np.ndarray | None, train_images: np.ndarray | None, seed: int
) -> tuple[Memorization | None, np.ndarray | None]:
    """Count near copies of training images, and draw them if there are pictures."""
    if not {"held-out", "training", "samples"} <= sets.keys():
        return None, None
    near_copies = memorization(sets["samples"], sets["held-out"], sets["training"], seed)
    if samples is None or train_images is None:
        return near_copies, None
    return near_copies, gallery(near_copies, samples, train_images)


def _gaussian_distances(
    sets: Sets, gaussians: np.ndarray | None, isotropic: np.ndarray | None, seed: int
) -> tuple[ReferenceDistance, ...]:
    """Return the distances of decoded draws from Gaussians to the training images, if any."""
    if "training" not in sets:
        return ()
    equal_sets = cut_to_equal_size(sets, seed)
    return reference_distances(
        equal_sets["training"], gaussians, isotropic, seed, samples=equal_sets.get("samples")
    )


def _spatial_names(distances: Sequence[Distance]) -> tuple[Distance, ...]:
    """Return the distances that are defined for spatial features, named sFID."""
    return tuple(
        replace(distance, name=distance.name.replace("FID", "sFID"))
        for distance in distances
        if distance.name.endswith("FID")
    )


def _class_scores(logits: Mapping[str, np.ndarray | None], seed: int) -> tuple[ClassScore, ...]:
    scores = []
    for name, values in logits.items():
        if values is None:
            continue
        score, deviation = inception_score(values, seed=seed)
        scores.append(ClassScore(evaluated=name, score=score, deviation=deviation, n=len(values)))
    return tuple(scores)


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
    equal_sets = cut_to_equal_size(check_sets(named), seed)
    return frechet_distance(*equal_sets.values())


def _value_text(distance: Distance) -> str:
    numbers = (distance.value, distance.low, distance.high)
    value, low, high = (number_text(decimals(numbers), number) for number in numbers)
    return value if np.isnan(distance.low) else f"{value} ({low} to {high})"


def _near_copies_text(copies: Memorization) -> str:
    share = (
        f"{100 * copies.share:.1f} % of the samples ({100 * copies.low:.1f} to"
        f" {100 * copies.high:.1f} %) are"
    )
    if copies.share == 0:
        share = "None of the samples is"
    return (
        f"{share} as near to a training image as the nearest {100 * TAIL_SHARE:g} % of held-out"
        " images."
    )


def _warnings(sets: Sets, near_copies: Memorization | None) -> tuple[str, ...]:
    smallest = min(sets, key=lambda name: len(sets[name]))
    n, dimensions = sets[smallest].shape
    warnings = []
    if any(len(rows) > n for rows in sets.values()):
        warnings.append(f"All sets are cut to {n:,} images, the size of the smallest ({smallest}).")
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
