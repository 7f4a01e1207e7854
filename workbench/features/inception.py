"""Inception-v3 in the form that defines the FID: the network of TensorFlow's file of 2015-12-05.

The layers have the names of the file `pt_inception-2015-12-05`, which pytorch-fid distributes. It
differs from the Inception-v3 of image classifiers: average pools do not count padding, the last
block pools by the maximum, there are 1,008 classes, and images are resized as in TensorFlow 1.

References: Szegedy et al., arXiv 1512.00567; Heusel et al., arXiv 1706.08500 (FID); Nash et al.,
arXiv 2103.03841 (sFID); Dhariwal and Nichol, arXiv 2105.05233 (the evaluation of ADM).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid
from workbench.features.weights import PublishedWeights, WeightsFile

WEIGHTS = PublishedWeights(
    title="Inception-v3",
    filenames=(
        "pt_inception-2015-12-05-6726825d.pth",
        "weights-inception-2015-12-05-6726825d.pth",
    ),
    variable="WORKBENCH_INCEPTION",
    url=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth"
    ),
)
RESOLUTION = 299
NUM_CLASSES = 1008
DIM = 2048
SPATIAL_CHANNELS = 7  # of the 17 x 17 maps that sFID compares
BATCH_NORM_EPS = 0.001


@dataclass(frozen=True)
class InceptionOutput:
    """The three outputs of one pass that evaluations use."""

    pooled: Float[Tensor, "b 2048"]  # FID, KID, precision and recall
    # The first 7 channels of the 17 x 17 maps of Mixed_6d in the order of TensorFlow, for sFID.
    spatial: Float[Tensor, "b 2023"]
    logits: Float[Tensor, "b 1008"]  # without the bias, for the Inception score


class InceptionV3(nn.Module):
    """The network, from bytes to features and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b = _BlockA(192, pool_width=32)
        self.Mixed_5c = _BlockA(256, pool_width=64)
        self.Mixed_5d = _BlockA(288, pool_width=64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, width=128)
        self.Mixed_6c = _BlockC(768, width=160)
        self.Mixed_6d = _BlockC(768, width=160)
        self.Mixed_6e = _BlockC(768, width=192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, pool=_average_pool)
        self.Mixed_7c = _BlockE(2048, pool=_max_pool)
        self.fc = nn.Linear(DIM, NUM_CLASSES)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> InceptionOutput:
        """Compute the outputs of images.

        Parameters
        ----------
        pixels : Tensor of float, shape (batch, 3, height, width)
            Values from 0 to 255.
        """
        spatial_maps, maps = self.maps(pixels)
        pooled = maps.mean(dim=(2, 3))
        spatial = rearrange(spatial_maps[:, :SPATIAL_CHANNELS], "b c h w -> b (h w c)")
        return InceptionOutput(pooled, spatial, pooled @ self.fc.weight.T)

    def maps(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Return the maps of Mixed_6d and those of the last block."""
        x = (resize_like_tensorflow(pixels, RESOLUTION) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        middle = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        x = self.Mixed_7a(self.Mixed_6e(middle))
        return middle, self.Mixed_7c(self.Mixed_7b(x))


class Inception(FeatureExtractor):
    """Features and logits of the Inception-v3 behind the FID.

    Weights are read on first use.

    Parameters
    ----------
    path : path, optional
        File of the weights. By default the environment variable WORKBENCH_INCEPTION, the cache of
        torch hub, or a download.

    Raises
    ------
    UserError
        If the weights are not on this machine and cannot be downloaded.
    """

    name = "inception"
    title = "Inception-v3"
    dim = DIM
    directional = False
    batch_size = 32

    def __init__(self, path: str | Path = "") -> None:
        self.weights = WeightsFile(WEIGHTS, path)

    @property
    def fingerprint(self) -> str:
        """Return a key of the file of weights."""
        return f"inception-{self.weights.digest}"

    @property
    def protocol(self) -> str:
        """Return network, weights and resizing in one line."""
        return (
            f"{self.title}, weights sha256 {self.weights.digest}, "
            f"TensorFlow 1 bilinear resize to {RESOLUTION} × {RESOLUTION}"
        )

    @cached_property
    def network(self) -> InceptionV3:
        """Return the frozen network.

        Raises
        ------
        UserError
            If the file is damaged or holds another network.
        """
        with torch.device("meta"):
            network = InceptionV3()
        network.to_empty(device="cpu")
        self.weights.load_into(network)
        return network

    @torch.no_grad()
    def outputs(self, images: Images) -> dict[str, Float[Tensor, "b _n"]]:
        """Compute pooled features, spatial features and logits in one pass."""
        output = self.network.to(images.device)(_bytes(images))
        return {
            "features": output.pooled,
            "spatial_features": output.spatial,
            "logits": output.logits,
        }

    def pooled(self, images: Images) -> Float[Tensor, "b 2048"]:
        """Return the features of whole images, which FID compares."""
        return self.outputs(images)["features"]

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the maps of the last block, resized to the grid."""
        _, maps = self.network.to(images.device).maps(_bytes(images))
        return resize_to_grid(maps, grid)


def _bytes(images: Images) -> Float[Tensor, "b 3 h w"]:
    """Round images in [-1, 1] to bytes, on which published statistics were computed."""
    rgb = match_channels(images, 3).float()
    return ((rgb.clamp(-1, 1) + 1) * 127.5).round()


def resize_like_tensorflow(
    images: Float[Tensor, "b c h w"], side: int
) -> Float[Tensor, "b c side side"]:
    """Resize images bilinearly as TensorFlow 1 does without aligned corners.

    Pixel i of the result is at i * size / side of the original, without the shift by half a pixel
    and without anti-aliasing of later libraries.

    Parameters
    ----------
    images : Tensor, shape (batch, channels, height, width)
        Images of any size and range of values.
    side : int
        Height and width of the result.

    Returns
    -------
    Tensor, shape (batch, channels, side, side)
        The resized images.
    """
    return _interpolate(_interpolate(images, side, dim=3), side, dim=2)


def _interpolate(images: Tensor, side: int, dim: int) -> Tensor:
    """Interpolate along one dimension."""
    size = images.shape[dim]
    # The position is a product with a rounded factor, as in TensorFlow.
    scale = torch.tensor(size / side, dtype=torch.float32, device=images.device)
    position = torch.arange(side, dtype=torch.float32, device=images.device) * scale
    low = position.long()
    high = (low + 1).clamp_max(size - 1)
    shape = [1] * images.ndim
    shape[dim] = side
    weight = (position - low).to(images.dtype).view(shape)
    below = images.index_select(dim, low)
    return below + (images.index_select(dim, high) - below) * weight


class _Convolution(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _strip(in_width: int, width: int, kernel: tuple[int, int]) -> _Convolution:
    """Return a convolution over a part of a row or of a column, which keeps the size."""
    return _Convolution(in_width, width, kernel, padding=(kernel[0] // 2, kernel[1] // 2))


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _BlockA(nn.Module):
    """35 x 35: branches of 1 x 1, 5 x 5, two 3 x 3, and a pool."""

    def __init__(self, in_width: int, pool_width: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(in_width, 64, 1)
        self.branch5x5_1 = _Convolution(in_width, 48, 1)
        self.branch5x5_2 = _Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Convolution(in_width, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, padding=1)
        self.branch_pool = _Convolution(in_width, pool_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average_pool(x)),
        )
        return torch.cat(branches, dim=1)


class _BlockB(nn.Module):
    """From 35 x 35 to 17 x 17."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.branch3x3 = _Convolution(in_width, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Convolution(in_width, 64, 1)
        self.branch3x3dbl_2 = _Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        branches = (
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            F.max_pool2d(x, 3, stride=2),
        )
        return torch.cat(branches, dim=1)


class _BlockC(nn.Module):
    """17 x 17: branches of 1 x 1, 7 x 7, two 7 x 7 in rows and columns, and a pool."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = _Convolution(in_width, 192, 1)
        self.branch7x7_1 = _Convolution(in_width, width, 1)
        self.branch7x7_2 = _strip(width, width, (1, 7))
        self.branch7x7_3 = _strip(width, 192, (7, 1))
        self.branch7x7dbl_1 = _Convolution(in_width, width, 1)
        self.branch7x7dbl_2 = _strip(width, width, (7, 1))
        self.branch7x7dbl_3 = _strip(width, width, (1, 7))
        self.branch7x7dbl_4 = _strip(width, width, (7, 1))
        self.branch7x7dbl_5 = _strip(width, 192, (1, 7))
        self.branch_pool = _Convolution(in_width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = (
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(_average_pool(x)),
        )
        return torch.cat(branches, dim=1)


class _BlockD(nn.Module):
    """From 17 x 17 to 8 x 8."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Convolution(in_width, 192, 1)
        self.branch3x3_2 = _Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Convolution(in_width, 192, 1)
        self.branch7x7x3_2 = _strip(192, 192, (1, 7))
        self.branch7x7x3_3 = _strip(192, 192, (7, 1))
        self.branch7x7x3_4 = _Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        branches = (
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(long),
            F.max_pool2d(x, 3, stride=2),
        )
        return torch.cat(branches, dim=1)


class _BlockE(nn.Module):
    """8 x 8: branches whose last convolution is split into a row and a column."""

    def __init__(self, in_width: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = _Convolution(in_width, 320, 1)
        self.branch3x3_1 = _Convolution(in_width, 384, 1)
        self.branch3x3_2a = _strip(384, 384, (1, 3))
        self.branch3x3_2b = _strip(384, 384, (3, 1))
        self.branch3x3dbl_1 = _Convolution(in_width, 448, 1)
        self.branch3x3dbl_2 = _Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _strip(384, 384, (1, 3))
        self.branch3x3dbl_3b = _strip(384, 384, (3, 1))
        self.branch_pool = _Convolution(in_width, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = (
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        )
        return torch.cat(branches, dim=1)
