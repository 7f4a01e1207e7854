"""Hubness: codes that are among the nearest neighbors of many others.

References
----------
Radovanovic, Nanopoulos and Ivanovic, "Hubs in space", JMLR 2010.
"""

import numpy as np

NUM_NEIGHBORS = 10
# Hubness depends on the number of rows, so the codes and the random rows are equally many.
MAX_ROWS = 2048
GAUSSIAN_DRAWS = 5


def hubness(codewords: np.ndarray, random: np.random.Generator) -> tuple[float, float, float]:
    """Measure the skewness of the 10-nearest-neighbor in-degrees of codewords.

    A skewness of 0 means that all codes are equally often a neighbor; above 1 there are hubs. A
    single hub contributes a large part of the skewness, so the value varies between samples.

    Parameters
    ----------
    codewords : ndarray of float32, shape (codebook_size, dim)
        The codewords. Of more than 2,048, a random subset is used.
    random : numpy.random.Generator
        Source of the subset and of the Gaussian draws.

    Returns
    -------
    codewords_skewness : float
        Skewness of the in-degrees of the codewords; NaN for 20 codewords or fewer.
    gaussian_mean, gaussian_max : float
        Mean and largest skewness of five draws of as many Gaussian vectors with the same
        covariance; NaN for 20 codewords or fewer.
    """
    if len(codewords) > MAX_ROWS:
        codewords = codewords[random.choice(len(codewords), MAX_ROWS, replace=False)]
    k = len(codewords)
    if k <= 2 * NUM_NEIGHBORS:
        return float("nan"), float("nan"), float("nan")
    centered = codewords - codewords.mean(axis=0)
    # Random mixtures of the centered rows have their covariance without a matrix root.
    gaussians = (
        random.standard_normal((k, k), np.float32) @ centered / np.sqrt(k)
        for _ in range(GAUSSIAN_DRAWS)
    )
    gaussian_skewness = [skewness(in_degrees(rows)) for rows in gaussians]
    return (
        skewness(in_degrees(codewords)),
        float(np.mean(gaussian_skewness)),
        max(gaussian_skewness),
    )


def in_degrees(rows: np.ndarray, neighbors: int = NUM_NEIGHBORS) -> np.ndarray:
    """Count how often each row is among the nearest neighbors of another row.

    Parameters
    ----------
    rows : ndarray of float, shape (k, dim)
        Points, more than `neighbors` of them.
    neighbors : int
        Number of nearest neighbors of each row.

    Returns
    -------
    ndarray of int, shape (k,)
        In-degree of each row in the nearest-neighbor graph.
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(rows)
    nearest = search.kneighbors(return_distance=False)
    return np.bincount(nearest.ravel(), minlength=len(rows))


def skewness(values: np.ndarray) -> float:
    """Return the third central moment over the cubed standard deviation; 0 for constant values."""
    centered = values - values.mean()
    deviation = centered.std()
    return float((centered**3).mean() / deviation**3) if deviation > 0 else 0.0
