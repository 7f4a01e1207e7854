"""Reproducible choices of images: the held-out ones of a set without splits, and subsamples."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

HELD_OUT_ONE_IN = 10  # one in this many images is held out
TRAIN_NAMES = ("train", "training")
# Names of a held-out split; the first that exists counts.
TEST_NAMES = ("test", "testing", "val", "validation", "valid")


def held_out_mask(keys: Iterable[str]) -> np.ndarray:
    """Choose the images of the test split by a hash of their keys.

    Parameters
    ----------
    keys : iterable of str
        A key per image, such as its path. The choice depends on the set of keys, not on their
        order.

    Returns
    -------
    ndarray of bool, shape (n,)
        True for the tenth of the keys with the lowest hashes; for at least one key if there are
        two or more.

    Examples
    --------
    >>> int(held_out_mask(["a.png", "b.png"]).sum())
    1
    """
    hashes = [_key_hash(key) for key in keys]
    count = len(hashes)
    num_held_out = count // HELD_OUT_ONE_IN
    if count > 1:
        num_held_out = max(num_held_out, 1)
    by_hash = sorted(range(count), key=lambda index: hashes[index])
    mask = np.zeros(count, dtype=bool)
    mask[by_hash[:num_held_out]] = True
    return mask


@dataclass(frozen=True)
class Selection:
    """A reproducible choice of images, made before any of them is decoded.

    Attributes
    ----------
    limit : int or None
        The number of images that a set is limited to, drawn at random and in their order.
    sample : int or None
        The number of images to draw from these, in random order.
    seed : int
        The seed of `sample`.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0

    def total(self, count: int) -> int:
        """Return the number of images from which `sample` are drawn, out of `count` images."""
        return count if self.limit is None else min(self.limit, count)

    def indices(self, count: int) -> np.ndarray:
        """Return the indices of the chosen images among `count` images.

        Examples
        --------
        >>> Selection(limit=3).indices(3)
        array([0, 1, 2])
        """
        total = self.total(count)
        selected = np.arange(count)
        if total < count:
            selected = np.sort(np.random.default_rng(0).permutation(count)[:total])
        if self.sample is None or self.sample >= total:
            return selected
        return selected[np.random.default_rng(self.seed).permutation(total)[: self.sample]]


def _key_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
