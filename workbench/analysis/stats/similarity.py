"""How alike two views of the same things are: rows or groups of rows of two widths, compared place by place."""

import numpy as np

MOST_ROWS = 20_000  # rows a map is fitted to
RIDGES = tuple(10.0**power for power in range(-1, 6))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of rows (n, d) and (n, e): 1 for rotated, moved and scaled copies, 0 where one
    is constant. Biased upward where the dimensions are not far fewer than n."""
    return centered_alignment(gram_matrix(x), gram_matrix(y))


def gram_matrix(rows: np.ndarray) -> np.ndarray:
    """The inner products (n, n) of rows less their mean."""
    centred = rows - rows.mean(axis=0)
    return centred @ centred.T


def centered_alignment(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine between two matrices of inner products (n, n), centred: CKA."""
    a, b = (g - g.mean(axis=0) - g.mean(axis=1, keepdims=True) + g.mean() for g in (a, b))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / scale) if scale else 0.0


def mapped_cosine(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The cosine between theirs (m, n, e) and the best linear map of ours (m, n, d), mean over n, of the second half
    of m. The map is ridge regression on the first half, its strength by leave-one-out."""
    from sklearn.linear_model import RidgeCV

    half = len(ours) // 2
    x, y = (a[:half].reshape(-1, a.shape[2])[:MOST_ROWS] for a in (ours, theirs))
    deviation = x.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    told = (
        RidgeCV(alphas=RIDGES)
        .fit(x / scale, y)
        .predict((ours[half:] / scale).reshape(-1, ours.shape[2]))
    )
    return (
        (_units(told.reshape(theirs[half:].shape)) * _units(theirs[half:])).sum(axis=2).mean(axis=1)
    )


def pair_cosines(rows: np.ndarray) -> np.ndarray:
    """The cosines (m, n (n - 1) / 2) between every two of the n rows of each group (m, n, d)."""
    pairs = np.triu_indices(rows.shape[1], k=1)
    return np.stack([(unit @ unit.T)[pairs] for unit in _units(rows)])


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row (m, k) of a with that of b; 0 where one does not vary."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.where(scale > 0, scale, 1)


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation, row by row."""
    from scipy.stats import rankdata

    return pearson(rankdata(a, axis=1), rankdata(b, axis=1))


def _units(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.finfo(float).tiny)
