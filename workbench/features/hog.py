"""Histograms of oriented gradients as in MaskFeat (arXiv:2112.09133), which MAETok adopted.

Sobel gradients per channel; 9 unsigned orientations, each pixel in one of them, weighted by the
magnitude of its gradient and by a Gaussian window over the patch with a standard deviation of half
a patch; 2 x 2 cells per patch; the histogram of each cell has norm 1.

Differences from the paper: the window and the cells follow the grid (MaskFeat's have 16 and 8
pixels). A gradient far below one gray level counts as zero, because rounding would otherwise
determine the orientation of a flat cell.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels

NUM_ORIENTATIONS = 9
MIN_MAGNITUDE = 1e-4  # a step of one gray level has a magnitude of at least 0.008


class HOG(FeatureExtractor):
    """36 numbers per channel: 9 orientations in 2 x 2 cells. Needs no training and no download.

    Parameters
    ----------
    channels : int
        Channels of the images, 1 or 3.
    """

    name = "hog"
    title = "HOG"
    directional = False

    def __init__(self, channels: int = 3) -> None:
        self.channels = channels
        self.dim = channels * NUM_ORIENTATIONS * 4

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Compute the histograms.

        They are exact if twice the grid divides the image. Other images are first enlarged to the
        next such size.
        """
        images = _enlarge_to_multiple(match_channels(images, self.channels).float(), grid)
        (rows, columns), (height, width) = grid, images.shape[2:]
        x, y = sobel(images)
        magnitude = torch.hypot(x, y)
        window = _window(height // rows, width // columns, images).repeat(grid)
        magnitude = magnitude.where(magnitude > MIN_MAGNITUDE, 0) * window
        angle = torch.atan2(x, y) / math.pi
        orientation = (angle * NUM_ORIENTATIONS).floor().long() % NUM_ORIENTATIONS
        votes = images.new_zeros(len(images), self.channels, NUM_ORIENTATIONS, height, width)
        votes.scatter_(2, orientation.unsqueeze(2), magnitude.unsqueeze(2))
        by_cell = rearrange(votes, "b c k (h i) (w j) -> b c k h w i j", h=2 * rows, w=2 * columns)
        histograms = F.normalize(by_cell.sum(dim=(-2, -1)), dim=2)
        return rearrange(histograms, "b c k (h i) (w j) -> b (h w) (c k i j)", i=2, j=2)


def sobel(images: Images) -> tuple[Images, Images]:
    """Compute the horizontal and vertical gradients, with reflected edges.

    Differences are computed first, so that the gradients of a flat image are exactly 0.
    """
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    across = padded[..., :, :-2] - padded[..., :, 2:]
    down = padded[..., :-2, :] - padded[..., 2:, :]
    x = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    y = down[..., :, :-2] + 2 * down[..., :, 1:-1] + down[..., :, 2:]
    return x, y


def _enlarge_to_multiple(
    images: Images, grid: tuple[int, int]
) -> Float[Tensor, "b c rows columns"]:
    sizes = [
        math.ceil(size / (2 * cells)) * 2 * cells
        for size, cells in zip(images.shape[2:], grid, strict=True)
    ]
    if sizes == list(images.shape[2:]):
        return images
    return F.interpolate(images, sizes, mode="bilinear")


def _window(height: int, width: int, like: Tensor) -> Float[Tensor, "height width"]:
    """Return a Gaussian over one patch, with a standard deviation of half its size."""
    axes = [(torch.arange(n, device=like.device) - (n - 1) / 2) / (n / 2) for n in (height, width)]
    rows, columns = (torch.exp(-axis.square() / 2) for axis in axes)
    return torch.outer(rows, columns) / (rows.sum() * columns.sum())
