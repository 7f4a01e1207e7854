"""Distances between two sets of images in the features of a network, one row per image.

Memory is bounded: moments are streamed, and a matrix of pairs is only as large as a block.
"""

from itertools import pairwise

import numpy as np

from workbench.core.errors import UserError
from workbench.core.moments import Moments

NUM_BLOCKS = 10
BLOCK_ROWS = 1024
MAX_BLOCK_SIZE = 1000
# Precision and recall need the distance of every pair, so larger sets are cut.
MAX_MANIFOLD_IMAGES = 5000
# Half samples of more images take minutes: every one computes two covariances.
MAX_RESAMPLED_IMAGES = 10_000
MAX_GAUSSIAN_KERNEL_IMAGES = 20_000  # a Gaussian kernel compares every pair
CMMD_BANDWIDTH = 10.0
CMMD_SCALE = 1000.0
NUM_SCORE_SPLITS = 10  # of the Inception score
# Eigenvalues below this fraction of the largest belong to directions without variance.
MIN_EIGENVALUE_SHARE = 1e-12


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
    if min(len(a), len(b)) > a.shape[1]:
        return gaussian_distance(Moments.from_rows(a), Moments.from_rows(b))
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    f = _covariance_factor(a)
    g = _covariance_factor(b)
    mean_term = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    distance = (
        mean_term + np.square(f).sum() + np.square(g).sum() - 2 * np.linalg.norm(f @ g.T, "nuc")
    )
    return float(max(distance, 0.0))


def gaussian_distance(a: Moments, b: Moments) -> float:
    """Compute the Fréchet distance between two Gaussians.

    The trace of the root is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which
    is symmetric, so that no root of a general matrix is needed.

    Parameters
    ----------
    a, b : Moments
        Means and covariances with the same number of dimensions.

    Returns
    -------
    float
        The distance, at least 0, in squared units of the features.

    Raises
    ------
    UserError
        If the dimensions differ.

    Examples
    --------
    >>> import numpy as np
    >>> narrow = Moments(np.zeros(2), np.eye(2), None)
    >>> wide = Moments(np.array([3.0, 0.0]), 4 * np.eye(2), None)
    >>> round(gaussian_distance(narrow, wide), 6)
    11.0
    """
    if a.dim != b.dim:
        raise UserError(
            f"The features have {a.dim:,} and {b.dim:,} dimensions. Compare sets, or reference "
            "statistics, of one feature extractor."
        )
    root = _root(a.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    mean_term = np.square(a.mean - b.mean).sum()
    distance = mean_term + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root
    return float(max(distance, 0.0))


def frechet_error(
    b: np.ndarray, a_moments: Moments, b_moments: Moments, a: np.ndarray | None = None
) -> float:
    """Estimate the standard error of the Fréchet distance from influence functions.

    The influence of an image is the derivative of the distance with respect to its weight. Its
    standard deviation over the images, divided by the root of their number, is the standard error
    (the infinitesimal jackknife). No distance is computed again, in contrast to resampling.

    It is the error of the first order: near a distance of 0, where the derivative vanishes, it is
    too small.

    Parameters
    ----------
    b : ndarray of float, shape (n, dim)
        Features of the evaluated images.
    a_moments, b_moments : Moments
        Moments of both sets.
    a : ndarray of float, shape (n, dim), optional
        Features of the real images, row by row of the same images as `b` or independent of them.
        Without them, the real set is a fixed reference.

    Returns
    -------
    float
        The standard error.
    """
    return error_of_influence(frechet_influence(b, a_moments, b_moments, a))


def frechet_influence(
    b: np.ndarray, a_moments: Moments, b_moments: Moments, a: np.ndarray | None = None
) -> np.ndarray:
    """Compute the influence of each image on the Fréchet distance; see `frechet_error`.

    Parameters
    ----------
    b, a_moments, b_moments, a
        As for `frechet_error`.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    forward, backward = _transport(b_moments.covariance, a_moments.covariance)
    influence = _influence(b, b_moments, a_moments, forward)
    if a is not None:
        # Images and reconstructions are paired, so that their influences partly cancel.
        influence = influence + _influence(a, a_moments, b_moments, backward)
    return influence


def error_of_influence(influence: np.ndarray) -> float:
    """Return the standard error of a distance, or difference of distances, from influences."""
    return float(influence.std(ddof=1) / np.sqrt(len(influence)))


def has_influence_error(n: int, dim: int) -> bool:
    """Return whether errors come from influences, because half samples of n images are slow."""
    return n > MAX_RESAMPLED_IMAGES and n > dim


def kernel_distance(a: np.ndarray, b: np.ndarray, *, paired: bool = True) -> tuple[float, float]:
    """Compute the kernel (inception) distance of two sets of equal size.

    This is the squared maximum mean discrepancy with the kernel (x.y / dim + 1)^3, averaged over
    ten disjoint blocks of at most 1,000 rows. It is unbiased, so it may be negative.

    Parameters
    ----------
    a, b : ndarray of float, shape (n, dim)
        Features of the two sets.
    paired : bool, default True
        Never compare row i with row i, because the two may belong to one image (Gretton et al.
        2012, lemma 6). False gives the estimate of torch-fidelity, for independent sets.

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
        _discrepancy(a[i * size : (i + 1) * size], b[i * size : (i + 1) * size], paired)
        for i in range(num_blocks)
    ]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(num_blocks))


def gaussian_kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Compute the squared maximum mean discrepancy with a Gaussian kernel of width 10, times 1000.

    On image embeddings of CLIP with norm 1 this is the CMMD. Like the published implementation it
    compares every image with itself as well, so that it is biased upward by about 1 / n. Of more
    than 20,000 rows, the first are used.

    Parameters
    ----------
    a, b : ndarray of float, shapes (n, dim) and (m, dim)
        Features of the two sets; rows are divided by their norm.

    Returns
    -------
    distance, error : float
        The distance, and its standard error of the first order over images.

    References
    ----------
    Jayasumana et al., arXiv 2401.09603.

    Examples
    --------
    >>> import numpy as np
    >>> gaussian_kernel_distance(np.eye(3), np.eye(3))
    (0.0, 0.0)
    """
    a, b = (_unit_rows(rows[:MAX_GAUSSIAN_KERNEL_IMAGES]) for rows in (a, b))
    aa, ab = _mean_similarity(a, a), _mean_similarity(a, b)
    ba, bb = _mean_similarity(b, a), _mean_similarity(b, b)
    distance = CMMD_SCALE * (aa.mean() + bb.mean() - 2 * ab.mean())
    variance = np.var(aa - ab) / len(a) + np.var(bb - ba) / len(b)
    return float(distance), float(2 * CMMD_SCALE * np.sqrt(variance))


def inception_score(
    logits: np.ndarray, splits: int = NUM_SCORE_SPLITS, seed: int = 0
) -> tuple[float, float]:
    """Compute the Inception score: the exponential of the mean divergence of the class
    probabilities of an image from those of all images.

    Parameters
    ----------
    logits : ndarray of float, shape (n, n_classes)
        Logits of the images.
    splits : int, default 10
        Parts of equal size, of which each has a score.
    seed : int, default 0
        Seed of the permutation before splitting; samples are often sorted by class.

    Returns
    -------
    score, deviation : float
        Mean and standard deviation of the scores of the parts.

    References
    ----------
    Salimans et al., arXiv 1606.03498.

    Examples
    --------
    >>> import numpy as np
    >>> certain = 100 * np.tile(np.eye(4), (50, 1))
    >>> [round(value, 2) for value in inception_score(certain, splits=1)]
    [4.0, 0.0]
    """
    order = np.random.default_rng(seed).permutation(len(logits))
    edges = [len(order) * i // splits for i in range(splits + 1)]
    parts = [np.sort(order[start:stop]) for start, stop in pairwise(edges) if start < stop]
    scores = [_score(np.asarray(logits[part], np.float64)) for part in parts]
    return float(np.mean(scores)), float(np.std(scores))


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


def _root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _transport(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the symmetric T with T source T = target, and that of the reverse direction.

    Directions without variance in either Gaussian are left out.
    """
    values, vectors = np.linalg.eigh(target)
    has_variance = values > MIN_EIGENVALUE_SHARE * max(values[-1], 0)
    scale = np.sqrt(np.where(has_variance, values, 1))
    root = (vectors * np.where(has_variance, scale, 0)) @ vectors.T
    inverse_root = (vectors * np.where(has_variance, 1 / scale, 0)) @ vectors.T
    inner_values, inner_vectors = np.linalg.eigh(root @ source @ root)
    has_variance = inner_values > MIN_EIGENVALUE_SHARE * max(inner_values[-1], 0)
    fourth = np.sqrt(np.where(has_variance, inner_values, 1))
    inner_root = (inner_vectors * np.where(has_variance, fourth, 0)) @ inner_vectors.T
    inner_inverse = (inner_vectors * np.where(has_variance, 1 / fourth, 0)) @ inner_vectors.T
    return root @ inner_inverse @ root, inverse_root @ inner_root @ inverse_root


def _influence(
    rows: np.ndarray, moments: Moments, other: Moments, transport: np.ndarray
) -> np.ndarray:
    """Return the influence of each row on the distance of its set to another one."""
    slope = 2 * (moments.mean - other.mean)
    curvature = np.eye(moments.dim) - transport
    expected = (curvature * moments.covariance).sum()
    influence = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        centered = np.asarray(rows[part], np.float64) - moments.mean
        quadratic = ((centered @ curvature) * centered).sum(axis=1)
        influence[part] = centered @ slope + quadratic - expected
    return influence


def _discrepancy(a: np.ndarray, b: np.ndarray, paired: bool) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, dim = a.shape
    within = (a @ a.T / dim + 1) ** 3 + (b @ b.T / dim + 1) ** 3
    between = (a @ b.T / dim + 1) ** 3
    of_pairs = n * (n - 1)
    value = (within.sum() - np.trace(within)) / of_pairs
    if paired:
        return float(value - 2 * (between.sum() - np.trace(between)) / of_pairs)
    return float(value - 2 * between.mean())


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _mean_similarity(rows: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the mean Gaussian kernel of each row (of norm 1) with all other rows."""
    means = [
        np.exp((part @ references.T - 1) / CMMD_BANDWIDTH**2).mean(axis=1)
        for part in np.array_split(rows, max(1, len(rows) // BLOCK_ROWS))
    ]
    return np.concatenate(means)


def _score(logits: np.ndarray) -> float:
    from scipy.special import log_softmax

    log_probabilities = log_softmax(logits, axis=1)
    probabilities = np.exp(log_probabilities)
    marginal = probabilities.mean(axis=0)
    log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
    divergence = (probabilities * (log_probabilities - log_marginal)).sum(axis=1)
    return float(np.exp(divergence.mean()))


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
