"""Variables that color the points of a latent map: one name or one number per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.analysis.images.reconstruction import pixel_errors, psnr_db
from workbench.analysis.inputs import class_names, flatten_latents
from workbench.analysis.latents.cross_validation import cross_validate_mixtures, mode_grid
from workbench.analysis.latents.mode_assignment import order_by_size
from workbench.analysis.latents.mode_nulls import MIN_IMAGES
from workbench.analysis.latents.modes import MAX_IMAGES
from workbench.analysis.plotting.style import COLORS
from workbench.analysis.stats.reductions import reduce_dimensions
from workbench.analysis.stats.sampling import rows_at, subsample
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import PADDING, Evidence

ColorBy = Literal["class", "mode", "code", "error", "tokens"]
MAX_COLORED_CODES = 12  # the most frequent codes; all others are gray
NUM_COMPONENTS = 16  # default of `mixture_modes`
MAX_MODES = 24  # default of `mixture_modes`
OTHER_NAME = "other"
OTHER_COLOR = COLORS[6]
# Okabe and Ito's palette without black, which is invisible on a dark page, then Tol's muted
# palette: the most names that a map can distinguish by color.
NAME_COLORS = (
    *COLORS[:6],
    *("#882255", "#44AA99", "#999933", "#AA4499", "#661100", "#332288", "#DDCC77"),
    *("#CC6677", "#117733", "#AA7744", "#6699CC", "#AA4466", "#77AADD"),
    OTHER_COLOR,
)


@dataclass(frozen=True, eq=False)
class PointColors:
    """The color variable of m points. Without one, both `names` and `values` are empty.

    Attributes
    ----------
    by : {"class", "mode", "code", "error", "tokens"}
        Property that colors the points.
    title : str
        Title of the legend or the color bar.
    names : tuple of str, length m
        Names, or empty.
    values : ndarray of float, shape (m,), or None
        Numbers, or None.
    """

    by: ColorBy
    title: str
    names: tuple[str, ...] = ()
    values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """The arrays of n images that a map is computed from and colored by.

    Attributes
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latent vectors, one per token.
    labels : ndarray of int, shape (n,), or None
        Class of each image.
    names : tuple of str
        Names of the classes.
    codes : ndarray of int, shape (n, tokens), or None
        Code of each token.
    images, reconstructions : ndarray of uint8, shape (n, h, w, c), or None
        The images and their reconstructions.
    mse : ndarray of float, shape (n,), or None
        Mean squared error of each image, pixels in [0, 1].
    active : ndarray of bool, shape (n, tokens), or None
        Tokens that the decoder uses.
    """

    latents: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    codes: np.ndarray | None
    images: np.ndarray | None
    reconstructions: np.ndarray | None
    active: np.ndarray | None
    mse: np.ndarray | None = None

    @classmethod
    def from_evidence(cls, evidence: Evidence) -> ImageArrays:
        """Select the arrays from evidence.

        Parameters
        ----------
        evidence : Evidence
            Evidence of one run.

        Returns
        -------
        ImageArrays

        Raises
        ------
        NotApplicable
            If the evidence has no latents.
        """
        if evidence.latents is None:
            raise NotApplicable("A latent map needs latents; the evidence has none.")
        return cls(
            latents=evidence.latents,
            labels=evidence.labels,
            names=evidence.names,
            codes=evidence.codes,
            images=evidence.images,
            reconstructions=evidence.reconstructions,
            active=evidence.active,
            mse=evidence.mse,
        )


def point_colors(by: ColorBy, indices: np.ndarray, arrays: ImageArrays, seed: int) -> PointColors:
    """Compute the color variable of a sample of images.

    Parameters
    ----------
    by : {"class", "mode", "code", "error", "tokens"}
        `class` needs no labels: without them, all points have one color.
    indices : ndarray of int, shape (m,)
        Images of the sample.
    arrays : ImageArrays
        Arrays of all images.
    seed : int
        Seed of the mixtures of `mode`.

    Returns
    -------
    PointColors

    Raises
    ------
    NotApplicable
        If the arrays that the variable needs are missing.
    """
    if by == "class":
        classes = class_names(arrays.labels, arrays.names, len(arrays.latents))
        names = tuple(classes[i] for i in indices) if classes else ()
        return PointColors(by=by, title="class", names=names)
    if by == "mode":
        assignment = modes_of_points(arrays.latents, indices, seed)
        title = "mode"
        if len(indices) > MAX_IMAGES:
            title += f", fitted to {MAX_IMAGES:,} at random"
        return PointColors(by=by, title=title, names=tuple(str(mode) for mode in assignment))
    if by == "code":
        codes = _require(arrays.codes, by, "codes")
        return PointColors(
            by=by, title="code of token 0", names=_frequent_codes(np.asarray(codes)[indices, 0])
        )
    if by == "error":
        if arrays.mse is None:
            images = _require(arrays.images, by, "images and reconstructions")
            reconstructions = _require(arrays.reconstructions, by, "images and reconstructions")
            mse, _ = pixel_errors(images[indices], reconstructions[indices])
        else:
            mse = np.asarray(arrays.mse)[indices]
        return PointColors(by=by, title="PSNR, dB", values=psnr_db(mse))
    active = _require(arrays.active, by, "active")
    num_tokens = np.asarray(active)[indices].sum(axis=1).astype(float)
    return PointColors(by=by, title="tokens used", values=num_tokens)


def modes_of_points(latents: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
    """Assign a sample of images to modes, counted as by `mixture_modes` with default controls.

    Parameters
    ----------
    latents : ndarray of float, shape (n, tokens, d)
        Latents of all images.
    indices : ndarray of int, shape (m,)
        Images of the sample.
    seed : int
        Seed of all random draws.

    Returns
    -------
    ndarray of int, shape (m,)
        Mode of each image; mode 0 is the largest.
    """
    rows = flatten_latents(rows_at(latents, indices), MIN_IMAGES, "Coloring by mode")
    points, _ = reduce_dimensions(rows, "ours", NUM_COMPONENTS, seed)
    fitted = points[subsample(len(points), MAX_IMAGES, np.random.default_rng(seed))]
    modes = mode_grid(min(MAX_MODES, len(fitted) // 10))
    (sweep,), mixtures = cross_validate_mixtures([fitted], modes, "diag", seed)
    best_mixture = mixtures[list(modes).index(sweep.best)]
    assignment, _ = order_by_size(best_mixture, points)
    return assignment


def _frequent_codes(codes: np.ndarray) -> tuple[str, ...]:
    counts = np.bincount(codes[codes != PADDING])
    by_frequency: Sequence[int] = np.argsort(-counts, kind="stable").tolist()
    colored = set(by_frequency[:MAX_COLORED_CODES])
    return tuple(str(code) if code in colored else OTHER_NAME for code in codes.tolist())


def _require(array: np.ndarray | None, by: ColorBy, fields: str) -> np.ndarray:
    if array is None:
        raise NotApplicable(f"Coloring by {by} needs {fields}; the evidence has none.")
    return array


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort distinct names: numbers by value, then words by letter, then the rest.

    Parameters
    ----------
    names : iterable of str
        Names to sort.

    Returns
    -------
    list of str

    Examples
    --------
    >>> sort_names(["other", "10", "cat", "9", "cat"])
    ['9', '10', 'cat', 'other']
    """

    def key(name: str) -> tuple[bool, bool, int, str]:
        is_number = name.isdigit()
        return name == OTHER_NAME, not is_number, int(name) if is_number else 0, name

    return sorted(set(names), key=key)


def name_colors(names: Sequence[str]) -> tuple[str, ...]:
    """Return the color of each name, the same in every map.

    Parameters
    ----------
    names : sequence of str
        Distinct names in the order of `sort_names`, at most as many as `NAME_COLORS`.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> name_colors(["cat", "other"])
    ('#0072B2', '#7F7F7F')
    """
    colors = zip(names, NAME_COLORS, strict=False)
    return tuple(OTHER_COLOR if name == OTHER_NAME else color for name, color in colors)
