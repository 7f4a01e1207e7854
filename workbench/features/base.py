"""What a teacher is: it turns images into features on a grid, and never learns."""

import hashlib
from abc import ABC, abstractmethod

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images


class FeatureExtractor(ABC):
    """Frozen features to align to or to predict. No module: no checkpoint holds it, no optimiser sees it."""

    name: str  # what `by_name` calls it, and a run's log
    dim: int  # e, channels of a feature
    directional: bool  # True: only a feature's direction tells something, so compare by cosine

    @abstractmethod
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Features of images in [-1, 1] in the cells of a grid of rows and columns, row by row; without gradient."""

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Feature maps of several depths, with gradients to the images. Raises UserError where there are none."""
        raise UserError(
            f"{self.name} has no layers to compare images in; random, a trained network or dinov2 have."
        )

    @property
    def fingerprint(self) -> str:
        """Two teachers with equal fingerprints have equal features."""
        return f"{self.name}-{self.dim}"

    def __deepcopy__(self, memo: dict) -> "FeatureExtractor":
        return self  # it never changes: copies of a model, like its running average, share it


def resize_to_grid(maps: Float[Tensor, "b e h w"], grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
    """Feature maps resized to a grid (bilinear, smoothed where it shrinks), as rows."""
    if tuple(maps.shape[2:]) != grid:
        maps = F.interpolate(maps.float(), grid, mode="bilinear", antialias=True)
    return rearrange(maps, "b e h w -> b (h w) e")


def match_channels(images: Images, channels: int) -> Float[Tensor, "b seen h w"]:
    """Images with 1 or 3 channels: grey is repeated, colour becomes its mean."""
    if images.shape[1] == channels:
        return images
    return images.expand(-1, 3, -1, -1) if channels == 3 else images.mean(dim=1, keepdim=True)


def weights_digest(network: nn.Module) -> str:
    """8 hex digits of a SHA-256 over a network's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:8]
