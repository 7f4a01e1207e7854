"""Discriminator on the features of a frozen DINO network, as in SoftVQ-VAE, MAETok and VAR.

Heads of one-dimensional convolutions over the rows of patches predict one logit per patch and
readout. Only the heads are trained. The design is that of StyleGAN-T (arXiv:2301.09515).

Differences from the released code: the estimate of the spectral norms is updated once per step of
training (there with each pass). BatchNorms have the statistics of the images of one process and one
part of the batch (there of all processes).
"""

import math
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.batch_shares import batch_draws
from workbench.core.types import Images
from workbench.nn.discriminator import Discriminator

KERNEL = 9  # of the residual convolution of a head
NORM_EPS = 1e-6
CROP_PROBABILITY = 0.5  # of images that are larger than the network's
NUM_FIRST_UPDATES = 15  # of the estimated spectral norms


@runtime_checkable
class FrozenTransformer(Protocol):
    """A frozen vision transformer.

    Attributes
    ----------
    resolution : int
        Side of its images, in pixels.
    dim : int
        Channels of a row.
    num_readouts : int
        Number of depths whose rows it returns.
    """

    resolution: int
    dim: int
    num_readouts: int

    def readouts(self, images: Images) -> list[Float[Tensor, "b p e"]]:
        """Return the rows of patches, plus the row of the class token, at several depths."""
        ...


class DINODiscriminator(Discriminator):
    """Predict one logit per patch and depth of a frozen network; positive means real.

    Parameters
    ----------
    network : FrozenTransformer
        The network. It is not part of the checkpoint.
    """

    def __init__(self, network: FrozenTransformer) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList(Head(network.dim) for _ in range(network.num_readouts))

    def forward(self, images: Images) -> Float[Tensor, "b n"]:
        """Return the logits of all patches and depths."""
        rows = self.network.readouts(self._resize(images))
        logits = [head(each.mT) for head, each in zip(self.heads, rows, strict=True)]
        return torch.cat(logits, dim=1)

    def update_state(self) -> None:
        """Update the estimated spectral norms."""
        for part in self.heads.modules():
            if isinstance(part, SpectralConv1d):
                part.update_norm()

    def _resize(self, images: Images) -> Float[Tensor, "b c side side"]:
        """Crop larger images at random or shrink them, and enlarge smaller ones."""
        side = self.network.resolution
        height, width = images.shape[2:]
        if height == width == side:
            return images
        is_larger = min(height, width) > side
        if self.training and is_larger and self._is_cropped():
            top = _position(height - side)
            left = _position(width - side)
            return images[:, :, top : top + side, left : left + side]
        return F.interpolate(images, (side, side), mode="area" if is_larger else "bicubic")

    def _is_cropped(self) -> bool:
        return float(batch_draws(torch.rand, (1,))) < CROP_PROBABILITY


class Head(nn.Module):
    """Two normalized convolutions, the second one residual, and a projection to a logit.

    Parameters
    ----------
    width : int
        Channels of a row.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, 1)
        self.second = _convolution(width, KERNEL)
        self.to_logit = SpectralConv1d(width, 1, 1)

    def forward(self, rows: Float[Tensor, "b e t"]) -> Float[Tensor, "b t"]:
        """Return one logit per row."""
        x = self.first(rows)
        x = (self.second(x) + x) / math.sqrt(2)
        return self.to_logit(x)[:, 0]


class SpectralConv1d(nn.Conv1d):
    """Convolution whose weight, as a matrix, is divided by its largest singular value.

    The value is estimated by power iteration (arXiv:1802.05957), one step per `update_norm`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size : int
        As in `Conv1d`. Rows are padded circularly, so that their number stays the same.
    """

    left: Float[Tensor, " out"]  # the estimated left singular vector

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            padding_mode="circular",
        )
        self.register_buffer("left", F.normalize(torch.randn(out_channels), dim=0))
        for _ in range(NUM_FIRST_UPDATES):
            self.update_norm()

    @torch.no_grad()
    def update_norm(self) -> None:
        """Take one step of the power iteration."""
        matrix = self.weight.flatten(1)
        right = F.normalize(matrix.mT @ self.left, dim=0)
        self.left.copy_(F.normalize(matrix @ right, dim=0))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b out t"]:
        """Apply the convolution with the normalized weight."""
        matrix = self.weight.flatten(1)
        left = self.left.clone()  # `update_norm` changes it before the backward pass
        right = F.normalize(matrix.detach().mT @ left, dim=0)
        norm = left @ matrix @ right
        return self._conv_forward(x, self.weight / norm, self.bias)


def _convolution(width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        SpectralConv1d(width, width, kernel),
        nn.BatchNorm1d(width, eps=NORM_EPS, track_running_stats=False),
        nn.LeakyReLU(0.2),
    )


def _position(most: int) -> int:
    """Draw a whole number from 0 to `most`, the same for all images."""
    return int(batch_draws(partial(torch.randint, 0, most + 1), (1,)))
