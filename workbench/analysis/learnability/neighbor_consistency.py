"""Latent neighbor consistency: the share of an image's nearest latents with its own class.

It is measured on the mean token of an image and on all its tokens. The two order tokenizers
differently: 1-D tokens have roles, so that their mean is not a pooled map.

References
----------
arXiv 2606.03578 (2026), which defines the measure on mean tokens.
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range
from workbench.analysis.inputs import check_labels, class_names
from workbench.analysis.learnability.latents_result import LatentsResult
from workbench.analysis.learnability.scaled_latents import ScaledLatents, Scaling
from workbench.analysis.perspectives import Conditions, Perspective
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.counted import counted
from workbench.core.errors import NotApplicable

MIN_IMAGES = 20
BLOCK_ROWS = 256  # rows whose similarity to all images is in memory at once
MAX_EXACT_DIMENSIONS = 1024  # longer vectors are projected at random
PROJECTED_DIMENSIONS = 256
MEAN_TOKEN = "mean token"
ALL_TOKENS = "all tokens"
DIRECTION_SOURCE = (
    "arXiv 2606.03578: |r| .67 to .86 with gFID within families of one shape and reconstruction."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ConsistencyScore:
    """Consistency of the neighbors in one representation of the images.

    Attributes
    ----------
    representation : str
        `mean token` or `all tokens`.
    value : float
        Mean share of the neighbors that have the class of their image, from 0 to 1.
    low, high : float
        95 % bootstrap interval over images.
    corrected : float
        (value - null) / (1 - null): 0 for shuffled labels, 1 if all neighbors agree.
    most_frequent_neighbor : float
        Share of the images that have the same, most frequent image among their neighbors.
    by_class : ndarray of float, shape (classes,)
        The mean share of each class.
    """

    representation: str
    value: float
    low: float
    high: float
    corrected: float
    most_frequent_neighbor: float
    by_class: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class NeighborConsistency(LatentsResult):
    """Consistency of the nearest neighbors with the classes.

    Attributes
    ----------
    scores : tuple of ConsistencyScore
        Of the mean token and of all tokens.
    null : float
        Expected value for shuffled labels.
    null_by_class : ndarray of float, shape (classes,)
        The same for each class.
    classes : tuple of str
        Names of the classes.
    class_sizes : ndarray of int, shape (classes,)
        Number of images.
    neighbors : int
        Number of nearest neighbors.
    seed : int
        Seed of the random draws.
    """

    scores: tuple[ConsistencyScore, ...]
    null: float
    null_by_class: np.ndarray = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    class_sizes: np.ndarray = field(repr=False)
    neighbors: int
    seed: int

    def __getitem__(self, representation: str) -> ConsistencyScore:
        return next(s for s in self.scores if s.representation == representation)

    @property
    def num_small_classes(self) -> int:
        """Number of classes that have too few images to fill all neighbors."""
        return int((self.class_sizes <= self.neighbors).sum())

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the consistency of mean tokens and of all tokens."""
        titles = {MEAN_TOKEN: "LNC", ALL_TOKENS: "LNC, all tokens"}
        undecided = "No published evidence: papers measure mean tokens."
        return tuple(
            Perspective(
                name=titles[score.representation],
                meaning=f"share of {self.neighbors} nearest neighbors with the same class,"
                f" {score.representation}",
                value=score.value,
                low=score.low,
                high=score.high,
                null=self.null,
                null_case="shuffled labels",
                better="higher" if score.representation == MEAN_TOKEN else None,
                reason=DIRECTION_SOURCE if score.representation == MEAN_TOKEN else undecided,
                conditions=self._conditions(),
            )
            for score in self.scores
        )

    def table(self) -> pd.DataFrame:
        """Return one row per representation, and one per representation and class."""
        rows = []
        for score in self.scores:
            rows.append(
                {
                    "representation": score.representation,
                    "class": "all",
                    "value": score.value,
                    "low": score.low,
                    "high": score.high,
                    "null": self.null,
                    "corrected": score.corrected,
                    "images": self.images,
                }
            )
            rows += [
                {
                    "representation": score.representation,
                    "class": name,
                    "value": score.by_class[i],
                    "null": self.null_by_class[i],
                    "images": self.class_sizes[i],
                }
                for i, name in enumerate(self.classes)
            ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State both values next to their null, and classes that are too small."""
        mean, flat = self[MEAN_TOKEN], self[ALL_TOKENS]
        sentences = [
            f"{100 * mean.value:.1f} % of the {self.neighbors} nearest neighbors have the class of"
            f" their image by the mean token, {100 * flat.value:.1f} % by all tokens (shuffled"
            f" labels: {100 * self.null:.1f} %), for {self.images:,} images of"
            f" {len(self.classes)} classes.",
        ]
        if self.num_small_classes:
            sentences.append(
                f"{counted(self.num_small_classes, 'class has', 'classes have')} at most"
                f" {self.neighbors} images, whose neighbors cannot all agree."
            )
        sentences.append("Compare only equal images, classes and numbers of neighbors.")
        return " ".join(sentences) + self.remarks()

    def _conditions(self) -> Conditions:
        return (
            ("neighbors", str(self.neighbors)),
            ("images", f"{self.images:,}"),
            ("classes", str(len(self.classes))),
            ("scaling", self.scaling),
        )


def neighbor_consistency(
    latents: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...] = (),
    active: np.ndarray | None = None,
    *,
    neighbors: Annotated[int, Range(1, 50)] = 5,
    max_images: Annotated[int, Range(500, 50_000, 500)] = 10_000,
    scaling: Scaling = "by channel",
    seed: Annotated[int, Range(0, 999)] = 0,
) -> NeighborConsistency:
    """Measure the share of the nearest neighbors of a latent that have its class.

    The mean over all images is subtracted, and neighbors are searched by cosine. Vectors of all
    tokens with more than 1,024 dimensions are first projected to 256 dimensions at random.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,)
        Class of each image.
    names : tuple of str
        Names of the classes.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads. The prefix that 95 % of the images have is measured.
    neighbors : int
        Number of neighbors of each image.
    max_images : int
        Number of images to draw, stratified by class, if there are more.
    scaling : {"by channel", "all alike"}
        Scale each channel, or all channels together, to variance 1.
    seed : int
        Seed of the images and of the projection.

    Returns
    -------
    NeighborConsistency
        The consistency of mean tokens and of all tokens, next to that of shuffled labels.

    Raises
    ------
    NotApplicable
        If there are fewer than 20 images or two classes, no class has two images, there are not
        more images than neighbors, or the latents are constant.
    UserError
        If a latent is NaN or infinite, or the number of labels is not n.

    References
    ----------
    arXiv 2606.03578 (2026).

    Examples
    --------
    >>> labels = np.arange(100) % 2
    >>> latents = np.random.default_rng(0).normal(size=(100, 1, 2)) + 9 * labels[:, None, None]
    >>> neighbor_consistency(latents, labels)["mean token"].value
    1.0
    """
    check_labels(labels, len(latents), "Neighbor consistency")
    scaled = ScaledLatents.create(
        latents,
        active,
        purpose="Neighbor consistency",
        min_images=MIN_IMAGES,
        max_images=max_images,
        labels=labels,
        scaling=scaling,
        seed=seed,
    )
    measured = np.asarray(labels)[scaled.images]
    target, sizes = np.unique(measured, return_inverse=True, return_counts=True)[1:]
    _check_classes(sizes, len(scaled), neighbors)
    null_by_class = (sizes - 1) / (len(scaled) - 1)
    null = float((sizes * null_by_class).sum() / len(scaled))
    mean_rows, flat_rows = _representations(scaled, seed)
    return NeighborConsistency(
        scores=(
            _score(MEAN_TOKEN, mean_rows, target, neighbors, null),
            _score(ALL_TOKENS, flat_rows, target, neighbors, null),
        ),
        null=null,
        null_by_class=null_by_class,
        classes=class_names(np.unique(measured), names, len(sizes)),
        class_sizes=sizes,
        neighbors=neighbors,
        images=len(scaled),
        of=len(latents),
        selection=scaled.selection,
        tokens=scaled.tokens,
        channels=scaled.channels,
        constant_channels=scaled.constant_channels,
        scaling=scaling,
        seed=seed,
    )


def describe_images(result: NeighborConsistency) -> str:
    """Describe the images and tokens of a result for the subtitle of its figure."""
    images = result.sample_text(result.images)
    return f"n = {images}, {result.tokens} tokens of {result.channels} channels"


def _check_classes(sizes: np.ndarray, n: int, neighbors: int) -> None:
    if len(sizes) < 2:
        raise NotApplicable(
            f"Neighbor consistency needs at least two classes; all {n} images are of one class."
        )
    if sizes.max() < 2:
        raise NotApplicable(
            f"Neighbor consistency needs a class with at least two images; each of the {n} images"
            " has a class of its own."
        )
    if n <= neighbors:
        raise NotApplicable(
            f"{neighbors} neighbors need more than {neighbors} images; the evidence has {n}."
        )


def _representations(scaled: ScaledLatents, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean token and all tokens of each image, centered, as float32 rows."""
    needs_projection = scaled.dimensions > MAX_EXACT_DIMENSIONS
    random = np.random.default_rng(seed)
    if needs_projection:
        size = (scaled.dimensions, PROJECTED_DIMENSIONS)
        projection = random.standard_normal(size, np.float32)
    means, flats = [], []
    for block in scaled.blocks():
        means.append(block.mean(axis=1).astype(np.float32))
        flat = block.reshape(len(block), -1).astype(np.float32)
        flats.append(flat @ projection if needs_projection else flat)
    mean_rows, flat_rows = np.concatenate(means), np.concatenate(flats)
    return mean_rows - mean_rows.mean(axis=0), flat_rows - flat_rows.mean(axis=0)


def _score(
    representation: str, rows: np.ndarray, target: np.ndarray, neighbors: int, null: float
) -> ConsistencyScore:
    nearest = nearest_by_cosine(rows, neighbors)
    shares = (target[nearest] == target[:, None]).mean(axis=1)
    value, low, high = mean_interval(shares)
    return ConsistencyScore(
        representation=representation,
        value=value,
        low=low,
        high=high,
        corrected=(value - null) / (1 - null),
        most_frequent_neighbor=float(np.bincount(nearest.ravel()).max() / len(rows)),
        by_class=np.bincount(target, shares) / np.bincount(target),
    )


def nearest_by_cosine(rows: np.ndarray, neighbors: int) -> np.ndarray:
    """Find the nearest other rows by cosine, 256 rows at a time.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        One vector per row.
    neighbors : int
        Fewer than n.

    Returns
    -------
    ndarray of int, shape (n, neighbors)
        Indices of the nearest rows, unsorted.
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(norms > 0, norms, 1)
    nearest = np.empty((len(rows), neighbors), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = units[start : start + BLOCK_ROWS] @ units.T
        row_numbers = np.arange(len(block))
        block[row_numbers, start + row_numbers] = -np.inf
        nearest[start + row_numbers] = np.argpartition(block, -neighbors, axis=1)[:, -neighbors:]
    return nearest
