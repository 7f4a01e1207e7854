"""From latents to the few standardised dimensions in which modes are counted; the answer depends on how.

`ours`: a fixed number of principal components. `paper text`: as many as hold over 90 % of the variance (MAETok, arXiv
2502.03444, section 2). `released script`: its gmm_fit.py's default, UMAP to 100 dimensions. All end at variance 1.
"""

from typing import Literal

import numpy as np

from workbench.analysis.latents.cross_validation import NUM_FOLDS
from workbench.analysis.latents.embeddings import fit_umap

Preset = Literal["ours", "paper text", "released script"]
MIN_EXPLAINED_VARIANCE, UMAP_DIMENSIONS = 0.9, 100


def reduce_dimensions(
    rows: np.ndarray, preset: Preset, components: int, seed: int
) -> tuple[np.ndarray, float]:
    """Points (n, kept), each dimension with mean 0 and variance 1, and the share of the variance they hold (or NaN).

    `components` is what `ours` asks for; n and the rank of the rows (n, d) may allow fewer.
    """
    if preset == "released script":
        return _umap(rows, seed), float("nan")
    from sklearn.decomposition import PCA

    asked = components if preset == "ours" else max(rows.shape)
    most = min(asked, rows.shape[1], len(rows) // NUM_FOLDS)
    pca = PCA(most, whiten=True, random_state=seed).fit(rows)
    # A direction without variance would be noise, blown up to variance 1.
    kept = int((pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]).sum())
    held = pca.explained_variance_ratio_.cumsum()
    if preset == "paper text":
        kept = min(kept, int(np.searchsorted(held, MIN_EXPLAINED_VARIANCE)) + 1)
    return pca.transform(rows)[:, :kept], float(held[kept - 1])


def gaussian_surrogate(rows: np.ndarray, seed: int) -> np.ndarray:
    """As many draws of a Gaussian with the rows' covariance, (n, d)."""
    n = len(rows)
    return (
        np.random.default_rng(seed).standard_normal((n, n))
        @ (rows - rows.mean(axis=0))
        / np.sqrt(n - 1)
    )


def _umap(rows: np.ndarray, seed: int) -> np.ndarray:
    dimensions = min(UMAP_DIMENSIONS, len(rows) // NUM_FOLDS)
    start = "pca" if rows.shape[1] >= dimensions else "random"
    points = fit_umap(rows, seed, n_components=dimensions, init=start)
    points = np.asarray(points, np.float64) - points.mean(axis=0)
    deviation = points.std(axis=0)
    return points / np.where(deviation > 0, deviation, 1)
