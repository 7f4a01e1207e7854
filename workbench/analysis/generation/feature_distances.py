"""Distances between two sets of images in the features of a network, one row per image."""

import numpy as np

NUM_BLOCKS = 10
MAX_BLOCK_SIZE = 1000
# Precision and recall need the distance of every pair, so larger sets are cut.
MAX_MANIFOLD_IMAGES = 5000


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the Fréchet distance between Gaussians fitted to two sets of features.

    The distance is |mean difference|^2 + tr A + tr B - 2 tr (A B)^(1/2), in squared units of the
    features. With A = F'F and B = G'G, the last trace is the sum of the singular values of F G',
    so that no matrix root is needed, which could become complex.

    The distance is biased upward in the number of rows: compare it only at equal n.

    Parameters
    ----------
    a, b : ndarray of float, shapes (n, dim) and (m, dim)
        Features of at least two images each.

    Returns
    -------
    float
        The distance, at least 0.

    References
    ----------
    Heusel et al., arXiv 1706.08500.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0]])
    >>> round(frechet_distance(rows, rows + 1), 6)
    2.0
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    f = _covariance_factor(a)
    g = _covariance_factor(b)
    mean_term = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    distance = (
        mean_term + np.square(f).sum() + np.square(g).sum() - 2 * np.linalg.norm(f @ g.T, "nuc")
    )
    return float(max(distance, 0.0))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Compute the kernel (inception) distance of two sets of equal size.

    This is the squared maximum mean discrepancy with the kernel (x.y / dim + 1)^3, averaged over
    ten disjoint blocks of at most 1,000 rows. It is unbiased, so it may be negative. Row i is never
    compared with row i, because the two may belong to one image (Gretton et al. 2012, lemma 6).

    Parameters
    ----------
    a, b : ndarray of float, shape (n, dim)
        Features of the two sets.

    Returns
    -------
    distance, error : float
        The distance and its standard error over blocks; NaN for under 4 rows.

    References
    ----------
    Binkowski et al., arXiv 1801.01401.
    """
    n = len(a)
    num_blocks = min(NUM_BLOCKS, n // 2)
    if num_blocks < 2:
        return float("nan"), float("nan")
    size = min(n // num_blocks, MAX_BLOCK_SIZE)
    values = [
        _discrepancy(a[i * size : (i + 1) * size], b[i * size : (i + 1) * size])
        for i in range(num_blocks)
    ]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(num_blocks))


def precision_recall(
    real: np.ndarray, evaluated: np.ndarray, neighbors: int = 3
) -> tuple[float, float]:
    """Compute precision and recall of a set of features with respect to real images.

    A manifold is the union of balls around the rows of a set, each of which reaches to the k-th
    nearest other row. Both values fall for few rows: compare them only at equal n. Of more than
    5,000 rows, the first are used.

    Parameters
    ----------
    real, evaluated : ndarray of float, shapes (n, dim) and (m, dim)
        Features of real images and of the images to evaluate.
    neighbors : int, default 3
        The k of the manifolds, reduced for sets that are too small.

    Returns
    -------
    precision, recall : float
        Fraction of evaluated rows on the manifold of the real rows, and the reverse.

    References
    ----------
    Kynkäänniemi et al., arXiv 1904.06991.
    """
    real = np.asarray(real[:MAX_MANIFOLD_IMAGES], np.float64)
    evaluated = np.asarray(evaluated[:MAX_MANIFOLD_IMAGES], np.float64)
    return _coverage(evaluated, real, neighbors), _coverage(real, evaluated, neighbors)


def nearest(rows: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search the nearest reference row of each row.

    Parameters
    ----------
    rows, references : ndarray of float, shapes (n, dim) and (m, dim)
        Features.

    Returns
    -------
    indices : ndarray of int, shape (n,)
        Index of the nearest reference row.
    distances : ndarray of float64, shape (n,)
        Distance to it; exactly 0 for a copy.
    """
    from sklearn.metrics import pairwise_distances_argmin

    indices = pairwise_distances_argmin(rows, references)
    difference = np.asarray(rows, np.float64) - np.asarray(references, np.float64)[indices]
    return indices, np.linalg.norm(difference, axis=1)


def _covariance_factor(rows: np.ndarray) -> np.ndarray:
    """Return F with F'F equal to the covariance: scaled eigenvectors, or the centered rows."""
    centered = (rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1)
    if len(rows) < rows.shape[1]:
        return centered
    values, vectors = np.linalg.eigh(centered.T @ centered)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def _discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, dim = a.shape
    h = (a @ a.T / dim + 1) ** 3 + (b @ b.T / dim + 1) ** 3
    h -= (a @ b.T / dim + 1) ** 3 + (b @ a.T / dim + 1) ** 3
    return float((h.sum() - np.trace(h)) / (n * (n - 1)))


def _coverage(rows: np.ndarray, centers: np.ndarray, neighbors: int) -> float:
    """Return the fraction of rows inside the ball of some center."""
    from sklearn.metrics import pairwise_distances_chunked

    # Column 0 of a partition is the center itself, at distance 0.
    k = min(neighbors, len(centers) - 1)
    radius_chunks = pairwise_distances_chunked(
        centers, reduce_func=lambda part, _: np.partition(part, k, axis=1)[:, k]
    )
    radius = np.concatenate(list(radius_chunks))
    inside_chunks = pairwise_distances_chunked(
        rows, centers, reduce_func=lambda part, _: (part <= radius).any(axis=1)
    )
    return float(np.concatenate(list(inside_chunks)).mean())
