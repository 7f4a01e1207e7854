"""A set of images, in memory or decoded when they are read."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.augmentation import Augmentation
from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.core.fingerprint import ImageHash
from workbench.core.image_size import ImageSize, Side
from workbench.data.channels import to_tensor
from workbench.data.lazy import LazyImages

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.core.types import OrderedBatch
    from workbench.data.augment import AugmentedImages

    Indices = slice | Sequence[int] | np.ndarray | Tensor

FINGERPRINT_BATCH = 64  # images
FINGERPRINT_IMAGES = 64  # of a large set, whose pixels are part of its fingerprint
SAMPLED = "sample-"  # begins the fingerprint of a large set
MAX_SKIPPED_REASONS = 3  # in a warning


Pixels = np.ndarray | LazyImages


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
    """Images of one size, with 8 bits per channel.

    Attributes
    ----------
    pixels : ndarray or LazyImages of uint8, shape (n, h, w, 1 or 3)
        The images. Those of a large set are decoded when they are read; see `read`.
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
    originals : LazyImages or None
        The same images before they were resized, for the crops of training; None if there are only
        `pixels`.
    """

    pixels: Pixels
    labels: np.ndarray | None
    names: tuple[str, ...]
    source: str
    split: str
    skipped: tuple[str, ...] = ()
    complexity: np.ndarray | None = None
    total: int | None = None
    layout: SourceLayout | None = None
    originals: LazyImages | None = field(default=None, repr=False)

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
        """A hash of shape, pixels, labels and names (16 hex digits), which runs store.

        The images of a large set are not all decoded: it has the pixels of some, and what
        identifies all of them without decoding, such as names and sizes of files. Its fingerprint
        begins with `sample-`.
        """
        if not isinstance(self.pixels, LazyImages):
            return self.pixel_fingerprint
        identity = ImageHash(self.pixels.shape, self.names)
        for text in self.pixels.identity():
            identity.add_text(text)
        sample = np.unique(np.linspace(0, len(self) - 1, FINGERPRINT_IMAGES, dtype=np.int64))
        identity.add_pixels(self.read(sample))
        return SAMPLED + identity.finish(self.labels)

    @cached_property
    def pixel_fingerprint(self) -> str:
        """A hash of shape, pixels, labels and names (16 hex digits), from all images."""
        identity = ImageHash(self.pixels.shape, self.names)
        for start in range(0, len(self), FINGERPRINT_BATCH):
            identity.add_pixels(self.pixels[start : start + FINGERPRINT_BATCH])
        return identity.finish(self.labels)

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Return True if a fingerprint that a run has stored is that of these images.

        Parameters
        ----------
        fingerprint : str
            The fingerprint. That of a large set which has no `sample-` needs all images.
        """
        if fingerprint.startswith(SAMPLED):
            return fingerprint == self.fingerprint
        return fingerprint == self.pixel_fingerprint

    @property
    def is_lazy(self) -> bool:
        """True if the images are decoded when they are read."""
        return isinstance(self.pixels, LazyImages)

    @property
    def side(self) -> Side:
        """Height and width of the images in pixels; one number if they are square."""
        height, width, _ = self.image_shape
        return ImageSize(height, width).side

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        _, height, width, channels = self.pixels.shape
        return height, width, channels

    def read(self, indices: "Indices | None" = None) -> np.ndarray:
        """Return images as bytes; those of a large set are decoded now.

        Parameters
        ----------
        indices : slice, sequence of int, ndarray or Tensor, optional
            The images; None returns all.

        Returns
        -------
        ndarray of uint8, shape (b, h, w, c)
            The images.
        """
        if indices is None:
            return np.asarray(self.pixels)
        if isinstance(indices, slice):
            return self.pixels[indices]
        return self.pixels[np.atleast_1d(np.asarray(indices))]

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
        from workbench.core.pixels import normalize

        return normalize(to_tensor(self.read(indices)))

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self)

    def ordered_batches(self, size: int, *, first: int = 0) -> "Iterator[OrderedBatch]":
        """Iterate once over images and labels; see `core.types.OrderedImages`."""
        from workbench.core.types import OrderedBatch

        for start in range(first, len(self), size):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            yield OrderedBatch(self.images(part), labels)

    def batch(self, indices: "Indices") -> "tuple[Tensor]":
        """Return a training batch of a tokenizer: the images alone, in [-1, 1]."""
        return (self.images(indices),)

    def augmented(self, augmentation: Augmentation) -> "AugmentedImages":
        """Return the images as training data with random crops and flips.

        Parameters
        ----------
        augmentation : Augmentation
            The crops and flips.
        """
        from workbench.data.augment import AugmentedImages

        return AugmentedImages(self, augmentation)

    def readable(self) -> "ImageSet":
        """Return the images without damaged ones, which are added to `skipped`, with a warning.

        Those of a large set are all decoded once for this. If one is damaged afterwards, reading
        it is an error.

        Raises
        ------
        UserError
            If no image can be read.
        """
        pixels = self.pixels
        if not isinstance(pixels, LazyImages):
            return self  # damaged images were left out when they were decoded
        damaged = pixels.find_damaged()
        sentences = tuple(damaged.values())
        if len(damaged) == len(self):
            raise UserError(f"{self.source} has no usable image: {sentences[0]}")
        images = self
        if damaged:
            warn_skipped(sentences, self.source)
            images = self.select(np.delete(np.arange(len(self)), list(damaged)))
        assert isinstance(images.pixels, LazyImages)
        return replace(
            images,
            pixels=replace(images.pixels, is_strict=True),
            skipped=self.skipped + sentences,
        )

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
        return self.select(indices)

    def select(self, indices: np.ndarray) -> "ImageSet":
        """Return some of the images, in the order of the indices.

        Parameters
        ----------
        indices : ndarray of int
            The images.
        """
        pixels = self.pixels
        return replace(
            self,
            pixels=pixels.select(indices) if isinstance(pixels, LazyImages) else pixels[indices],
            labels=None if self.labels is None else self.labels[indices],
            complexity=None if self.complexity is None else self.complexity[indices],
            originals=None if self.originals is None else self.originals.select(indices),
        )


def warn_skipped(sentences: Sequence[str], source: str) -> None:
    """Warn that files of a source cannot be read and are left out.

    Parameters
    ----------
    sentences : sequence of str
        The reasons, at least one.
    source : str
        Name of the source in the warning.
    """
    count = len(sentences)
    files = counted(count, "file was", "files were")
    reasons = " ".join(sentences[:MAX_SKIPPED_REASONS])
    warnings.warn(f"{files} skipped in {source}: {reasons}", stacklevel=3)
