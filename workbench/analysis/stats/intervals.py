"""How sure a mean over images is."""

import numpy as np


def mean_interval(
    values: np.ndarray, *, rounds: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean of (n,) values and its 95 % interval: percentiles over images drawn again with replacement.

    NaN is left out; all three are NaN where nothing is left. Source: Efron 1979, the bootstrap.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    random, n = np.random.default_rng(seed), len(values)
    means = [values[random.integers(0, n, n)].mean() for _ in range(rounds)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
