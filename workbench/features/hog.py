"""Histograms of oriented gradients as MaskFeat predicts them (arXiv:2112.09133), which MAETok took over.

Sobel gradients of each channel; 9 unsigned orientations, each pixel in one, weighted by its gradient's magnitude and a
Gaussian window over the patch (deviation: half a patch); 2 x 2 cells a patch; each cell's histogram has norm 1.

Here: the window and the cells follow the grid (MaskFeat's are 16 and 8 pixels), and a gradient far below a grey level
counts as none, because rounding alone would else decide a flat cell's orientation.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels

BINS = 9
FAINT = 1e-4  # a step of one grey level has magnitude 0.008 at least


class HOG(FeatureExtractor):
    """36 numbers a channel: for each orientation, 2 x 2 cells. Needs no training and no download."""

    name, directional = "hog", False

    def __init__(self, channels: int = 3) -> None:
        self.channels, self.dim = channels, channels * BINS * 4

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Exact where twice the grid divides the image; other images are first enlarged to the next that does."""
        images = _divisible(match_channels(images, self.channels).float(), grid)
        (rows, columns), (height, width) = grid, images.shape[2:]
        x, y = sobel(images)
        magnitude = torch.hypot(x, y)
        magnitude = magnitude.where(magnitude > FAINT, 0) * _window(
            height // rows, width // columns, images
        ).repeat(grid)
        bins = (torch.atan2(x, y) / math.pi * BINS).floor().long() % BINS
        votes = images.new_zeros(len(images), self.channels, BINS, height, width)
        votes.scatter_(2, bins.unsqueeze(2), magnitude.unsqueeze(2))
        cells = rearrange(
            votes, "b c k (h i) (w j) -> b c k h w i j", h=2 * rows, w=2 * columns
        ).sum(dim=(-2, -1))
        return rearrange(
            F.normalize(cells, dim=2), "b c k (h i) (w j) -> b (h w) (c k i j)", i=2, j=2
        )


def sobel(images: Images) -> tuple[Images, Images]:
    """Horizontal and vertical gradients, edges reflected. Differences come first: a flat image's are exactly 0."""
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    across, down = (
        padded[..., :, :-2] - padded[..., :, 2:],
        padded[..., :-2, :] - padded[..., 2:, :],
    )
    x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    y = down[..., :, :-2] + 2 * down[..., :, 1:-1] + down[..., :, 2:]
    return x, y


def _divisible(images: Images, grid: tuple[int, int]) -> Float[Tensor, "b c rows columns"]:
    sides = tuple(
        math.ceil(side / (2 * cells)) * 2 * cells
        for side, cells in zip(images.shape[2:], grid, strict=True)
    )
    return (
        images
        if sides == tuple(images.shape[2:])
        else F.interpolate(images, sides, mode="bilinear")
    )


def _window(height: int, width: int, like: Tensor) -> Float[Tensor, "height width"]:
    """A Gaussian over one patch, deviation half its side."""
    sides = [(torch.arange(n, device=like.device) - (n - 1) / 2) / (n / 2) for n in (height, width)]
    rows, columns = (torch.exp(-side.square() / 2) for side in sides)
    return torch.outer(rows, columns) / (rows.sum() * columns.sum())
