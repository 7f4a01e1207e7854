"""Confidence intervals of means over images."""

import numpy as np

NUMBERS_AT_ONCE = 2**14  # as many as a processor's cache holds


def mean_interval(
    values: np.ndarray, *, rounds: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Compute the mean and its 95 % percentile bootstrap interval.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        One value per image. NaN is ignored.
    rounds : int, default 1000
        Number of bootstrap samples.
    seed : int, default 0
        Seed of the resampling.

    Returns
    -------
    mean, low, high : float
        NaN if no value is left.

    References
    ----------
    Efron (1979), "Bootstrap methods: another look at the jackknife".

    Examples
    --------
    >>> mean_interval(np.array([1.0, 1.0, np.nan]))
    (1.0, 1.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    random = np.random.default_rng(seed)
    n = len(values)
    at_once = max(1, NUMBERS_AT_ONCE // n)
    means = [
        values[random.integers(0, n, (min(at_once, rounds - start), n))].mean(axis=1)
        for start in range(0, rounds, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
