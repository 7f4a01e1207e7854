"""What two labels of the same things tell of each other, in bits, and what chance alone would seem to tell.

The plug-in estimate is biased upward by about (codes - 1) (labels - 1) / 2n nats; shuffled labels show by how much.
"""

import numpy as np

MOST_CELLS = 1 << 24  # of a dense table of pairs; a larger one is counted by sorting


def pair_counts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs that occur among labels a and b, int (n,) from 0: their a, their b and how often they do."""
    width = int(b.max()) + 1
    keys = np.asarray(a, np.int64) * width + b
    if (int(a.max()) + 1) * width <= MOST_CELLS:
        table = np.bincount(keys)
        found = np.flatnonzero(table)
        return found // width, found % width, table[found]
    found, counts = np.unique(keys, return_counts=True)
    return found // width, found % width, counts


def entropy(counts: np.ndarray) -> float:
    """The plug-in entropy in bits of how often things occurred."""
    counts = counts[counts > 0]
    total = counts.sum()
    return float(np.log2(total) - (counts * np.log2(counts)).sum() / total)


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """The plug-in mutual information in bits of two labels of the same n things, int (n,) from 0."""
    joint = entropy(pair_counts(a, b)[2])
    return max(entropy(np.bincount(a)) + entropy(np.bincount(b)) - joint, 0.0)


def within_groups(
    values: np.ndarray, groups: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The values shuffled inside each group; `groups` is int (n,) and rising."""
    return values[np.argsort(groups + random.random(len(groups)), kind="stable")]
