"""Small convolutional networks as teachers: one trained here, and, as controls, an untrained one and a shuffled one."""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.features.base import FeatureExtractor, match_channels, resize_to_grid, weights_digest
from workbench.features.contrastive import ContrastiveNet
from workbench.storage.run import Run


class Network(FeatureExtractor):
    """A network's feature maps, each feature with mean 0 and variance 1 over its channels, as a ViT's are."""

    directional = True

    def __init__(self, name: str, network: ContrastiveNet) -> None:
        self.name, self.network, self.dim = name, network.eval().requires_grad_(False), network.dim

    @property
    def fingerprint(self) -> str:
        """The weights, wherever they lie."""
        return f"network-{weights_digest(self.network)}"

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """The maps, resized to the grid."""
        maps = self.network.to(images.device)(match_channels(images, self.network.config.channels))
        return F.layer_norm(resize_to_grid(maps, grid), [self.dim])

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """What each convolution gives."""
        x, found = match_channels(images, self.network.config.channels), []
        for convolution in self.network.to(images.device).trunk:
            found.append(x := convolution(x))
        return found


class ShuffledExtractor(FeatureExtractor):
    """A control: true features, each image given another's. What still helps is not what a teacher says of an image."""

    def __init__(self, teacher: FeatureExtractor, seed: int = 0) -> None:
        self.teacher, self.seed = teacher, seed
        self.name, self.dim, self.directional = (
            f"shuffled:{teacher.name}",
            teacher.dim,
            teacher.directional,
        )

    @property
    def fingerprint(self) -> str:
        """The true features', and the seed."""
        return f"shuffled-{self.seed}-{self.teacher.fingerprint}"

    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Features passed on within the batch, along a circle that seed and batch size fix: nobody keeps its own."""
        if len(images) < 2:
            raise UserError(
                f"{self.name} gives an image another's features, so a batch needs at least 2 images."
            )
        circle = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        shuffled = torch.empty_like(features := self.teacher.features(images, grid))
        shuffled[circle] = features[circle.roll(1)]
        return shuffled


def random_network(channels: int = 3, seed: int = 0) -> Network:
    """A control: the network before training. What still helps is the architecture, not what it learned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(
            f"random:{seed}" if seed else "random",
            ContrastiveNet(ContrastiveNet.Config(channels=channels)),
        )


def load_trained(folder: str | Path) -> Network:
    """The network that `train_teacher` left in a folder. Raises RunError, and UserError for another model's run."""
    run = Run(folder)
    if run.kind != "ContrastiveNet":
        raise UserError(
            f"{folder} holds {run.kind}, which is no teacher; make one with train_teacher."
        )
    return Network(str(folder), run.load())
