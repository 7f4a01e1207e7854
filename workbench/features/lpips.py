"""LPIPS: a distance between two images that is calibrated with human judgments.

The layers of the networks have the names of torchvision's weights, and the linear heads those of
version 0.1 of the `lpips` package, which contains the heads but not the networks. Neither
torchvision nor the package is imported.

References: Zhang et al., arXiv 1801.03924; Simonyan and Zisserman, arXiv 1409.1556 (VGG).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid
from workbench.features.weights import PublishedWeights, WeightsFile

# Mean and standard deviation of the channels of images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10
HEADS_URL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights"
HEADS_INSTALL = "pip install --no-deps lpips"


@dataclass(frozen=True)
class LPIPSNetwork:
    """A network on which LPIPS was calibrated.

    Attributes
    ----------
    backbone, heads : PublishedWeights
        The files of the network and of the linear heads.
    outputs : tuple of int
        Indices of the ReLUs whose maps are compared.
    widths : tuple of int
        Channels of these maps.
    min_side : int
        Height and width, in pixels, of the smallest image that all layers accept.
    """

    backbone: PublishedWeights
    heads: PublishedWeights
    outputs: tuple[int, ...]
    widths: tuple[int, ...]
    min_side: int


NETWORKS = {
    "vgg": LPIPSNetwork(
        backbone=PublishedWeights(
            title="VGG-16",
            filenames=("vgg16-397923af.pth",),
            variable="WORKBENCH_VGG16",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
        ),
        heads=PublishedWeights(
            title="LPIPS heads (VGG-16)",
            filenames=("lpips_vgg-a78928a0.pth",),
            variable="WORKBENCH_LPIPS_VGG",
            url=f"{HEADS_URL}/v0.1/vgg.pth",
            package_file="lpips/weights/v0.1/vgg.pth",
            install=HEADS_INSTALL,
        ),
        outputs=(3, 8, 15, 22, 29),
        widths=(64, 128, 256, 512, 512),
        min_side=16,
    ),
    "alex": LPIPSNetwork(
        backbone=PublishedWeights(
            title="AlexNet",
            filenames=("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"),
            variable="WORKBENCH_ALEXNET",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        ),
        heads=PublishedWeights(
            title="LPIPS heads (AlexNet)",
            filenames=("lpips_alex-df73285e.pth",),
            variable="WORKBENCH_LPIPS_ALEX",
            url=f"{HEADS_URL}/v0.1/alex.pth",
            package_file="lpips/weights/v0.1/alex.pth",
            install=HEADS_INSTALL,
        ),
        outputs=(1, 4, 7, 9, 11),
        widths=(64, 192, 384, 256, 256),
        min_side=31,
    ),
}


class LPIPS(FeatureExtractor):
    """The perceptual distance of two batches of images.

    Gradients flow to the images, not to the references. Weights are read on first use.

    Parameters
    ----------
    network : {"vgg", "alex"}
        The network. Published values for reconstructions mostly use `vgg` in training and `alex`
        in evaluation, and the two differ by a factor: the name must be given with a number.

    Raises
    ------
    UserError
        If the network is unknown, or its weights are missing and cannot be downloaded.
    """

    directional = True

    def __init__(self, network: str = "vgg") -> None:
        if network not in NETWORKS:
            raise unknown("network of LPIPS", network, NETWORKS)
        self.spec = NETWORKS[network]
        self.name = f"lpips:{network}"
        self.dim = self.spec.widths[-1]
        self.backbone_file = WeightsFile(self.spec.backbone)
        self.heads_file = WeightsFile(self.spec.heads)

    @property
    def title(self) -> str:
        """Return the name of the distance with its network."""
        return f"LPIPS ({self.spec.backbone.title})"

    @property
    def fingerprint(self) -> str:
        """Return a key of both files of weights."""
        return f"{self.name}-{self.backbone_file.digest}-{self.heads_file.digest}"

    @property
    def protocol(self) -> str:
        """Return network and weights in one line."""
        return (
            f"{self.title}, version 0.1, weights sha256 {self.backbone_file.digest}, "
            f"heads {self.heads_file.digest}, images in [-1, 1], no resize"
        )

    @cached_property
    def network(self) -> nn.Sequential:
        """Return the frozen layers of the network."""
        build = _vgg16 if self.name == "lpips:vgg" else _alexnet
        layers = build()
        self.backbone_file.load_into(nn.ModuleDict({"features": layers}), ignore=("classifier.",))
        return layers

    @cached_property
    def heads(self) -> "_Heads":
        """Return the frozen linear heads."""
        heads = _Heads(self.spec.widths)
        self.heads_file.load_into(heads)
        return heads

    def distances(self, images: Images, references: Images) -> Float[Tensor, " b"]:
        """Compute the distance of each image to its reference.

        Parameters
        ----------
        images, references : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1], of 1 or 3 channels.

        Returns
        -------
        Tensor, shape (batch,)
            The distances, at least 0.

        Raises
        ------
        UserError
            If the images are too small for the network.
        """
        with torch.no_grad():
            reference_maps = self.layers(references)
        return self.heads.to(images.device)(self.layers(images), reference_maps)

    def perceptual_distance(self, images: Images, references: Images) -> Float[Tensor, ""]:
        """Compute the mean distance of the images to their references."""
        return self.distances(images, references).mean()

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the maps of the last compared layer, resized to the grid."""
        return resize_to_grid(self.layers(images)[-1], grid)

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Return the five maps that are compared."""
        side = min(images.shape[2:])
        if side < self.spec.min_side:
            raise UserError(
                f"{self.title} needs images of at least {self.spec.min_side} pixels, got {side}."
            )
        network = self.network.to(images.device)
        shift = images.new_tensor(SHIFT)[:, None, None]
        scale = images.new_tensor(SCALE)[:, None, None]
        x = (match_channels(images, 3) - shift) / scale
        outputs = []
        for index, layer in enumerate(network):
            x = layer(x)
            if index in self.spec.outputs:
                outputs.append(x)
        return outputs


def is_present(network: str) -> bool:
    """Return True if the network and its heads are on this machine.

    Parameters
    ----------
    network : {"vgg", "alex"}
        The backbone of LPIPS.
    """
    spec = NETWORKS[network]
    return spec.backbone.find() is not None and spec.heads.find() is not None


class _Heads(nn.Module):
    """One non-negative weight per channel of each map, under the names of the `lpips` package."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        for index, width in enumerate(widths):
            self.add_module(f"lin{index}", _Head(width))

    def forward(self, maps: Sequence[Tensor], reference_maps: Sequence[Tensor]) -> Tensor:
        distances = [
            head((_unit(layer) - _unit(reference)).square())
            for head, layer, reference in zip(self.children(), maps, reference_maps, strict=True)
        ]
        return torch.stack(distances).sum(dim=0)


class _Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # The first entry is dropout in the training of the heads.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, differences: Tensor) -> Tensor:
        return self.model(differences).mean(dim=(1, 2, 3))


def _unit(maps: Tensor) -> Tensor:
    # The package adds a constant to the norm; the root has no gradient at a pixel of zeros.
    norm = maps.square().sum(dim=1, keepdim=True).clamp_min(EPS**2).sqrt()
    return maps / (norm + EPS)


def _vgg16() -> nn.Sequential:
    """Return the 30 layers of VGG-16 up to the ReLU before the last pool."""
    layers: list[nn.Module] = []
    width = 3
    for stage, (count, out_width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(count):
            layers += [nn.Conv2d(width, out_width, 3, padding=1), nn.ReLU()]
            width = out_width
    return nn.Sequential(*layers)


def _alexnet() -> nn.Sequential:
    """Return the 12 layers of AlexNet up to the ReLU before the last pool."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )
