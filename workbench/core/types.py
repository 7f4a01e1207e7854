"""The types that all packages share, and the letters of tensor axes.

Terms: *images* have values in [-1, 1]. *Latents* are the vectors that a decoder reads, one per
token. *Codes* are indices into a *codebook*, the table of vectors a quantizer selects from.
*Active* marks the tokens that a decoder uses.

Axes: b batch, n tokens, d channels of a token, k codes, g codebooks, p patches, c color channels,
h height, w width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.core.augmentation import Augmentation

Images = Float[Tensor, "b c h w"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of images: everything that a decoder receives.

    Attributes
    ----------
    latents : Tensor of float, shape (b, n, d)
        The vectors that the decoder reads.
    codes : Tensor of int, shape (b, n), or None
        The index of each token's codeword; of a soft quantizer, the most probable one.
    active : Tensor of bool, shape (b, n), or None
        The tokens that the decoder uses; None if it uses all.
    grid : tuple of int or None
        Rows and columns, if tokens have a position in the image.
    """

    latents: Float[Tensor, "b n d"]
    codes: Int[Tensor, "b n"] | None = None
    active: Bool[Tensor, "b n"] | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Quantized:
    """The output of a quantizer.

    Attributes
    ----------
    latents : Tensor of float, shape (b, n, d)
        The quantized vectors.
    codes : Tensor of int, shape (b, n), or None
        The index of each token's codeword.
    losses : dict of Tensor
        Loss terms of the quantizer by name, already weighted.
    """

    latents: Float[Tensor, "b n d"]
    codes: Int[Tensor, "b n"] | None
    losses: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Objective:
    """The loss of one training step as named terms.

    Attributes
    ----------
    terms : dict of Tensor
        Loss terms by name, already weighted. The optimizer minimizes their sum.
    reconstruction : Tensor of float, shape (b, c, h, w), or None
        The decoded images, if the loss computed them.
    codes : Tensor of int, shape (b, n), or None
        The codes that were selected, if there is a codebook. Training logs how many codes are used.
    """

    terms: dict[str, Float[Tensor, ""]]
    reconstruction: Images | None = field(default=None, repr=False)
    codes: Int[Tensor, "b n"] | None = field(default=None, repr=False)

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()


@runtime_checkable
class MapDataset(Protocol):
    """Training data that can be indexed."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of `objective` for the items at the indices."""
        ...


@runtime_checkable
class MirroredDataset(MapDataset, Protocol):
    """Training data that has every item mirrored as well, such as latents of mirrored images."""

    def mirrored_batch(self, indices: Tensor, flips: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of `objective` for the items, mirrored where `flips` is True."""
        ...


@runtime_checkable
class StreamDataset(Protocol):
    """Training data that is too large to index and is read in order."""

    def batches(
        self, size: int, *, first: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over batches without end.

        Starting at any item gives the same items as starting at the first and skipping.

        Parameters
        ----------
        size : int
            Items per batch of one process.
        first : int
            The number of items of this process to skip.
        rank, world_size : int
            This process, and the number of processes that share the data.
        seed : int
            The seed of the order.
        """
        ...

    def take(self, n: int) -> Tensor:
        """Return the first n items."""
        ...


Dataset = MapDataset | StreamDataset


class OrderedBatch(NamedTuple):
    """Consecutive images of a source that is read once.

    Attributes
    ----------
    images : Tensor of float32, shape (b, c, h, w)
        Images in [-1, 1], without damaged ones.
    labels : ndarray of int64, shape (b,), or None
        Their classes; None if an image has none.
    skipped : tuple of str
        One sentence per damaged image, which is left out.
    """

    images: Tensor
    labels: np.ndarray | None
    skipped: tuple[str, ...] = ()


@runtime_checkable
class OrderedImages(Protocol):
    """Images that can be read once in a fixed order, with their labels."""

    @property
    def source(self) -> str:
        """Return the name of the source, for errors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return a hash of the images."""
        ...

    @property
    def num_images(self) -> int | None:
        """Return the number of images; None if it is only known at the end."""
        ...

    def ordered_batches(self, size: int, *, first: int = 0) -> Iterator[OrderedBatch]:
        """Iterate once over the images after the first ones.

        Parameters
        ----------
        size : int
            Images per batch, damaged ones included; the last batch may have fewer.
        first : int
            The number of images before the first batch, damaged ones included.

        Yields
        ------
        OrderedBatch
            The images that can be read, which may be none.
        """
        ...


@runtime_checkable
class SupportsAugmentation(Protocol):
    """Training data that can be cropped or flipped at random."""

    def augmented(self, augmentation: Augmentation) -> Any:
        """Return the data with an augmentation: an `AugmentedDataset` or a `RequestDataset`.

        It raises UserError if the data does not support this augmentation.
        """
        ...


@runtime_checkable
class AugmentedDataset(Protocol):
    """Training data whose items are different in each epoch."""

    def __len__(self) -> int: ...

    def augmented_batch(self, indices: Tensor, epochs: Tensor) -> tuple[Tensor, ...]:
        """Return the arguments of `objective` for the items at the indices in certain epochs.

        The items depend on nothing but the arguments, so that they are the same in every worker
        process and after a resume. A Tensor of uint8, shape (b, c, h, w), has images; it becomes
        float32 in [-1, 1] on the device of the model.
        """
        ...


@runtime_checkable
class RequestDataset(Protocol):
    """A stream whose batches can be read in one process and decoded in another."""

    def requests(
        self, size: int, *, first: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> Iterator[Any]:
        """Iterate without end over what `load` needs; the arguments are those of `batches`."""
        ...

    def load(self, request: Any) -> tuple[Tensor, ...]:
        """Return the arguments of `objective`, images as for `AugmentedDataset`."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A model that can be trained."""

    def objective(self, *batch: Tensor) -> Objective:
        """Return the loss of one batch."""
        ...


@runtime_checkable
class HasCodebook(Protocol):
    """A model that may have a codebook, whose codes its objective returns."""

    @property
    def codebook(self) -> Float[Tensor, "g k d"] | None:
        """Return the codewords, or None without a codebook."""
        ...


@runtime_checkable
class NeedsPreparation(Protocol):
    """A model that processes the training data once before the first step, as by clustering."""

    prepared_state: ClassVar[tuple[str, ...]]

    def prepare(self, data: Dataset, seed: int) -> None:
        """Fill the parts of the state whose names begin with one of `prepared_state`.

        Progress is reported to the listener of `workbench.core.progress`.
        """
        ...


@runtime_checkable
class HasAdversary(Protocol):
    """A model with a part, such as a discriminator, that is trained against the rest."""

    @property
    def adversary(self) -> nn.Module | None:
        """Return this part, or None."""
        ...


@runtime_checkable
class TracksProgress(Protocol):
    """A model whose loss follows a schedule over training."""

    def set_progress(self, fraction: float) -> None:
        """Set the finished fraction of training, 0 to 1.

        It is called before every step, also for the moving average of the model.
        """
        ...


@runtime_checkable
class HasLabels(Protocol):
    """Data whose items may have a class."""

    @property
    def labels(self) -> np.ndarray | None:
        """Return the class of each item, shape (n,), or None."""
        ...
