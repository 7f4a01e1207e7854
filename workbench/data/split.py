"""Reproducible choices of images: the held-out ones of a set without splits, and subsamples."""

import hashlib
from collections.abc import Iterable

import numpy as np

HELD_OUT_ONE_IN = 10  # one in this many images is held out
# Names of a held-out split; the first that exists counts.
TEST_NAMES = ("test", "val", "validation", "valid")


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


def subsample_indices(count: int, limit: int | None) -> np.ndarray:
    """Return the ascending indices of a random `limit` of `count` images, or of all of them."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def _key_hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
