"""Some of many: which ones, and how it is said that they are not all."""

import numpy as np


def subsample(
    n: int, most: int, random: np.random.Generator, labels: np.ndarray | None = None
) -> np.ndarray:
    """Places of all of n, or of `most` of them, ascending: random ones, stratified by the labels (n,) where there are.

    Each class then has its share of them, to one image.
    """
    if n <= most:
        return np.arange(n)
    if labels is None:
        return np.sort(random.choice(n, most, replace=False))
    order, which = random.permutation(n), np.unique(np.asarray(labels), return_inverse=True)[1]
    quota = _quotas(np.bincount(which), most, random)
    order = order[np.argsort(which[order], kind="stable")]  # class by class, each in random order
    starts = np.cumsum(np.bincount(which)) - np.bincount(which)
    turn = np.arange(n) - starts[which[order]]
    return np.sort(order[turn < quota[which[order]]])


def describe_subset(count: int, of: int, what: str = "images", *, by_class: bool = False) -> str:
    """How many of how many, and how chosen: `20,000 of 50,000 images, stratified by class`; of all, `360 images`."""
    how = "stratified by class" if by_class else "drawn at random"
    return f"{of:,} {what}" if count >= of else f"{count:,} of {of:,} {what}, {how}"


def _quotas(sizes: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """How many of each class, int: their shares of `most` rounded down, and one more where most was cut off."""
    share = most * sizes / sizes.sum()
    quota = share.astype(int)
    ties = random.permutation(len(sizes))
    quota[ties[np.argsort((quota - share)[ties], kind="stable")[: most - quota.sum()]]] += 1
    return quota
