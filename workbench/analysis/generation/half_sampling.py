"""Standard error of a statistic of a whole set of images, such as a distance between two sets."""

from collections.abc import Callable

import numpy as np

MIN_IMAGES = 4


def half_samples(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    n: int,
    *,
    splits: int = 40,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the standard error of a statistic, and its mean over half samples.

    The standard deviation over halves equals the error at n itself, because half of the images are
    left out (the delete-d jackknife with d = n/2). The bootstrap is not valid here: it repeats
    images, which are then too near to each other.

    Parameters
    ----------
    statistic : callable
        Function of the indices of half of the images, drawn without replacement, that returns a
        number or an array.
    n : int
        Number of images.
    splits : int, default 40
        Number of halves; one gives no error.
    seed : int, default 0
        Seed of the halves.

    Returns
    -------
    error, mean : ndarray
        Standard error at n, and mean over halves; both NaN for under 4 images.

    References
    ----------
    Shao and Wu, "A general theory for jackknife variance estimation", 1989.
    """
    if n < MIN_IMAGES:
        return np.array(np.nan), np.array(np.nan)
    random = np.random.default_rng(seed)
    values = np.array(
        [statistic(random.permutation(n)[: n // 2]) for _ in range(splits)], np.float64
    )
    error = values.std(axis=0, ddof=1) if splits > 1 else np.full(values.shape[1:], np.nan)
    return error, values.mean(axis=0)
