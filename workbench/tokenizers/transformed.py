"""A tokenizer whose latents are mapped linearly: other latents, the same reconstructions.

The map is inverted before the decoder, so that images are equal up to rounding. What differs
between such tokenizers is only the shape of the latent space, so that they show what generation
depends on if reconstruction is fixed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import NotApplicable, UserError, unknown
from workbench.core.image_size import AnySide
from workbench.core.trusted import PACKAGE, import_trusted
from workbench.core.types import Images, Tokens
from workbench.tokenizers.base import Tokenizer

MAX_NUMBERS = 4096  # of a latent: the map is a matrix of its square
MIN_VARIANCE_SHARE = 1e-6  # of the largest; directions of less variance are not amplified further
MIN_IMAGES_PER_NUMBER = 2  # behind the covariance of powers


@dataclass(frozen=True, eq=False)
class LatentMap:
    """An invertible affine map of all dimensions of a latent: matrix (z - center) + center.

    Attributes
    ----------
    matrix, inverse : ndarray of float64, shape (d, d)
        The map and its inverse, of the d = tokens x channels numbers in the order of the tokens.
    center : ndarray of float64, shape (d,)
        The fixed point of the map.
    """

    matrix: np.ndarray
    inverse: np.ndarray
    center: np.ndarray

    @classmethod
    def orthogonal(cls, matrix: np.ndarray) -> "LatentMap":
        """Return the map of an orthogonal matrix around 0."""
        return cls(matrix=matrix, inverse=matrix.T, center=np.zeros(len(matrix)))


def identity(latents: np.ndarray, grid: tuple[int, int] | None, seed: int) -> LatentMap:
    """Leave latents as they are, as a control."""
    return LatentMap.orthogonal(np.eye(latents[0].size))


def rotate_channels(latents: np.ndarray, grid: tuple[int, int] | None, seed: int) -> LatentMap:
    """Rotate the channels of every token alike, at random."""
    num_tokens, dim = latents.shape[1:]
    return LatentMap.orthogonal(np.kron(np.eye(num_tokens), _rotation(dim, seed)))


def permute_tokens(latents: np.ndarray, grid: tuple[int, int] | None, seed: int) -> LatentMap:
    """Permute the tokens at random, alike for all images."""
    num_tokens, dim = latents.shape[1:]
    order = np.random.default_rng(seed).permutation(num_tokens)
    return LatentMap.orthogonal(np.kron(np.eye(num_tokens)[order], np.eye(dim)))


def rotate_all(latents: np.ndarray, grid: tuple[int, int] | None, seed: int) -> LatentMap:
    """Rotate all dimensions of a latent at random, which mixes tokens."""
    return LatentMap.orthogonal(_rotation(latents[0].size, seed))


def power(exponent: float) -> "MakeMap":
    """Return the map that multiplies principal axes by their eigenvalue to an exponent.

    Parameters
    ----------
    exponent : float
        -1/2 whitens the latents, and 1/4 gives eigenvalues to the power 3/2.
    """

    def make(latents: np.ndarray, grid: tuple[int, int] | None, seed: int) -> LatentMap:
        rows = latents.reshape(len(latents), -1).astype(np.float64)
        if len(rows) < MIN_IMAGES_PER_NUMBER * rows.shape[1]:
            raise NotApplicable(
                f"A power of the covariance of {rows.shape[1]:,} numbers needs at least"
                f" {MIN_IMAGES_PER_NUMBER * rows.shape[1]:,} training images, got {len(rows):,}."
            )
        center = rows.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(rows, rowvar=False))
        gains = np.maximum(values, MIN_VARIANCE_SHARE * values[-1]) ** exponent
        return LatentMap(
            matrix=(axes * gains) @ axes.T, inverse=(axes / gains) @ axes.T, center=center
        )

    return make


def frequency_gain(exponent: float) -> "MakeMap":
    """Return the map that multiplies the cosine frequencies (u, v) of the grid by (1 + u + v)^e.

    Parameters
    ----------
    exponent : float
        Above 0 latents become rougher, below 0 smoother.
    """

    def make(latents: np.ndarray, grid: tuple[int, int] | None, seed: int) -> LatentMap:
        if grid is None:
            raise NotApplicable(
                "Gains of frequencies need a grid; these tokens have no position in the image."
            )
        basis = np.kron(_cosines(grid[0]), _cosines(grid[1]))
        u, v = np.indices(grid)
        gains = (1.0 + u + v).ravel() ** exponent
        channels = np.eye(latents.shape[2])
        return LatentMap(
            matrix=np.kron(basis.T @ (gains[:, None] * basis), channels),
            inverse=np.kron(basis.T @ (basis / gains[:, None]), channels),
            center=latents.reshape(len(latents), -1).mean(axis=0).astype(np.float64),
        )

    return make


MakeMap = Callable[[np.ndarray, tuple[int, int] | None, int], LatentMap]
TRANSFORMS: Mapping[str, MakeMap] = {
    "none": identity,
    "channels rotated": rotate_channels,
    "tokens permuted": permute_tokens,
    "all rotated": rotate_all,
    "whitened": power(-0.5),
    "flatter": power(-0.25),
    "steeper": power(0.25),
    "rougher": frequency_gain(0.5),
    "smoother": frequency_gain(-0.5),
}


def fit_map(
    transform: str, latents: np.ndarray, grid: tuple[int, int] | None = None, seed: int = 0
) -> LatentMap:
    """Make the map of a transform for the latents of training images.

    Parameters
    ----------
    transform : str
        A key of `TRANSFORMS`, such as `whitened`.
    latents : ndarray of float, shape (n_images, n_tokens, dim)
        Latents of training images.
    grid : tuple of int, optional
        Rows and columns of the tokens.
    seed : int
        Seed of random rotations and permutations.

    Raises
    ------
    UserError
        If there is no such transform, or a latent has over 4,096 numbers.
    NotApplicable
        If the transform needs a grid or more images.

    Examples
    --------
    >>> latents = np.random.default_rng(0).normal(size=(50, 4, 2))
    >>> latent_map = fit_map("all rotated", latents)
    >>> bool(np.allclose(latent_map.matrix @ latent_map.inverse, np.eye(8)))
    True
    """
    if transform not in TRANSFORMS:
        raise unknown("transform", transform, TRANSFORMS)
    size = latents[0].size
    if size > MAX_NUMBERS:
        raise UserError(
            f"A map of latents is a matrix of at most {MAX_NUMBERS:,} numbers per side, got latents"
            f" of {size:,} numbers. Use a tokenizer with fewer tokens or channels."
        )
    return TRANSFORMS[transform](latents, grid, seed)


class TransformedTokenizer(Tokenizer):
    """A tokenizer whose latents are mapped, and mapped back before they are decoded.

    Parameters
    ----------
    config : Config
        The class and the settings of the tokenizer, and the shape of its latents. Its weights and
        the map are loaded, or set by `wrap`.
    """

    respects_active = False
    frozen_encoder = True  # nothing is trained, so that there is no state before training

    matrix: Float[Tensor, "d d"]
    inverse: Float[Tensor, "d d"]
    center: Float[Tensor, " d"]

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings of a transformed tokenizer."""

        tokenizer_class: str  # module:Class of the tokenizer
        numbers: int  # tokens times channels of its latents
        channels: int  # of images
        side: AnySide  # of images, in pixels
        transform: str = "none"
        tokenizer_settings: Mapping[str, Any] = field(default_factory=dict)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        settings = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config.tokenizer_settings.items()
        }
        kind = import_trusted(config.tokenizer_class, (PACKAGE,))
        self.tokenizer: Tokenizer = kind(kind.Config(**settings))
        self.register_buffer("matrix", torch.eye(config.numbers))
        self.register_buffer("inverse", torch.eye(config.numbers))
        self.register_buffer("center", torch.zeros(config.numbers))

    def set_map(self, latent_map: LatentMap) -> None:
        """Replace the map."""
        for name in ("matrix", "inverse", "center"):
            getattr(self, name).copy_(torch.from_numpy(getattr(latent_map, name)))

    @property
    def grid(self) -> tuple[int, int] | None:
        """Return the grid of the tokenizer."""
        return self.tokenizer.grid

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Return the feature grid of the tokenizer."""
        return self.tokenizer.feature_grid

    def encode(self, images: Images) -> Tokens:
        """Return the mapped latents."""
        tokens = self.tokenizer.encode(images)
        return Tokens(self._map(self.matrix, tokens.latents), grid=tokens.grid)

    def decode(self, tokens: Tokens) -> Images:
        """Map latents back, and decode them."""
        return self.tokenizer.decode(
            Tokens(self._map(self.inverse, tokens.latents), grid=tokens.grid)
        )

    def _map(
        self, matrix: Float[Tensor, "d d"], latents: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b n c"]:
        flat = latents.flatten(1) - self.center
        return (flat @ matrix.T + self.center).reshape(latents.shape)


def _rotation(dim: int, seed: int) -> np.ndarray:
    """Return a uniformly random rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return q * np.sign(np.diag(r))


def _cosines(count: int) -> np.ndarray:
    """Return the orthonormal cosine basis of a number of points, one row per frequency."""
    from scipy.fft import dct

    return dct(np.eye(count), axis=0, norm="ortho")
