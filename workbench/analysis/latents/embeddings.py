"""Embeddings in the plane, their quality, and their alignment to each other."""

import sys
from contextlib import suppress
from functools import cache
from typing import Any, Literal

import numpy as np

from workbench.analysis.stats.sampling import subsample
from workbench.core.moments import MAX_BLOCK_VALUES, mean_and_scale
from workbench.core.progress import tqdm_kwargs

Method = Literal["umap", "pca"]
MAX_SCORED_POINTS = 2_000  # the quality needs the distance of every pair
UMAP_INPUT_DIMENSIONS = 50  # principal components that UMAP receives


def standardize(rows: np.ndarray) -> np.ndarray:
    """Scale every dimension that varies to mean 0 and variance 1.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        One vector per row.

    Returns
    -------
    ndarray of float32, shape (n, d)
    """
    scaled = np.empty(rows.shape, np.float32)
    # Blocks of columns, because the differences from the means have the size of their block.
    width = max(1, MAX_BLOCK_VALUES // max(1, len(rows)))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        mean, scale = mean_and_scale(rows[:, part])
        scaled[:, part] = rows[:, part] - mean
        scaled[:, part] /= scale.astype(np.float32)
    return scaled


def embed(
    rows: np.ndarray, method: Method, neighbors: int, seed: int, start: np.ndarray | None = None
) -> np.ndarray:
    """Embed rows in the plane. The same seed gives the same coordinates.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, d)
        One vector per row.
    method : {"umap", "pca"}
        Projection into the plane: UMAP or principal components.
    neighbors : int
        Size of a neighborhood of UMAP.
    seed : int
        Seed of all random draws.
    start : ndarray of float, shape (n, 2), optional
        Initial coordinates of UMAP. By default the first principal components.

    Returns
    -------
    ndarray of float32, shape (n, 2)

    References
    ----------
    McInnes et al. (2018), UMAP, arXiv 1802.03426.
    """
    if method == "pca":
        return _principal_components(rows, 2, seed)
    if rows.shape[1] > UMAP_INPUT_DIMENSIONS:
        rows = _principal_components(rows, UMAP_INPUT_DIMENSIONS, seed)
    init: np.ndarray | str
    if start is not None:
        init = start.copy()
    elif rows.shape[1] > 1:
        init = "pca"  # the default, spectral initialization, fails on very few images
    else:
        init = "random"
    return np.asarray(fit_umap(rows, seed, n_neighbors=neighbors, init=init), np.float32)


def fit_umap(rows: np.ndarray, seed: int, **settings: Any) -> np.ndarray:
    """Embed rows by UMAP, and report its epochs as progress.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        One vector per row.
    seed : int
        The same seed gives the same embedding.
    **settings
        Settings of `umap.UMAP`.

    Returns
    -------
    ndarray of float32, shape (n, n_components)
    """
    import umap.layouts
    from tqdm.std import tqdm
    from umap import UMAP

    _keep_compiled_functions()
    # In a notebook, UMAP would take a progress bar that draws itself and writes to no file.
    umap.layouts.tqdm = tqdm
    # The embedding is reproducible with a single job only.
    model = UMAP(random_state=seed, n_jobs=1, tqdm_kwds=tqdm_kwargs(), **settings)
    return model.fit_transform(rows)


@cache
def _keep_compiled_functions() -> None:
    """Let numba keep the machine code of umap-learn on disk.

    umap-learn compiles most of its functions anew in every process, which takes ten times as long
    as the embedding of a thousand points.
    """
    import umap
    from numba.core.dispatcher import Dispatcher

    modules = [module for name, module in sys.modules.items() if name.startswith(umap.__name__)]
    functions = {id(value): value for module in modules for value in vars(module).values()}
    for function in functions.values():
        if isinstance(function, Dispatcher):
            with suppress(RuntimeError):  # no folder is writable: compile in every process
                function.enable_caching()


def embedding_quality(
    rows: np.ndarray, points: np.ndarray, neighbors: int, seed: int
) -> tuple[float, float]:
    """Compute trustworthiness and continuity of an embedding, from at most 2,000 points.

    Parameters
    ----------
    rows : ndarray of float, shape (n, d)
        Original vectors.
    points : ndarray of float, shape (n, 2)
        Their embedding.
    neighbors : int
        Size of a neighborhood.
    seed : int
        Seed of the sample of points.

    Returns
    -------
    trustworthiness : float
        1 if all neighbors in the plane are neighbors among the rows.
    continuity : float
        1 if all neighbors among the rows are neighbors in the plane.

    References
    ----------
    Venna and Kaski (2001), "Neighborhood preservation in nonlinear projection methods".
    """
    from sklearn.manifold import trustworthiness

    sample = subsample(len(rows), MAX_SCORED_POINTS, np.random.default_rng(seed))
    rows, points = rows[sample], points[sample]
    k = min(neighbors, (len(rows) - 1) // 2)
    trust = trustworthiness(rows, points, n_neighbors=k)
    continuity = trustworthiness(points, rows, n_neighbors=k)
    return float(trust), float(continuity)


def procrustes_align(points: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Translate, rotate, reflect and scale points to fit a reference.

    The result has the size of the reference. The least-squares scale would shrink points that do
    not match until nothing of them is visible.

    Parameters
    ----------
    points, reference : ndarray of float, shape (n, 2)
        Points to align, and points to which they are aligned.

    Returns
    -------
    aligned : ndarray of float32, shape (n, 2)
    disparity : float
        Share of the sum of squares that the best fit does not explain: 0 for the same shape, near
        1 for unrelated ones.

    Examples
    --------
    >>> reference = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> aligned, disparity = procrustes_align(-3 * reference, reference)
    >>> round(disparity, 6)
    0.0
    """
    center = reference.mean(axis=0)
    target, source = reference - center, points - points.mean(axis=0)
    left, sizes, right = np.linalg.svd(source.T @ target)
    source_size, target_size = np.square(source).sum(), np.square(target).sum()
    aligned = source @ (left @ right) * np.sqrt(target_size / source_size) + center
    disparity = float(max(0, 1 - sizes.sum() ** 2 / (source_size * target_size)))
    return aligned.astype(np.float32), disparity


def _principal_components(rows: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """Return the first components of rows, padded with zeros to at least two."""
    from sklearn.decomposition import PCA

    num_components = min(dimensions, *rows.shape)
    points = PCA(num_components, random_state=seed).fit_transform(rows)
    return np.pad(points, ((0, 0), (0, max(0, 2 - num_components)))).astype(np.float32)
