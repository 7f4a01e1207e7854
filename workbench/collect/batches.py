"""The held-out images and the samples of a collection, in batches of a fixed size.

The size of a batch depends only on the size of an image. Therefore the arrays are the same, bit by
bit on one device, for any number of processes and after any interruption.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from workbench.collect.images import (
    batch_slices,
    check_finite,
    class_labels,
    indexed_seed,
    to_tensor,
    to_uint8,
)
from workbench.core.types import Tokens
from workbench.core.workers import load_in_workers
from workbench.data import ImageSet
from workbench.tokenizers.base import Tokenizer

SAMPLES_PER_SEED = 256  # samples that are drawn with one seed
DECODING_PROCESSES = 4  # at most one per core
BatchType = TypeVar("BatchType", covariant=True)


@runtime_checkable
class Batches(Protocol[BatchType]):
    """Rows of the evidence that are computed batch by batch."""

    def parts(self) -> list[slice]:
        """Return the rows of every batch."""
        ...

    def batch(self, part: slice) -> BatchType:
        """Return the batch of some rows."""
        ...

    def iterate(self, parts: Sequence[slice]) -> Iterator[BatchType]:
        """Yield the batches of these rows, in order."""
        ...


@dataclass
class ImageBatch:
    """Some of the held-out images, and their tokens and reconstructions.

    What a collector does not use is not computed, and what several collectors use is computed once.

    Attributes
    ----------
    rows : slice
        The rows of the evidence.
    pixels : ndarray of uint8, shape (b, h, w, c)
        The images.
    labels : ndarray of int64, shape (b,), or None
        Their classes.
    complexity : ndarray of float64, shape (b,), or None
        Their complexity in bits, if it is known.
    num_pictures : int
        The number of the first images of the batch whose pictures are stored.
    tokenizer : Tokenizer
        Encodes and decodes the images.
    device : torch.device
        The device of the tokenizer.
    """

    rows: slice
    pixels: np.ndarray
    labels: np.ndarray | None
    complexity: np.ndarray | None
    num_pictures: int
    tokenizer: Tokenizer
    device: torch.device

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def indices(self) -> range:
        """The rows of the evidence, one by one."""
        return range(self.rows.start, self.rows.stop)

    @cached_property
    def images(self) -> Tensor:
        """The images, float32 (b, c, h, w) in [-1, 1], on the device."""
        return to_tensor(self.pixels, self.device)

    @cached_property
    def tokens(self) -> Tokens:
        """The tokens of the images."""
        tokens = self.tokenizer.encode(self.images)
        check_finite(tokens.latents, "latents")
        return tokens

    @cached_property
    def reconstructions(self) -> np.ndarray:
        """The decoded tokens, uint8 (b, h, w, c)."""
        return to_uint8(self.tokenizer.decode(self.tokens))


class HeldOutImages:
    """The held-out images in the order of the evidence: first those whose pictures are stored.

    Parameters
    ----------
    images : ImageSet
        The images. They may be decoded when they are indexed.
    tokenizer : Tokenizer
        Encodes and decodes the images, on `device`.
    device : torch.device
        The device of the tokenizer.
    num_pictures : int
        Number of images whose pictures are stored, stratified by class.
    seed : int
        Seed of their choice.
    """

    def __init__(
        self,
        images: ImageSet,
        tokenizer: Tokenizer,
        device: torch.device,
        *,
        num_pictures: int,
        seed: int = 0,
    ) -> None:
        self.image_set = images
        self.num_pictures = min(num_pictures, len(images))
        self.tokenizer = tokenizer
        self.device = device
        self._order: np.ndarray | None = None
        if self.num_pictures < len(images):
            self._order = pictures_first(images.labels, len(images), self.num_pictures, seed)

    def __len__(self) -> int:
        return len(self.image_set)

    @property
    def labels(self) -> np.ndarray | None:
        """The classes, int64 (n,); None without labels."""
        return self._ordered(self.image_set.labels, slice(None))

    def class_labels(self, classes: int) -> np.ndarray:
        """Return the classes that a generator of so many classes is conditioned on.

        Raises
        ------
        NotApplicable
            If the images have no labels, or labels of other classes.
        """
        labels = class_labels(self.image_set, classes)
        return labels if self._order is None else labels[self._order]

    def parts(self) -> list[slice]:
        """Return the rows of every batch."""
        height, width = self.image_set.pixels.shape[1:3]
        return list(batch_slices(len(self), height * width))

    def batch(self, part: slice) -> ImageBatch:
        """Return the images of some rows."""
        return self._batch(part, self._read(part))

    def iterate(self, parts: Sequence[slice]) -> Iterator[ImageBatch]:
        """Yield the images of these rows; those that are not in memory are decoded ahead."""
        num_workers = DECODING_PROCESSES if self.image_set.is_lazy else 0
        pixels = load_in_workers(self._read, parts, num_workers)
        for part, part_pixels in zip(parts, pixels, strict=True):
            yield self._batch(part, part_pixels)

    def _read(self, part: slice) -> np.ndarray:
        return self.image_set.read(part if self._order is None else self._order[part])

    def _batch(self, part: slice, pixels: np.ndarray) -> ImageBatch:
        return ImageBatch(
            rows=part,
            pixels=pixels,
            labels=self._ordered(self.image_set.labels, part),
            complexity=self._ordered(self.image_set.complexity, part),
            num_pictures=min(max(self.num_pictures - part.start, 0), part.stop - part.start),
            tokenizer=self.tokenizer,
            device=self.device,
        )

    def batches(self, max_images: int | None = None) -> Iterator[ImageBatch]:
        """Yield all batches, or those of the first images."""
        end = len(self) if max_images is None else min(max_images, len(self))
        parts = [slice(part.start, min(part.stop, end)) for part in self.parts()]
        yield from self.iterate([part for part in parts if part.start < end])

    def _ordered(self, values: np.ndarray | None, part: slice) -> np.ndarray | None:
        if values is None:
            return None
        return values[part] if self._order is None else values[self._order[part]]


def pictures_first(
    labels: np.ndarray | None, count: int, num_pictures: int, seed: int
) -> np.ndarray:
    """Return an order of images in which a subset that is stratified by class comes first.

    Both parts keep the order of the images, so that files are read one after the other.

    Parameters
    ----------
    labels : ndarray of int, shape (count,), or None
        The classes. Without them, the subset is drawn at random.
    count : int
        Number of images.
    num_pictures : int
        Number of images of the subset.
    seed : int
        Seed of the choice.

    Returns
    -------
    ndarray of int, shape (count,)
        The order.

    Examples
    --------
    >>> order = pictures_first(np.array([0, 0, 0, 0, 1, 1]), 6, 3, seed=0)
    >>> int((order[:3] >= 4).sum()), sorted(order.tolist())
    (1, [0, 1, 2, 3, 4, 5])
    """
    shuffled = np.random.default_rng(seed).permutation(count)
    share = np.zeros(count)
    if labels is not None:
        # Each image gets its rank within its class, as a share of the class.
        for label in np.unique(labels):
            members = shuffled[labels[shuffled] == label]
            share[members] = (np.arange(len(members)) + 0.5) / len(members)
    first = shuffled[np.argsort(share[shuffled], kind="stable")][:num_pictures]
    is_first = np.zeros(count, bool)
    is_first[first] = True
    return np.concatenate([np.flatnonzero(is_first), np.flatnonzero(~is_first)])


@dataclass(frozen=True)
class SampleBatch:
    """The labels of some samples of a generator.

    Attributes
    ----------
    rows : slice
        The rows of the evidence.
    labels : Tensor of int, shape (b,)
        The classes, on the CPU.
    seed : int
        The seed of this batch.
    """

    rows: slice
    labels: Tensor
    seed: int


class SampleLabels:
    """The labels of all samples.

    Parameters
    ----------
    labels : Tensor of int, shape (n,)
        The classes.
    seed : int
        Seed of the collection. Each batch has its own seed.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        self._labels = labels
        self._seed = seed

    def __len__(self) -> int:
        return len(self._labels)

    def parts(self) -> list[slice]:
        """Return the rows of every batch."""
        return list(batch_slices(len(self), limit=SAMPLES_PER_SEED))

    def batch(self, part: slice) -> SampleBatch:
        """Return the labels of some rows."""
        seed = indexed_seed(self._seed, part.start // SAMPLES_PER_SEED)
        return SampleBatch(rows=part, labels=self._labels[part], seed=seed)

    def iterate(self, parts: Sequence[slice]) -> Iterator[SampleBatch]:
        """Yield the labels of these rows."""
        return map(self.batch, parts)


def count_rows(parts: Sequence[slice]) -> int:
    """Return the number of rows of some batches."""
    return sum(part.stop - part.start for part in parts)
