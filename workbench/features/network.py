"""Small convolutional feature extractors, and a shuffled extractor as a control."""

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


class ConvNetExtractor(FeatureExtractor):
    """Feature maps of a small network; each feature has mean 0 and variance 1 over its channels,
    like those of a ViT.

    Parameters
    ----------
    name : str
        Name of the extractor.
    network : ContrastiveNet
        The network; it is frozen.
    """

    directional = True

    def __init__(self, name: str, network: ContrastiveNet) -> None:
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.dim = network.dim

    @property
    def fingerprint(self) -> str:
        """Return a key of the weights."""
        return f"network-{weights_digest(self.network)}"

    @torch.no_grad()
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return the feature maps, resized to the grid."""
        network = self.network.to(images.device)
        maps = network(match_channels(images, self.network.config.channels))
        return F.layer_norm(resize_to_grid(maps, grid), [self.dim])

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Return the output of each convolution."""
        x = match_channels(images, self.network.config.channels)
        outputs: list[Tensor] = []
        for convolution in self.network.to(images.device).trunk:
            x = convolution(x)
            outputs.append(x)
        return outputs


class ShuffledExtractor(FeatureExtractor):
    """A control that gives each image the true features of another image of its batch.

    An effect that persists with it does not depend on the content of the features.

    Parameters
    ----------
    extractor : FeatureExtractor
        Source of the features.
    seed : int
        Seed of the permutation.
    """

    def __init__(self, extractor: FeatureExtractor, seed: int = 0) -> None:
        self.extractor = extractor
        self.seed = seed
        self.name = f"shuffled:{extractor.name}"
        self.dim = extractor.dim
        self.directional = extractor.directional

    @property
    def fingerprint(self) -> str:
        """Return a key of the true features and the seed."""
        return f"shuffled-{self.seed}-{self.extractor.fingerprint}"

    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Return features permuted along a cycle, which seed and batch size determine."""
        if len(images) < 2:
            raise UserError(
                f"{self.name} exchanges features between images, so a batch needs "
                f"at least 2 images, got {len(images)}."
            )
        cycle = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        features = self.extractor.features(images, grid)
        shuffled = torch.empty_like(features)
        shuffled[cycle] = features[cycle.roll(1)]
        return shuffled


def random_network(channels: int = 3, seed: int = 0) -> ConvNetExtractor:
    """Return an untrained network, as a control for the effect of the architecture.

    Parameters
    ----------
    channels : int
        Channels of the images, 1 or 3.
    seed : int
        Seed of the weights.

    Returns
    -------
    ConvNetExtractor
        The extractor, named `random` or `random:SEED`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ContrastiveNet(ContrastiveNet.Config(channels=channels))
    return ConvNetExtractor(f"random:{seed}" if seed else "random", network)


def load_trained_network(folder: str | Path) -> ConvNetExtractor:
    """Load the network that `train_contrastive` trained.

    Parameters
    ----------
    folder : path
        Folder of the run.

    Returns
    -------
    ConvNetExtractor
        The extractor, named after the folder.

    Raises
    ------
    RunError
        If the run cannot be opened.
    UserError
        If the run contains another model.
    """
    run = Run(folder)
    network = run.load() if run.kind == "ContrastiveNet" else None
    if not isinstance(network, ContrastiveNet):
        raise UserError(
            f"{folder} is a run of {run.kind}, which is not a feature extractor. "
            "Train one with train_contrastive."
        )
    return ConvNetExtractor(str(folder), network)
