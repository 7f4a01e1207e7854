"""Latent maps: two-dimensional embeddings of a latent space, with measures of their faithfulness.

The embedding is UMAP or the first two principal components.

References
----------
McInnes et al. (2018), "UMAP: uniform manifold approximation and projection", arXiv 1802.03426.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range, Result
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.embeddings import (
    MAX_SCORED_POINTS,
    Method,
    embed,
    embedding_quality,
    procrustes_align,
    standardize,
)
from workbench.analysis.latents.point_colors import (
    ColorBy,
    ImageArrays,
    PointColors,
    point_colors,
)
from workbench.analysis.stats.sampling import Subset, describe_subset, rows_at, subsample

MIN_IMAGES = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentMap(Result):
    """A map of the images of one run, with the share of neighborhoods that it preserves.

    Attributes
    ----------
    coordinates : ndarray of float32, shape (m, 2)
        Position of each image on the map, without unit.
    image_indices : ndarray of int, shape (m,)
        Indices of the images on the map.
    colors : PointColors
        Class, mode, code or number of each image.
    trust : float
        Trustworthiness, from 0 to 1. At 1, neighbors on the map are neighbors in latent space.
    continuity : float
        Continuity, from 0 to 1. At 1, neighbors in latent space are neighbors on the map.
    n : int
        Number of images in the evidence.
    is_stratified : bool
        Whether a sample of the images was stratified by class.
    num_scored : int
        Number of images from which trustworthiness and continuity were computed.
    num_duplicates : int
        Number of images on the map whose latents equal those of an earlier image.
    method : {"umap", "pca"}
        Projection into the plane: UMAP or principal components.
    neighbors : int
        Size of a neighborhood.
    seed : int
        Seed of the random draws.
    """

    coordinates: np.ndarray = field(repr=False)
    image_indices: np.ndarray = field(repr=False)
    colors: PointColors = field(repr=False)
    trust: float
    continuity: float
    n: int
    is_stratified: bool
    num_scored: int
    num_duplicates: int
    method: Method
    neighbors: int
    seed: int

    @property
    def subset(self) -> Subset | None:
        """The images that were measured, if they are not all."""
        return Subset.if_partial(len(self.image_indices), self.n, stratified=self.is_stratified)

    def control_limits(self) -> Mapping[str, int]:
        """Return the number of images."""
        return {"points": self.n}

    def table(self) -> pd.DataFrame:
        """Return one row per image on the map, with its coordinates and its color variable."""
        x, y = self.coordinates.T
        columns = {"image": self.image_indices, "x": x, "y": y}
        if self.colors.values is not None:
            columns[self.colors.by] = self.colors.values
        elif self.colors.names:
            columns[self.colors.by] = np.array(self.colors.names)
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Return trustworthiness and continuity, the method and the sample."""
        scored = describe_subset(self.num_scored, len(self.image_indices))
        text = (
            f"The map has trustworthiness {self.trust:.2f} and continuity {self.continuity:.2f}"
            f" (1 is perfect; computed from {scored}). {self.method.upper()} of"
            f" {self.sample_description}, {self.neighbors} neighbors, seed {self.seed}."
        )
        if self.num_duplicates:
            text += (
                f" {self.num_duplicates:,} of {len(self.image_indices):,} images have the latents"
                " of another image, so that they share one point or form a dense group."
            )
        return text

    @property
    def sample_description(self) -> str:
        """Size of the sample and the way it was drawn."""
        return describe_subset(len(self.image_indices), self.n, stratified=self.is_stratified)


def latent_map(
    latents: np.ndarray,
    labels: np.ndarray | None = None,
    names: tuple[str, ...] = (),
    codes: np.ndarray | None = None,
    images: np.ndarray | None = None,
    reconstructions: np.ndarray | None = None,
    active: np.ndarray | None = None,
    mse: np.ndarray | None = None,
    *,
    method: Method = "umap",
    color_by: ColorBy = "class",
    points: Annotated[int, Range(500, 50_000, 500)] = 10_000,
    neighbors: Annotated[int, Range(2, 100)] = 15,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> LatentMap:
    """Embed the latents of all images in the plane, one point per image.

    Each dimension is standardized first.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,), optional
        Class of each image. Samples are stratified by it.
    names : tuple of str
        Names of the classes.
    codes : ndarray of int, shape (n, tokens), optional
        Needed for `color_by="code"`.
    images, reconstructions : ndarray of uint8, shape (n, h, w, c), optional
        Needed for `color_by="error"`, unless `mse` is given.
    active : ndarray of bool, shape (n, tokens), optional
        Needed for `color_by="tokens"`.
    mse : ndarray of float, shape (n,), optional
        Squared error of each image, pixels in [0, 1].
    method : {"umap", "pca"}
        Projection into the plane: UMAP or principal components.
    color_by : {"class", "mode", "code", "error", "tokens"}
        Variable that colors the points.
    points : int
        Largest number of images on the map. A sample is drawn from more.
    neighbors : int
        Size of a neighborhood. It is reduced to less than half of the number of images.
    seed : int
        Seed of all random draws.

    Returns
    -------
    LatentMap
        Coordinates, colors and quality scores of the images on the map.

    Raises
    ------
    NotApplicable
        If there are fewer than 5 images, the latents are constant, or the evidence lacks the
        color variable.
    UserError
        If a latent is NaN or infinite, or the number of labels is not n.

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(20, 2, 3))
    >>> latent_map(latents, method="pca").coordinates.shape
    (20, 2)
    """
    class_names(labels, (), len(latents))
    indices = subsample(len(latents), points, np.random.default_rng(seed), labels)
    arrays = ImageArrays(
        latents=latents,
        labels=labels,
        names=names,
        codes=codes,
        images=images,
        reconstructions=reconstructions,
        active=active,
        mse=mse,
    )
    result, _ = map_images(arrays, indices, method, color_by, neighbors, seed)
    return result


def map_images(
    arrays: ImageArrays,
    indices: np.ndarray,
    method: Method,
    color_by: ColorBy,
    neighbors: int,
    seed: int,
    reference: np.ndarray | None = None,
) -> tuple[LatentMap, float]:
    """Map a sample of images, optionally aligned to another map of the same images.

    Parameters
    ----------
    arrays : ImageArrays
        Latents and color variables of all images.
    indices : ndarray of int, shape (m,)
        Images on the map.
    method : {"umap", "pca"}
        Projection into the plane: UMAP or principal components.
    color_by : {"class", "mode", "code", "error", "tokens"}
        Property that colors the points.
    neighbors : int
        Number of nearest neighbors of UMAP.
    seed : int
        Seed of all random draws.
    reference : ndarray of float, shape (m, 2), optional
        Coordinates of another map. UMAP starts from them, and the result is aligned to them.

    Returns
    -------
    map : LatentMap
    disparity : float
        Procrustes disparity from the reference, from 0 to 1; 0 without a reference.
    """
    n = len(arrays.latents)
    # No name holds the latents of the sample, which would keep them in memory.
    rows = standardize(
        flatten_latents(
            rows_at(arrays.latents, indices),
            MIN_IMAGES,
            "A latent map",
        )
    )
    # Both measures of quality compare neighbors with at least as many other images.
    neighbors = min(neighbors, (len(rows) - 1) // 2)
    colors = point_colors(color_by, indices, arrays, seed)
    coordinates = embed(rows, method, neighbors, seed, reference)
    disparity = 0.0
    if reference is not None:
        coordinates, disparity = procrustes_align(coordinates, reference)
    trust, continuity = embedding_quality(rows, coordinates, neighbors, seed)
    result = LatentMap(
        coordinates=coordinates,
        image_indices=indices,
        colors=colors,
        trust=trust,
        continuity=continuity,
        n=n,
        is_stratified=arrays.labels is not None,
        num_scored=min(len(rows), MAX_SCORED_POINTS),
        num_duplicates=len(rows) - len({blake2b(row.tobytes()).digest() for row in rows}),
        method=method,
        neighbors=neighbors,
        seed=seed,
    )
    return result, disparity
