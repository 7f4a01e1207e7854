"""Spatial structure of latents: the similarity of tokens by their distance in the image.

- *LDS*, local against distant similarity: the mean cosine of two tokens nearer than half the grid,
  less that of tokens at least as far apart.
- *CDS*, the decay of the mean cosine with distance, from 1 to half the grid.
- *RMSC*, the spread of the unit tokens of an image around their mean. It needs no grid.

Distances are Manhattan distances between cells. White noise and shuffled positions have LDS and CDS
of 0. Means of token positions look like structure, so every value is also given without them, and
without the mean token of each image. SRSS, which compares tokens inside and outside of objects,
needs object masks, which evidence does not have.

References
----------
iREPA (2025), arXiv 2512.10794; arXiv 2606.03578 (2026).
"""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pandas as pd

from workbench.analysis.base import Range
from workbench.analysis.learnability.latents_result import LatentsResult
from workbench.analysis.learnability.scaled_latents import ScaledLatents, Scaling
from workbench.analysis.learnability.token_grid import grid_fault
from workbench.analysis.perspectives import Conditions, Perspective
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable

MIN_IMAGES = 10
RAW = "raw"
CENTERED = "without position means"
IMAGE_FREE = "without image means"
NAN = float("nan")
CONTESTED = (
    "No direction: published correlations are of values that position means raise, and on small"
    " grids very smooth latents lose LDS again."
)
UNTESTED_RMSC = "No direction: arXiv 2606.03578 does not report it."


@dataclass(frozen=True, eq=False, kw_only=True)
class StructureValue:
    """A mean over images with its 95 % bootstrap interval.

    Attributes
    ----------
    value, low, high : float
        NaN without a grid.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class SpatialVariant:
    """Spatial structure of the latents, or of a part of them.

    Attributes
    ----------
    name : str
        `raw`, `without position means` or `without image means`.
    lds, cds, rmsc : StructureValue
        The three measures; see the module.
    null_rmsc : float
        RMSC of unrelated tokens. That of LDS and CDS is 0.
    correlogram : ndarray of float64, shape (m,)
        Mean cosine of two tokens at each distance; empty without a grid.
    low, high : ndarray of float64, shape (m,)
        10th and 90th percentile over images.
    """

    name: str
    lds: StructureValue
    cds: StructureValue
    rmsc: StructureValue
    null_rmsc: float
    correlogram: np.ndarray = field(repr=False)
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpatialStructure(LatentsResult):
    """Similarity of the tokens of an image, by distance.

    Attributes
    ----------
    variants : tuple of SpatialVariant
        Raw, without position means, and without image means.
    distances : ndarray of int, shape (m,)
        Manhattan distances, from 1; empty without a grid.
    side : int
        Rows of the square grid; 0 without a grid.
    missing : str
        Reason why LDS and CDS are missing, as a sentence; empty if they are not.
    seed : int
        Seed of the random draws.
    """

    variants: tuple[SpatialVariant, ...]
    distances: np.ndarray = field(repr=False)
    side: int
    missing: str
    seed: int

    def __getitem__(self, name: str) -> SpatialVariant:
        return next(variant for variant in self.variants if variant.name == name)

    def perspectives(self) -> tuple[Perspective, ...]:
        """Return LDS, raw and without position means, CDS and RMSC without position means."""
        raw, free = self[RAW], self[CENTERED]
        return (
            self._perspective("LDS", "near less distant cosine of tokens", raw.lds, on_grid=True),
            self._perspective(
                "LDS, position-centered",
                "LDS without the means of token positions",
                free.lds,
                on_grid=True,
            ),
            self._perspective(
                "CDS, position-centered",
                "decay of the cosine of tokens by cell",
                free.cds,
                on_grid=True,
            ),
            self._perspective(
                "RMSC, position-centered", "spread of the unit tokens of an image", free.rmsc
            ),
        )

    def table(self) -> pd.DataFrame:
        """Return one row per measure and variant, and one per distance."""
        rows = []
        for variant in self.variants:
            for name, item, null in (
                ("LDS", variant.lds, 0.0),
                ("CDS", variant.cds, 0.0),
                ("RMSC", variant.rmsc, variant.null_rmsc),
            ):
                rows.append(
                    {
                        "measure": name,
                        "latents": variant.name,
                        "value": item.value,
                        "low": item.low,
                        "high": item.high,
                        "null": null,
                    }
                )
            rows += [
                {"measure": f"cosine at {distance}", "latents": variant.name, "value": value}
                for distance, value in zip(self.distances, variant.correlogram, strict=True)
            ]
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """State LDS with and without position means, or why it does not exist, and RMSC."""
        raw, free = self[RAW], self[CENTERED]
        rmsc = (
            f"The unit tokens of an image have a spread (RMSC) of {raw.rmsc.value:.3f}"
            f" ({free.rmsc.value:.3f} without position means; unrelated tokens:"
            f" {raw.null_rmsc:.3f})."
        )
        if self.missing:
            return f"{rmsc} {self.missing}{self.remarks()}"
        return (
            f"Near tokens are more similar than distant ones by a cosine of {raw.lds.value:.3f}"
            f" (LDS; {free.lds.value:.3f} without position means; white noise: 0). {rmsc}"
            f" Compare LDS and CDS only at equal grids.{self.remarks()}"
        )

    def _perspective(
        self, name: str, meaning: str, item: StructureValue, *, on_grid: bool = False
    ) -> Perspective:
        conditions: Conditions = (("scaling", self.scaling),)
        if on_grid:
            conditions = (("grid", f"{self.side} × {self.side}"), *conditions)
        else:
            conditions = (("tokens", str(self.tokens)), *conditions)
        return Perspective(
            name=name,
            meaning=meaning,
            value=item.value,
            low=item.low,
            high=item.high,
            null=0.0 if on_grid else self[CENTERED].null_rmsc,
            null_case="white noise",
            reason=(self.missing or CONTESTED) if on_grid else UNTESTED_RMSC,
            conditions=conditions,
        )


def spatial_structure(
    latents: np.ndarray,
    grid: tuple[int, int] | None = None,
    active: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    scaling: Scaling = "by channel",
    max_images: Annotated[int, Range(500, 50_000, 500)] = 5_000,
    seed: Annotated[int, Range(0, 999)] = 0,
) -> SpatialStructure:
    """Measure the cosine of two tokens of an image by their distance.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    grid : tuple of int, optional
        Rows and columns of the tokens. Without a square grid of at least 4 × 4, only RMSC is
        measured.
    active : ndarray of bool, shape (n, tokens), optional
        Tokens that the decoder reads. The prefix that 95 % of the images have is measured.
    labels : ndarray of int, shape (n,), optional
        Class of each image. Samples are stratified by it.
    scaling : {"by channel", "all alike"}
        Scale each channel, or all channels together, to variance 1.
    max_images : int
        Number of images to draw if there are more.
    seed : int
        Seed of the images that are drawn.

    Returns
    -------
    SpatialStructure
        LDS, CDS and RMSC, raw, without position means and without image means.

    Raises
    ------
    NotApplicable
        If there are fewer than 10 images or two tokens, or the latents are constant.
    UserError
        If a latent is NaN or infinite, or the grid does not have as many cells as tokens.

    References
    ----------
    iREPA (2025), arXiv 2512.10794.

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(200, 64, 8))
    >>> round(abs(spatial_structure(latents, (8, 8))["raw"].lds.value), 2)  # white noise
    0.0
    """
    scaled = ScaledLatents.create(
        latents,
        active,
        purpose="Spatial structure",
        min_images=MIN_IMAGES,
        max_images=max_images,
        labels=labels,
        scaling=scaling,
        seed=seed,
    )
    if scaled.tokens < 2:
        raise NotApplicable("Spatial structure needs at least two tokens; images have one.")
    fault = grid_fault(grid, scaled.tokens, latents.shape[1])
    side = 0 if fault or grid is None else grid[0]
    variants = (
        _variant(RAW, scaled, side, image_free=False),
        _variant(CENTERED, scaled.centered_by_position(), side, image_free=False),
        _variant(IMAGE_FREE, scaled, side, image_free=True),
    )
    return SpatialStructure(
        variants=variants,
        distances=np.arange(1, 2 * side - 1),
        side=side,
        missing=f"LDS and CDS need {fault}." if fault else "",
        images=len(scaled),
        of=len(latents),
        selection=scaled.selection,
        tokens=scaled.tokens,
        channels=scaled.channels,
        constant_channels=scaled.constant_channels,
        scaling=scaling,
        seed=seed,
    )


def _variant(name: str, latents: ScaledLatents, side: int, *, image_free: bool) -> SpatialVariant:
    """Measure one variant in blocks of images."""
    spreads, cosines = [], []
    for block in latents.blocks():
        tokens = block - block.mean(axis=1, keepdims=True) if image_free else block
        norms = np.linalg.norm(tokens, axis=2, keepdims=True)
        units = tokens / np.where(norms > 0, norms, 1)
        deviation = units - units.mean(axis=1, keepdims=True)
        spreads.append(np.sqrt(np.square(deviation).sum(axis=2).mean(axis=1)))
        if side:
            cosines.append(cosine_by_distance(units.reshape(len(units), side, side, -1)))
    rmsc = _structure_value(np.concatenate(spreads))
    # Unit tokens around the mean of their image have a mean near 0.
    null_rmsc = 1.0 if image_free else float(np.sqrt(1 - 1 / latents.tokens))
    if not side:
        nothing = StructureValue(value=NAN, low=NAN, high=NAN)
        empty = np.zeros(0)
        return SpatialVariant(
            name=name,
            lds=nothing,
            cds=nothing,
            rmsc=rmsc,
            null_rmsc=null_rmsc,
            correlogram=empty,
            low=empty,
            high=empty,
        )
    by_image = np.concatenate(cosines)
    low, high = np.percentile(by_image, (10, 90), axis=0)
    return SpatialVariant(
        name=name,
        lds=_structure_value(local_against_distant(by_image, side)),
        cds=_structure_value(cosine_decay(by_image, side)),
        rmsc=rmsc,
        null_rmsc=null_rmsc,
        correlogram=by_image.mean(axis=0),
        low=low,
        high=high,
    )


def cosine_by_distance(units: np.ndarray) -> np.ndarray:
    """Compute the mean product of two tokens by their Manhattan distance.

    The products of all pairs at an offset are an autocorrelation, computed by Fourier transform, so
    that no array of all pairs is needed.

    Parameters
    ----------
    units : ndarray of float, shape (n, side, side, channels)
        Tokens of norm 1.

    Returns
    -------
    ndarray of float64, shape (n, 2 * side - 2)
        For the distances 1, 2, ...
    """
    side = units.shape[1]
    offsets = np.minimum(np.arange(2 * side), 2 * side - np.arange(2 * side))
    distances = np.add.outer(offsets, offsets).ravel()
    is_inside = np.maximum.outer(offsets, offsets).ravel() < side
    by_distance = np.eye(2 * side - 1)[np.where(is_inside, distances, 0)] * is_inside[:, None]
    sums = _autocorrelation(units) @ by_distance
    pairs = _autocorrelation(np.ones((1, side, side, 1))) @ by_distance
    return (sums / pairs)[:, 1:]


def local_against_distant(cosines: np.ndarray, side: int) -> np.ndarray:
    """Return LDS of each image: the mean over near pairs less that over distant pairs.

    Parameters
    ----------
    cosines : ndarray of float, shape (n, 2 * side - 2)
        Output of `cosine_by_distance`.
    side : int
        Number of rows, and of columns, of the grid.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    pairs = _pairs_by_distance(side)
    is_near = np.arange(1, 2 * side - 1) < side / 2
    near = cosines[:, is_near] @ pairs[is_near] / pairs[is_near].sum()
    distant = cosines[:, ~is_near] @ pairs[~is_near] / pairs[~is_near].sum()
    return near - distant


def cosine_decay(cosines: np.ndarray, side: int) -> np.ndarray:
    """Return CDS of each image: minus the slope of the cosine on distances from 1 to side / 2.

    Parameters
    ----------
    cosines : ndarray of float, shape (n, 2 * side - 2)
        Output of `cosine_by_distance`.
    side : int
        Number of rows, and of columns, of the grid.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    distances = np.arange(1, side // 2 + 1)
    centered = distances - distances.mean()
    return -cosines[:, : len(distances)] @ centered / np.square(centered).sum()


def _autocorrelation(units: np.ndarray) -> np.ndarray:
    """Return sums of products over all pairs at each offset, (n, 2 side * 2 side)."""
    from scipy import fft

    n, side = units.shape[:2]
    size = (2 * side, 2 * side)  # zeros between the copies, so that no pair wraps around
    power = np.square(np.abs(fft.rfft2(units, s=size, axes=(1, 2)))).sum(axis=3)
    return fft.irfft2(power, s=size, axes=(1, 2)).reshape(n, -1)


def _pairs_by_distance(side: int) -> np.ndarray:
    """Return the number of ordered pairs of cells at each distance from 1."""
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    distances = np.abs(cells[:, None] - cells).sum(axis=2).ravel()
    return np.bincount(distances, minlength=2 * side - 1)[1:]


def _structure_value(values: np.ndarray) -> StructureValue:
    value, low, high = mean_interval(values)
    return StructureValue(value=value, low=low, high=high)
