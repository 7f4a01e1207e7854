"""CIFAR-10's ResNet-56 (arXiv:1512.03385, Section 4.2) as a feature extractor of 32 x 32 images, from weights in a file.

Nine blocks at each of 16, 32 and 64 channels; shortcuts without parameters, padded with zeros (option A).
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

MEAN, STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of RGB in [0, 1], that the public weights were trained with
BLOCKS, WIDTHS = 9, (16, 32, 64)


class ResNet56(FeatureExtractor):
    """The last maps, 64 channels; over the whole image, their mean. Told by its file: resnet56:PATH.safetensors."""

    dim, directional = 64, False

    def __init__(self, path: str) -> None:
        self.path, self.name = Path(path).expanduser(), "resnet56"
        if not self.path.is_file():
            raise UserError(
                f"The teacher resnet56 needs its weights: {path} is no file. Name it resnet56:FILE."
            )

    @property
    def fingerprint(self) -> str:
        """The weights, wherever they lie."""
        return f"resnet56-{weights_digest(self.network)}"

    @cached_property
    def network(self) -> nn.Module:
        """The network, frozen."""
        from safetensors.torch import load_file

        network = _Network()
        try:
            network.load_state_dict(load_file(self.path), strict=False)
            missing = network.state_dict().keys() - load_file(self.path).keys()
        except Exception as error:  # safetensors' own kinds, and torch's for shapes that differ
            raise UserError(
                f"{self.path} holds no ResNet-56 ({str(error).splitlines()[0]})."
            ) from None
        if missing := [name for name in missing if not name.endswith("num_batches_tracked")]:
            raise UserError(f"{self.path} holds no ResNet-56: it lacks {missing[0]}.")
        return network.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """The last maps, resized to the grid."""
        return resize_to_grid(self.layers(images)[-1], grid)

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """The maps after each of the three stages."""
        mean, std = (images.new_tensor(colour)[:, None, None] for colour in (MEAN, STD))
        x, found = ((match_channels(images, 3).clamp(-1, 1) + 1) / 2 - mean) / std, []
        network = self.network.to(images.device)
        x = F.relu(network.bn1(network.conv1(x)))
        for stage in (network.layer1, network.layer2, network.layer3):
            found.append(x := stage(x))
        return found


class _Network(nn.Module):
    """The parts, named as the public weights name them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
        )
        before = WIDTHS[0]
        for number, width in enumerate(WIDTHS, 1):
            blocks = [
                _Block(before if i == 0 else width, width, 2 if i == 0 and number > 1 else 1)
                for i in range(BLOCKS)
            ]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = width


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv2, self.bn2 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.stride, self.more = stride, (width - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more)
        )
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)
