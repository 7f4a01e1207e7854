"""The one noun of this package: images as they lie in memory, with what is known about them."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(
    frozen=True, eq=False
)  # two sets are the same images exactly when their fingerprints agree
class ImageSet:
    """Square images of one size, 8 bits a channel."""

    pixels: np.ndarray  # uint8 (n, h, w, c), c is 1 or 3
    labels: np.ndarray | None  # int64 (n,)
    names: tuple[str, ...]  # class names by label, () without labels
    source: str  # what load() was asked for
    split: str  # "train" or "test"
    skipped: tuple[str, ...] = ()  # one sentence per file that could not be read
    complexity: np.ndarray | None = None  # float64 (n,), in bits, known only for `shapes`

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3):
            raise UserError(f"Pixels must be uint8 (n, h, w, 1 or 3), not {dtype} {shape}.")
        if self.labels is not None and self.labels.shape != shape[:1]:
            raise UserError(
                f"There must be one label for each of {shape[0]} images, not {self.labels.shape}."
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over shape, pixels, labels and names: what a run stores."""
        digest = hashlib.sha256(
            repr((self.pixels.shape, self.names)).encode("utf-8", "surrogateescape")
        )
        digest.update(np.ascontiguousarray(self.pixels))
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, dtype="<i8"))
        return digest.hexdigest()[:16]

    def images(self, indices: Any = None) -> "Tensor":
        """The images at a slice, list, array or tensor of indices (None: all), float32 (b, c, h, w) in [-1, 1]."""
        import torch

        if indices is None or isinstance(indices, slice):
            chosen = self.pixels[indices or slice(None)]
        else:
            chosen = self.pixels[np.atleast_1d(torch.as_tensor(indices).cpu().numpy())]
        channels_first = np.moveaxis(chosen, -1, 1).astype(np.float32, order="C")
        return torch.from_numpy(channels_first).div_(127.5).sub_(1)

    def batch(self, indices: Any) -> "tuple[Tensor]":
        """What training a tokenizer reads: the images alone, in [-1, 1]."""
        return (self.images(indices),)

    def take(self, n: int, seed: int = 0) -> "ImageSet":
        """A random n of the images, none twice, in random order; the set itself if it has no more than n."""
        if n < 1:
            raise UserError(f"Cannot take {n} images; take at least 1.")
        if n >= len(self):
            return self
        chosen = np.random.default_rng(seed).permutation(len(self))[:n]
        picked = {name: getattr(self, name) for name in ("pixels", "labels", "complexity")}
        return replace(
            self,
            **{name: None if array is None else array[chosen] for name, array in picked.items()},
        )


def with_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """Pixels uint8 (n, h, w, c) with 1 or 3 channels (None: as they are): grey is repeated, colour becomes its luma."""
    if channels is None or pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    # ITU-R BT.601, the weights of JPEG and of Pillow's "L".
    luma = sum(
        np.float32(weight) * pixels[..., i] for i, weight in enumerate((0.299, 0.587, 0.114))
    )
    return np.rint(luma)[..., None].astype(np.uint8)
