"""Hubs: codes that are among the nearest of many others, as happens in many dimensions (Radovanovic et al. 2010)."""

import numpy as np

NEIGHBORS = 10
MOST, DRAWS = (
    2048,
    5,
)  # codes: hubness depends on how many there are, so that ours and random ones are as many


def hubness(words: np.ndarray, random: np.random.Generator) -> tuple[float, float, float]:
    """The skewness of how often a code is among the 10 nearest of others; the mean and the largest of five Gaussians'.

    Words are (k, d), at most 2,048 of them drawn; the Gaussians have their covariance. 0: all equally often; above 1
    there are hubs. One hub makes a large part of it, so that it scatters. NaN for 20 codes or fewer.
    """
    words = words if len(words) <= MOST else words[random.choice(len(words), MOST, replace=False)]
    k = len(words)
    if k <= 2 * NEIGHBORS:
        return float("nan"), float("nan"), float("nan")
    centred = words - words.mean(
        axis=0
    )  # mixed by random numbers, rows have the covariance and no root is taken
    mixed = (
        random.standard_normal((k, k), np.float32) @ centred / np.sqrt(k) for _ in range(DRAWS)
    )
    usual = [skewness(in_degrees(rows)) for rows in mixed]
    return skewness(in_degrees(words)), float(np.mean(usual)), max(usual)


def in_degrees(words: np.ndarray, neighbors: int = NEIGHBORS) -> np.ndarray:
    """How often each row of (k, d) is among the nearest others of another row, int (k,)."""
    from sklearn.neighbors import NearestNeighbors

    near = (
        NearestNeighbors(n_neighbors=neighbors, algorithm="brute")
        .fit(words)
        .kneighbors(return_distance=False)
    )
    return np.bincount(near.ravel(), minlength=len(words))


def skewness(values: np.ndarray) -> float:
    """The third moment over the cubed deviation; 0 where all are the same."""
    centred = values - values.mean()
    deviation = centred.std()
    return float((centred**3).mean() / deviation**3) if deviation > 0 else 0.0
