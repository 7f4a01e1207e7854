"""Plug-in entropy and mutual information, in bits, of integer labels.

The plug-in estimate of mutual information is biased upward by about
(codes - 1) (labels - 1) / 2n nats. Shuffled labels measure this bias.
"""

import numpy as np

# Counting pairs in a dense table is faster up to this size; larger tables are counted by sorting.
MAX_DENSE_CELLS = 1 << 24


def pair_counts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pairs of labels that occur.

    Parameters
    ----------
    a, b : ndarray of int, shape (n,)
        Two labels, counted from 0, of the same n items.

    Returns
    -------
    a_labels, b_labels, counts : ndarray of int, shape (n_pairs,)
        The labels of each distinct pair and its number of occurrences.
    """
    width = int(b.max()) + 1
    keys = np.asarray(a, np.int64) * width + b
    if (int(a.max()) + 1) * width <= MAX_DENSE_CELLS:
        table = np.bincount(keys)
        pairs = np.flatnonzero(table)
        return pairs // width, pairs % width, table[pairs]
    pairs, counts = np.unique(keys, return_counts=True)
    return pairs // width, pairs % width, counts


def entropy(counts: np.ndarray) -> float:
    """Return the plug-in entropy, in bits, of a distribution given by its counts.

    Examples
    --------
    >>> import numpy as np
    >>> entropy(np.array([2, 2, 0, 4]))
    1.5
    """
    counts = counts[counts > 0]
    total = counts.sum()
    return float(np.log2(total) - (counts * np.log2(counts)).sum() / total)


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Return the plug-in mutual information, in bits, of two labels of the same items.

    Parameters
    ----------
    a, b : ndarray of int, shape (n,)
        Two labels, counted from 0, of the same n items.

    Examples
    --------
    >>> import numpy as np
    >>> mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    joint = entropy(pair_counts(a, b)[2])
    return max(entropy(np.bincount(a)) + entropy(np.bincount(b)) - joint, 0.0)


def within_groups(
    values: np.ndarray, groups: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Shuffle values within each group; `groups` is int (n,) in ascending order."""
    return values[np.argsort(groups + random.random(len(groups)), kind="stable")]
