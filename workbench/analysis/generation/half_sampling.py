"""How sure a number is that only a whole set of images has, such as a distance between two sets."""

from collections.abc import Callable

import numpy as np


def half_samples(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    n: int,
    *,
    splits: int = 40,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of a statistic of n images, and its mean over halves of them.

    `statistic` is given the places of half the images, drawn without replacement. The deviation between such halves
    is the error at n itself, since half the images are left out (Shao and Wu 1989, the delete-d jackknife, d = n/2).
    The bootstrap would not do: images drawn twice are too near to each other. Both are NaN for under 4 images.
    """
    if n < 4:
        return np.array(np.nan), np.array(np.nan)
    random = np.random.default_rng(seed)
    values = np.array(
        [statistic(random.permutation(n)[: n // 2]) for _ in range(splits)], np.float64
    )
    return values.std(axis=0, ddof=1), values.mean(axis=0)
