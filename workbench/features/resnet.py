"""ResNet-56 for CIFAR-10 (arXiv:1512.03385, Section 4.2) as a feature extractor for 32 x 32 images.

Nine blocks with 16, 32 and 64 channels each; shortcuts without parameters, padded with zeros
(option A). The weights are read from a file.
"""

from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid, weights_digest

# Statistics of RGB in [0, 1] with which the public weights were trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BLOCKS_PER_STAGE = 9
WIDTHS = (16, 32, 64)


class ResNet56(FeatureExtractor):
    """Feature maps of the last stage, 64 channels; over the whole image, their mean.

    Parameters
    ----------
    path : str
        Weights, as a safetensors file.

    Raises
    ------
    UserError
        If the file does not exist or does not contain a ResNet-56.
    """

    title = "ResNet-56"
    dim = 64
    directional = False

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        self.name = "resnet56"
        if not self.path.is_file():
            raise UserError(
                f"The feature extractor resnet56 needs a file of weights, resnet56:FILE. "
                f"The file `{path}` does not exist."
            )

    @property
    def fingerprint(self) -> str:
        """Return a key of the weights."""
        return f"resnet56-{weights_digest(self.network)}"

    @cached_property
    def network(self) -> "_ResNet":
        """Return the frozen network."""
        from safetensors.torch import load_file

        network = _ResNet()
        try:
            weights = load_file(self.path)
            network.load_state_dict(weights, strict=False)
        except (
            Exception
        ) as error:  # safetensors has its own errors, torch others for shapes that differ
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.path} does not contain a ResNet-56 ({reason}).") from None
        missing = [
            name
            for name in network.state_dict()
            if name not in weights and not name.endswith("num_batches_tracked")
        ]
        if missing:
            raise UserError(f"{self.path} does not contain a ResNet-56: {missing[0]} is missing.")
        return network.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the feature maps of the last stage, resized to the grid."""
        return resize_to_grid(self.layers(images)[-1], grid)

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Return the feature maps of the three stages."""
        mean = images.new_tensor(MEAN)[:, None, None]
        std = images.new_tensor(STD)[:, None, None]
        x = ((match_channels(images, 3).clamp(-1, 1) + 1) / 2 - mean) / std
        return self.network.to(images.device)(x)


class _ResNet(nn.Module):
    """The network; its parts have the names of the public weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            outputs.append(x)
        return outputs


def _stage(in_width: int, width: int, stride: int) -> nn.Sequential:
    first = _Block(in_width, width, stride)
    return nn.Sequential(first, *(_Block(width, width, 1) for _ in range(BLOCKS_PER_STAGE - 1)))


class _Block(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.padding = (width - in_width) // 2

    def forward(self, x: Tensor) -> Tensor:
        strided = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(strided, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)
