"""Which of many images are held out, and which few are read: always the same ones."""

import hashlib
from collections.abc import Iterable

import numpy as np

SHARE = 10  # one in ten is held out
TEST_NAMES = (
    "test",
    "val",
    "validation",
    "valid",
)  # what a held-out split may be called; the first one found counts


def held_out_mask(keys: Iterable[str]) -> np.ndarray:
    """Which keys belong to the test split, bool (n,): the tenth with the lowest hashes, at least one of two or more."""
    hashes = [
        hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        for key in keys
    ]
    chosen = sorted(range(len(hashes)), key=hashes.__getitem__)[
        : max(len(hashes) // SHARE, int(len(hashes) > 1))
    ]
    return np.isin(np.arange(len(hashes)), chosen)


def subsample_indices(count: int, limit: int | None) -> np.ndarray:
    """Positions among `count`, ascending: a random `limit` of them, or all."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])
