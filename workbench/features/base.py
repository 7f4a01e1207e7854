"""Interface of feature extractors: frozen networks or formulas that turn images into features."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.nn.perceptual import feature_distance


class FeatureExtractor(ABC):
    """Compute frozen features of images.

    A feature extractor is an alignment target of a tokenizer (`teacher`) or measures distances
    between sets of images (`feature_extractor`). It is not an `nn.Module`, so no checkpoint
    contains it and no optimizer updates it.

    Attributes
    ----------
    name : str
        Name under which `get_feature_extractor` returns it, also used in logs.
    dim : int
        e, channels of the feature of a cell.
    batch_size : int
        Number of images per pass whose activations fit into memory.
    directional : bool
        Whether only the direction of a feature is meaningful, so that features should be compared
        by cosine.
    """

    name: str
    dim: int
    directional: bool
    batch_size: int = 256

    @abstractmethod
    def features(self, images: Images, grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
        """Compute the features in the cells of a grid, without gradients.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        grid : tuple of int
            Rows and columns of the grid.

        Returns
        -------
        Tensor, shape (batch, rows * columns, dim)
            Features in row-major order.
        """

    def pooled(self, images: Images) -> Float[Tensor, "b e"]:
        """Compute one feature per image.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        Tensor, shape (batch, pooled_dim)
            Features of whole images.
        """
        return self.features(images, (1, 1))[:, 0]

    def outputs(self, images: Images) -> dict[str, Float[Tensor, "b _n"]]:
        """Compute everything that evaluations compare between sets of images.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        dict of Tensor, shapes (batch, n)
            `features`, one per image. A network may add `spatial_features`, which keep the
            position in the image, and `logits` of classes.
        """
        return {"features": self.pooled(images)}

    def layers(self, images: Images) -> list[Float[Tensor, "b _e _h _w"]]:
        """Compute feature maps of several depths, with gradients with respect to the images.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        list of Tensor, shape (batch, channels, height, width)
            Feature maps; sizes differ between layers.

        Raises
        ------
        UserError
            If the extractor has no layers.
        """
        raise UserError(
            f"{self.name} has no layers in which images can be compared. "
            "random, a trained network, dinov2 and lpips have layers."
        )

    def perceptual_distance(self, images: Images, references: Images) -> Float[Tensor, ""]:
        """Compute the mean distance between the layers of two batches, with gradients with
        respect to the images.

        Parameters
        ----------
        images, references : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].

        Returns
        -------
        Tensor, shape ()
            The distance.

        Raises
        ------
        UserError
            If the extractor has no layers.
        """
        with torch.no_grad():
            reference_maps = self.layers(references)
        return feature_distance(self.layers(images), reference_maps)

    @property
    def pooled_dim(self) -> int:
        """Number of channels of the feature of a whole image."""
        return self.dim

    @property
    def title(self) -> str:
        """Return the name of the network in text, such as Inception-v3."""
        return self.name

    @property
    def protocol(self) -> str:
        """Return network, weights and preprocessing in one line, to be cited with a number."""
        return f"{self.title}, {self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """Return a key that is equal for two extractors only if their features are equal."""
        return f"{self.name}-{self.dim}"

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureExtractor":
        # It never changes, so that copies of a model, such as its running average, share it.
        return self


def resize_to_grid(maps: Float[Tensor, "b e h w"], grid: tuple[int, int]) -> Float[Tensor, "b p e"]:
    """Resize feature maps to a grid, bilinear and with anti-aliasing, and return them as rows."""
    if tuple(maps.shape[2:]) != grid:
        maps = F.interpolate(maps.float(), grid, mode="bilinear", antialias=True)
    return rearrange(maps, "b e h w -> b (h w) e")


def match_channels(images: Images, channels: int) -> Float[Tensor, "b channels h w"]:
    """Convert images to 1 or 3 channels: gray is repeated, color is averaged."""
    if images.shape[1] == channels:
        return images
    return images.expand(-1, 3, -1, -1) if channels == 3 else images.mean(dim=1, keepdim=True)


def weights_digest(network: nn.Module) -> str:
    """Return 8 hex digits of a SHA-256 over the weights of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
