"""A set of images in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.errors import UserError
from workbench.core.fingerprint import image_fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    Indices = slice | Sequence[int] | np.ndarray | Tensor

# ITU-R BT.601, the weights of JPEG and of Pillow's mode "L".
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class SourceLayout:
    """The layout that was detected in a source, and what was left out.

    Attributes
    ----------
    name : str
        The layout, such as `train/CLASS and val/CLASS`.
    splits : dict of str to int
        Number of images of the splits "train" and "test".
    ignored : dict of str to int
        Number of files that are not used, by their extension.
    notes : tuple of str
        Sentences about parts of the source that are probably not as intended.
    """

    name: str
    splits: dict[str, int]
    ignored: dict[str, int]
    notes: tuple[str, ...] = ()


# Sets are compared by their fingerprints; comparing arrays would be ambiguous.
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Square images of one size, with 8 bits per channel.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (n, h, w, 1 or 3)
        The images.
    labels : ndarray of int64, shape (n,), or None
        Classes.
    names : tuple of str
        Names of the classes by label; empty without labels.
    source : str
        The argument of `load`.
    split : {"train", "test", "all"}
        The split; "all" if a source without splits was read as a whole.
    skipped : tuple of str
        One sentence per file that cannot be read.
    complexity : ndarray of float64, shape (n,), or None
        Bits of the description of each image; known only for `shapes`.
    total : int or None
        Number of images of the split from which these were drawn, with those that cannot be read;
        None if it is not known, as for a part of a stream.
    layout : SourceLayout or None
        The layout of the files; None of a bundled set or a stream.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    names: tuple[str, ...]
    source: str
    split: str
    skipped: tuple[str, ...] = ()
    complexity: np.ndarray | None = None
    total: int | None = None
    layout: SourceLayout | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3):
            raise UserError(f"Pixels must be uint8 (n, h, w, 1 or 3), got {dtype} {shape}.")
        if self.labels is not None and self.labels.shape != shape[:1]:
            raise UserError(
                f"Labels must have shape ({shape[0]},), one per image, got {self.labels.shape}."
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of shape, pixels, labels and names (16 hex digits), which runs store."""
        return image_fingerprint(self.pixels, self.labels, self.names)

    def images(self, indices: "Indices | None" = None) -> "Tensor":
        """Return images as a tensor.

        Parameters
        ----------
        indices : slice, sequence of int, ndarray or Tensor, optional
            The images; None returns all.

        Returns
        -------
        Tensor of float32, shape (b, c, h, w)
            The images, in [-1, 1].
        """
        import torch

        if indices is None:
            pixels = self.pixels
        elif isinstance(indices, slice):
            pixels = self.pixels[indices]
        else:
            pixels = self.pixels[np.atleast_1d(torch.as_tensor(indices).cpu().numpy())]
        channels_first = np.moveaxis(pixels, -1, 1).astype(np.float32, order="C")
        return torch.from_numpy(channels_first).div_(127.5).sub_(1)

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self)

    def ordered_batches(
        self, size: int, *, first: int = 0
    ) -> "Iterator[tuple[Tensor, np.ndarray | None]]":
        """Iterate once over images and labels; see `core.types.OrderedImages`."""
        for start in range(first, len(self), size):
            part = slice(start, start + size)
            yield self.images(part), None if self.labels is None else self.labels[part]

    def batch(self, indices: "Indices") -> "tuple[Tensor]":
        """Return a training batch of a tokenizer: the images alone, in [-1, 1]."""
        return (self.images(indices),)

    def take(self, n: int, seed: int = 0) -> "ImageSet":
        """Draw images at random, without repetition and in random order.

        Parameters
        ----------
        n : int
            Number of images, at least 1. A set that has no more images is returned as it is.
        seed : int
            Seed of the choice.

        Raises
        ------
        UserError
            If n is below 1.
        """
        if n < 1:
            raise UserError(f"The number of images to take must be at least 1, got {n}.")
        if n >= len(self):
            return self
        indices = np.random.default_rng(seed).permutation(len(self))[:n]
        return replace(
            self,
            pixels=self.pixels[indices],
            labels=None if self.labels is None else self.labels[indices],
            complexity=None if self.complexity is None else self.complexity[indices],
        )


def with_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """Convert images to a number of channels.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, h, w, 1 or 3)
        The images.
    channels : {1, 3}, optional
        The number of channels: gray is repeated, color becomes its luma. None keeps it.
    """
    if channels is None or pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    red, green, blue = (np.float32(w) * pixels[..., i] for i, w in enumerate(LUMA_WEIGHTS))
    return np.rint(red + green + blue)[..., None].astype(np.uint8)
