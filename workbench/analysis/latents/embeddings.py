"""Points in many dimensions laid out in the plane, how far the layout may be trusted, and one turned onto another."""

from typing import Any, Literal

import numpy as np

from workbench.analysis.stats.sampling import subsample
from workbench.core.progress import tqdm_kwargs

Method = Literal["umap", "pca"]
MAX_SCORED_POINTS = 2_000  # points whose neighbours are compared: every pair's distance is needed
UMAP_INPUT = 50  # principal components given to UMAP


def standardize(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) with mean 0 and variance 1 in every dimension that varies, float32."""
    deviation = rows.std(axis=0)
    out = (rows - rows.mean(axis=0)).astype(np.float32)
    out /= np.where(deviation > 0, deviation, 1).astype(np.float32)
    return out


def embed(
    rows: np.ndarray, method: Method, neighbors: int, seed: int, start: np.ndarray | None = None
) -> np.ndarray:
    """Coordinates, float32 (n, 2), of rows (n, d). `start`, (n, 2), is where UMAP begins (None: principal components).

    The same seed gives the same map. Sources: UMAP, arXiv 1802.03426.
    """
    if method == "pca":
        return _components(rows, 2, seed)
    if rows.shape[1] > UMAP_INPUT:
        rows = _components(rows, UMAP_INPUT, seed)
    # The spectral start fails on very few images.
    begin = start.copy() if start is not None else "pca" if rows.shape[1] > 1 else "random"
    return np.asarray(fit_umap(rows, seed, n_neighbors=neighbors, init=begin), np.float32)


def fit_umap(rows: np.ndarray, seed: int, **settings: Any) -> np.ndarray:
    """Rows (n, d) in fewer dimensions by UMAP, the same for the same seed; whoever listens hears of its epochs."""
    import umap.layouts
    from tqdm.std import tqdm
    from umap import UMAP

    umap.layouts.tqdm = (
        tqdm  # in a notebook it would take one that draws a bar of its own, and writes to no file
    )
    # Only one job repeats itself.
    return UMAP(random_state=seed, n_jobs=1, tqdm_kwds=tqdm_kwargs(), **settings).fit_transform(
        rows
    )


def embedding_quality(
    rows: np.ndarray, points: np.ndarray, neighbors: int, seed: int
) -> tuple[float, float]:
    """Trustworthiness and continuity of points (n, 2) as a map of rows (n, d), on at most 2,000 of them.

    1: no neighbour on the map is a stranger in the rows; and none in the rows is far on the map. Source: Venna and
    Kaski 2001.
    """
    from sklearn.manifold import trustworthiness

    judged = subsample(len(rows), MAX_SCORED_POINTS, np.random.default_rng(seed))
    rows, points = rows[judged], points[judged]
    k = min(neighbors, (len(rows) - 1) // 2)
    there, back = (
        trustworthiness(rows, points, n_neighbors=k),
        trustworthiness(points, rows, n_neighbors=k),
    )
    return float(there), float(back)


def procrustes_align(points: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, float]:
    """Points (n, 2) moved, turned, mirrored and scaled to the size of `onto` (n, 2), and their disparity from it.

    Procrustes: the share of squares that the best such fit leaves, 0 for the same figure and near 1 for unrelated ones.
    """
    middle = onto.mean(axis=0)
    there, here = onto - middle, points - points.mean(axis=0)
    left, sizes, right = np.linalg.svd(here.T @ there)
    own, target = np.square(here).sum(), np.square(there).sum()
    # Of the same size, not the best fitting one: that shrinks what is unlike, until nothing can be seen of it.
    turned = here @ (left @ right) * np.sqrt(target / own) + middle
    return turned.astype(np.float32), float(max(0, 1 - sizes.sum() ** 2 / (own * target)))


def _components(rows: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    most = min(dimensions, *rows.shape)
    points = PCA(most, random_state=seed).fit_transform(rows)
    return np.pad(points, ((0, 0), (0, max(0, 2 - most)))).astype(np.float32)
