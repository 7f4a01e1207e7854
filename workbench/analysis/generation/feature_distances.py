"""How far two sets of images are apart in a network's features: rows (n, e) and (m, e), an image a row."""

import numpy as np

BLOCKS, MOST_IN_BLOCK = 10, 1000
MOST_COMPARED = 5000  # images whose manifolds are compared: every pair's distance is needed


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance between Gaussians with the rows' means and covariances; at least 2 rows each.

    |mean difference|^2 + tr A + tr B - 2 tr (A B)^(1/2), in the features' unit squared (arXiv 1706.08500). With
    A = F'F and B = G'G the last trace is the sum of the singular values of F G', so no matrix root is taken that
    could turn complex. Biased upward in the number of rows: compare only at equal n.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    f, g = _factor(a), _factor(b)
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(
        max(
            apart + np.square(f).sum() + np.square(g).sum() - 2 * np.linalg.norm(f @ g.T, "nuc"),
            0.0,
        )
    )


def kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The kernel inception distance (arXiv 1801.01401) of two sets of equal size, and its standard error.

    Squared maximum mean discrepancy with the kernel (x.y / e + 1)^3, the mean of ten disjoint blocks of at most 1,000
    rows. Unbiased, so it may be negative. Row i is never compared with row i: the two may come from one image
    (Gretton et al. 2012, lemma 6). NaN for under 4 rows.
    """
    n = len(a)
    blocks = min(BLOCKS, n // 2)
    if blocks < 2:
        return float("nan"), float("nan")
    size = min(n // blocks, MOST_IN_BLOCK)
    values = [
        _discrepancy(a[i * size : (i + 1) * size], b[i * size : (i + 1) * size])
        for i in range(blocks)
    ]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(blocks))


def precision_recall(
    real: np.ndarray, evaluated: np.ndarray, neighbors: int = 3
) -> tuple[float, float]:
    """The share of evaluated rows on the real rows' manifold, and of real rows on the evaluated ones' (arXiv 1904.06991).

    A manifold is the union of balls around rows, each reaching to its k-th nearest other row of the set; k is lowered
    to what there is. Both fall with few rows: compare at equal n. Of more than 5,000 rows the first are taken.
    """
    real, evaluated = (np.asarray(x[:MOST_COMPARED], np.float64) for x in (real, evaluated))
    return _covered(evaluated, real, neighbors), _covered(real, evaluated, neighbors)


def nearest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the place of the nearest other, int (n,), and the distance to it, (n,); 0 for an exact copy."""
    from sklearn.metrics import pairwise_distances_argmin

    place = pairwise_distances_argmin(rows, others)
    return place, np.linalg.norm(
        np.asarray(rows, np.float64) - np.asarray(others, np.float64)[place], axis=1
    )


def _factor(rows: np.ndarray) -> np.ndarray:
    """F with F'F the rows' covariance: its symmetric eigenvectors, or the centred rows where they are fewer."""
    centred = (rows - rows.mean(axis=0)) / np.sqrt(len(rows) - 1)
    if len(rows) < rows.shape[1]:
        return centred
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def _discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, e = a.shape
    h = (a @ a.T / e + 1) ** 3 + (b @ b.T / e + 1) ** 3
    h -= (a @ b.T / e + 1) ** 3 + (b @ a.T / e + 1) ** 3
    return float((h.sum() - np.trace(h)) / (n * (n - 1)))


def _covered(rows: np.ndarray, centres: np.ndarray, neighbors: int) -> float:
    """The share of rows that lie in some centre's ball."""
    from sklearn.metrics import pairwise_distances_chunked

    k = min(neighbors, len(centres) - 1)
    near = pairwise_distances_chunked(
        centres, reduce_func=lambda part, _: np.partition(part, k, axis=1)[:, k]
    )
    radius = np.concatenate(list(near))  # the 0-th nearest is the row itself
    inside = pairwise_distances_chunked(
        rows, centres, reduce_func=lambda part, _: (part <= radius).any(axis=1)
    )
    return float(np.concatenate(list(inside)).mean())
