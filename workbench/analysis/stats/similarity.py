"""Similarity of two representations of the same items, which may differ in width."""

import numpy as np

from workbench.core.moments import mean_and_scale

MAX_ROWS = 20_000  # rows that a linear map is fitted to
RIDGE_STRENGTHS = tuple(10.0**power for power in range(-1, 6))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the linear centered kernel alignment of two representations.

    The value is biased upward unless the dimensions are far fewer than n.

    Parameters
    ----------
    x : ndarray of float, shape (n, d)
        First representation of n items.
    y : ndarray of float, shape (n, e)
        Second representation of the same items.

    Returns
    -------
    float
        1 for copies that are rotated, shifted and scaled; 0 if one representation is constant.

    References
    ----------
    Kornblith et al. (2019), "Similarity of neural network representations revisited",
    arXiv 1905.00414.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(20, 3))
    >>> round(linear_cka(x, 2 * x[:, ::-1] + 1), 6)
    1.0
    """
    return centered_alignment(gram_matrix(x), gram_matrix(y))


def gram_matrix(rows: np.ndarray) -> np.ndarray:
    """Compute the inner products of centered rows.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        One vector per row.

    Returns
    -------
    ndarray of float, shape (n, n)
    """
    centered = rows - rows.mean(axis=0)
    return centered @ centered.T


def centered_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the cosine between two Gram matrices after centering their rows and columns.

    Parameters
    ----------
    a, b : ndarray of float, shape (n, n)
        Gram matrices of the same items.

    Returns
    -------
    float
        0 if one of the matrices is zero.
    """
    a, b = _center_gram(a), _center_gram(b)
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / scale) if scale else 0.0


def mapped_cosine(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compute the cosine between targets and their best linear prediction.

    The map is a ridge regression, fitted to the first half of the items. Its strength is selected
    by leave-one-out error.

    Parameters
    ----------
    source : ndarray of float, shape (m, n, d)
        m items with n vectors each.
    target : ndarray of float, shape (m, n, e)
        Vectors to predict.

    Returns
    -------
    ndarray of float, shape (m - m // 2,)
        Mean cosine over the n vectors of each item of the second half.
    """
    from sklearn.linear_model import RidgeCV

    half = len(source) // 2
    x = source[:half].reshape(-1, source.shape[2])[:MAX_ROWS]
    y = target[:half].reshape(-1, target.shape[2])[:MAX_ROWS]
    scale = mean_and_scale(x)[1].astype(x.dtype)
    model = RidgeCV(alphas=RIDGE_STRENGTHS).fit(x / scale, y)
    test_rows = (source[half:] / scale).reshape(-1, source.shape[2])
    predicted = model.predict(test_rows).reshape(target[half:].shape)
    cosines = (_unit_vectors(predicted) * _unit_vectors(target[half:])).sum(axis=2)
    return cosines.mean(axis=1)


def pair_cosines(rows: np.ndarray) -> np.ndarray:
    """Compute the cosines between all pairs of rows of each group.

    Parameters
    ----------
    rows : ndarray of float, shape (m, n, d)
        m groups of n rows.

    Returns
    -------
    ndarray of float, shape (m, n * (n - 1) / 2)
    """
    pairs = np.triu_indices(rows.shape[1], k=1)
    return np.stack([(unit @ unit.T)[pairs] for unit in _unit_vectors(rows)])


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation of each row of `a` with the same row of `b`.

    Parameters
    ----------
    a, b : ndarray of float, shape (m, k)
        Arrays whose rows are compared in pairs.

    Returns
    -------
    ndarray of float, shape (m,)
        0 if one of the two rows is constant.

    Examples
    --------
    >>> pearson(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]])).round(6)
    array([1.])
    """
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(scale > 0, scale, 1)


def _center_gram(matrix: np.ndarray) -> np.ndarray:
    rows, columns = matrix.mean(axis=0), matrix.mean(axis=1, keepdims=True)
    return matrix - rows - columns + matrix.mean()


def _unit_vectors(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(float).tiny)
