"""The images that are most similar to one image in the latent spaces of the selected runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.images.picture_sets import LETTERS, MAX_RUNS, describe_excluded, shrink
from workbench.analysis.inputs import class_names, distinct_names, image_set
from workbench.analysis.plotting.picture_cards import Card, Picture, to_html
from workbench.analysis.plotting.run_colors import colors_of_runs
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

IMAGES_PER_BATCH = 1024


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarImages(Result):
    """The nearest images of one image, in each run.

    Attributes
    ----------
    runs : tuple of str
        Name of each run, with the step if the name occurs twice.
    excluded : tuple of str
        Runs with other images than the first, or beyond the eighth.
    image : int
        Index of the image.
    neighbors : ndarray of int, shape (runs, k)
        Indices of the nearest images, the nearest first.
    distances : ndarray of float, shape (runs, k)
        Their cosine distances, from 0 (same direction) to 2 (opposite).
    classes : tuple of str
        Class of each image; empty without labels.
    picture : ndarray of uint8, shape (h, w, c)
        The image.
    pictures : ndarray of uint8, shape (runs, k, h, w, c)
        The nearest images.
    n : int
        Number of images that were compared.
    """

    replaces_figure: ClassVar[bool] = True

    runs: tuple[str, ...]
    excluded: tuple[str, ...]
    image: int
    neighbors: np.ndarray
    distances: np.ndarray
    classes: tuple[str, ...] = field(repr=False)
    picture: np.ndarray = field(repr=False)
    pictures: np.ndarray = field(repr=False)
    n: int

    @property
    def k(self) -> int:
        """Number of nearest images of each run."""
        return self.neighbors.shape[1]

    def control_limits(self) -> Mapping[str, int]:
        """Return the index of the last image."""
        return {"image": self.n - 1}

    def figure_html(self) -> str:
        """Return the image, and one card per run with its nearest images."""
        colors = colors_of_runs(self.runs, self.run_colors)
        query = Picture(pixels=self.picture, caption=self.name(self.image))
        cards = [
            Card(
                title=f"{LETTERS[i]} = {run}",
                details=self._describe_run(i),
                pictures=(query, *self._pictures(i, colors[run])),
                color=colors[run],
            )
            for i, run in enumerate(self.runs)
        ]
        return to_html(cards)

    def _pictures(self, run: int, color: str) -> list[Picture]:
        return [
            Picture(
                pixels=self.pictures[run, i],
                caption=f"{self.name(index)}, {self.distances[run, i]:.3f}",
                title=f"image {index}, cosine distance {self.distances[run, i]:.4f}",
                color=color,
                image=int(index),
            )
            for i, index in enumerate(self.neighbors[run])
        ]

    def name(self, index: int) -> str:
        """Return the index and the class of an image."""
        return f"#{index} {self.classes[index]}" if self.classes else f"#{index}"

    def _describe_run(self, run: int) -> str:
        share = self.class_share(run)
        if np.isnan(share):
            return "cosine distance below each image"
        return f"{100 * share:.0f} % of the same class"

    def class_share(self, run: int) -> float:
        """Return the share of the nearest images of the same class; NaN without labels."""
        if not self.classes:
            return float("nan")
        label = self.classes[self.image]
        return float(np.mean([self.classes[index] == label for index in self.neighbors[run]]))

    def overlap(self) -> float:
        """Return the mean share of nearest images that two runs have in common; NaN for one."""
        sets = [set(row.tolist()) for row in self.neighbors]
        shares = [len(first & second) / self.k for first, second in combinations(sets, 2)]
        return float(np.mean(shares)) if shares else float("nan")

    def table(self) -> pd.DataFrame:
        """Return one row per run and nearest image: rank, image, cosine distance, class."""
        columns = {
            "run": np.repeat(self.runs, self.k),
            "rank": np.tile(np.arange(1, self.k + 1), len(self.runs)),
            "image": self.neighbors.ravel(),
            "cosine distance": self.distances.ravel(),
        }
        if self.classes:
            columns["class"] = np.array(self.classes)[self.neighbors.ravel()]
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Return the nearest image of each run, and what the runs agree on."""
        nearest = [
            f"{self.name(self.neighbors[i, 0])} by {run} ({self.distances[i, 0]:.3f})"
            for i, run in enumerate(self.runs)
        ]
        text = f"Most similar to image {self.name(self.image)}: {'; '.join(nearest)}."
        if len(self.runs) > 1:
            text += f" Two runs share {100 * self.overlap():.0f} % of the {self.k} nearest images."
        text += (
            f" Cosine distance of the latents of n = {self.n:,} images after their mean is"
            " subtracted; 0 is the same direction, 1 unrelated."
        )
        return text + describe_excluded(self.excluded)


def similar_images(
    evidences: Sequence[Evidence],
    *,
    image: Annotated[int, Range(0, 1_000_000)] = 0,
    neighbors: Annotated[int, Range(3, 24)] = 7,
) -> SimilarImages:
    """Find the images whose latents are most similar to those of one image.

    The latents of all tokens of an image are one vector. The mean vector of all images is
    subtracted, because vectors with a common mean are all similar. Only one image is compared with
    all others, so the cost grows with the number of images and not with its square.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the selected runs. Runs without latents and images are ignored. Runs with other
        images than the first are excluded and named in the result.
    image : int
        Index of the image; beyond the last one, the last one.
    neighbors : int
        Number of nearest images.

    Returns
    -------
    SimilarImages
        The nearest images of each run, with their cosine distances.

    Raises
    ------
    NotApplicable
        If no run has latents and images, or there are fewer than two images.
    """
    with_both = [
        (e, latents, e.images)
        for e in evidences
        if (latents := e.latents) is not None and e.images is not None
    ]
    if not with_both:
        raise NotApplicable("Similar images need latents and images; no selected run has both.")
    key = image_set(*with_both[0][:2])
    compared = [item for item in with_both if image_set(*item[:2]) == key][:MAX_RUNS]
    first, _, images = compared[0]
    n = min(len(pictures) for _, _, pictures in compared)
    if n < 2:
        raise NotApplicable(f"Similar images need at least 2 images; the evidence has {n}.")
    image = min(image, n - 1)
    k = min(neighbors, n - 1)
    nearest = [nearest_to(latents[:n], image, k) for _, latents, _ in compared]
    indices = np.stack([neighbors for neighbors, _ in nearest])
    labels = None if first.labels is None else first.labels[:n]
    thumbnails = shrink(np.asarray(images)[np.append(indices.ravel(), image)])
    return SimilarImages(
        runs=distinct_names([e for e, _, _ in compared]),
        excluded=tuple(
            e.run_name for e, _, _ in with_both if not any(e is other for other, _, _ in compared)
        ),
        image=image,
        neighbors=indices,
        distances=np.stack([distances for _, distances in nearest]),
        classes=class_names(labels, first.names, n),
        picture=thumbnails[-1],
        pictures=thumbnails[:-1].reshape(*indices.shape, *thumbnails.shape[1:]),
        n=n,
    )


def nearest_to(latents: np.ndarray, index: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that are nearest to one row by cosine distance, after their mean is subtracted.

    Parameters
    ----------
    latents : ndarray of float, shape (n, ...)
        It may be memory-mapped and larger than memory.
    index : int
        The row.
    k : int
        Number of other rows, at most n - 1.

    Returns
    -------
    indices : ndarray of int, shape (k,)
        The nearest first; equally near rows in their order.
    distances : ndarray of float64, shape (k,)
        1 minus the cosine; 1 for a row that equals the mean.

    Examples
    --------
    >>> indices, distances = nearest_to(np.array([[2.0, 0], [1, 0], [-1, 1], [-2, -1]]), 0, 2)
    >>> indices.tolist(), distances.round(3).tolist()
    ([1, 2], [0.0, 1.707])
    """
    n = len(latents)
    batches = [slice(start, start + IMAGES_PER_BATCH) for start in range(0, n, IMAGES_PER_BATCH)]
    mean = sum(_rows(latents, batch).sum(axis=0) for batch in batches) / n
    query = _rows(latents, slice(index, index + 1))[0] - mean
    distances = np.concatenate(
        [_cosine_distances(_rows(latents, batch) - mean, query) for batch in batches]
    )
    distances[index] = np.inf
    order = np.argsort(distances, kind="stable")[:k]
    return order, distances[order]


def _rows(latents: np.ndarray, batch: slice) -> np.ndarray:
    rows = np.asarray(latents[batch], np.float64)
    return rows.reshape(len(rows), -1)


def _cosine_distances(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return 1 - rows @ query / np.where(lengths > 0, lengths, 1)
