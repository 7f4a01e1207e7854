"""Dimension reduction before modes are counted. The number of modes depends on it.

Three presets are available. All end with dimensions of variance 1.

- `ours`: a fixed number of principal components.
- `paper text`: as many components as explain more than 90 % of the variance (MAETok, arXiv
  2502.03444, section 2).
- `released script`: UMAP to 100 dimensions, the default of the script `gmm_fit.py` of MAETok.
"""

from typing import Literal

import numpy as np

from workbench.analysis.latents.cross_validation import NUM_FOLDS
from workbench.analysis.latents.embeddings import fit_umap

Preset = Literal["ours", "paper text", "released script"]
MIN_EXPLAINED_VARIANCE = 0.9
UMAP_DIMENSIONS = 100


def reduce_dimensions(
    rows: np.ndarray, preset: Preset, components: int, seed: int
) -> tuple[np.ndarray, float]:
    """Reduce rows to a few dimensions with mean 0 and variance 1.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        Flattened latents.
    preset : {"ours", "paper text", "released script"}
        Method of the reduction.
    components : int
        Number of principal components of the preset `ours`. The number of rows and their rank
        may allow fewer.
    seed : int
        Seed of the reduction.

    Returns
    -------
    points : ndarray of float, shape (n, dimensions)
    explained_variance : float
        Share of the variance that the components explain, from 0 to 1; NaN for UMAP.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 8))
    >>> points, explained = reduce_dimensions(rows, "ours", 4, seed=0)
    >>> points.shape, points.std(axis=0, ddof=1).round(6).tolist()
    ((100, 4), [1.0, 1.0, 1.0, 1.0])
    """
    if preset == "released script":
        return _standardized_umap(rows, seed), float("nan")
    from sklearn.decomposition import PCA

    requested = components if preset == "ours" else max(rows.shape)
    pca = PCA(min(requested, rows.shape[1], len(rows) // NUM_FOLDS), whiten=True, random_state=seed)
    pca.fit(rows)
    # Whitening would scale the rounding error of a direction without variance to variance 1.
    num_kept = int((pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]).sum())
    cumulative = pca.explained_variance_ratio_.cumsum()
    if preset == "paper text":
        num_kept = min(num_kept, int(np.searchsorted(cumulative, MIN_EXPLAINED_VARIANCE)) + 1)
    return pca.transform(rows)[:, :num_kept], float(cumulative[num_kept - 1])


def gaussian_surrogate(rows: np.ndarray, seed: int) -> np.ndarray:
    """Draw n points of a Gaussian whose covariance is that of the rows.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        One vector per row.
    seed : int
        Seed of all random draws.

    Returns
    -------
    ndarray of float, shape (n, d)
    """
    n = len(rows)
    noise = np.random.default_rng(seed).standard_normal((n, n))
    return noise @ (rows - rows.mean(axis=0)) / np.sqrt(n - 1)


def _standardized_umap(rows: np.ndarray, seed: int) -> np.ndarray:
    dimensions = min(UMAP_DIMENSIONS, len(rows) // NUM_FOLDS)
    start = "pca" if rows.shape[1] >= dimensions else "random"
    embedded = fit_umap(rows, seed, n_components=dimensions, init=start)
    points = np.asarray(embedded, np.float64)
    points = points - points.mean(axis=0)
    deviation = points.std(axis=0)
    return points / np.where(deviation > 0, deviation, 1)
