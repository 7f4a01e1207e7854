"""Measures of the spread of points (n, d), and their values for an isotropic Gaussian."""

import numpy as np
from scipy.special import gammaln

NEIGHBOR_RANK = 10  # the neighbor whose distance is measured
TABLE_NEIGHBORS = 64  # enough that ten of them are in a random half of the points
TSNE_PERPLEXITY = 30  # as in the script of VA-VAE


def spectrum(points: np.ndarray) -> np.ndarray:
    """Compute the normalized eigenvalues of the covariance.

    Parameters
    ----------
    points : ndarray of float, shape (n, d)
        One point per row.

    Returns
    -------
    ndarray of float, shape (d,)
        Share of the variance along each principal direction, in descending order.

    Examples
    --------
    >>> spectrum(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]]))
    array([0.5, 0.5])
    """
    covariance = np.cov(points, rowvar=False).reshape(points.shape[1], -1)
    values = np.linalg.eigvalsh(covariance)[::-1].clip(min=0)
    return values / (values.sum() or 1)


def participation_ratio(shares: np.ndarray) -> float:
    """Compute the participation ratio: squared sum of eigenvalues over the sum of their squares.

    Parameters
    ----------
    shares : ndarray of float, shape (d,)
        Eigenvalues with sum 1.

    Returns
    -------
    float
        d if all eigenvalues are equal, 1 if only one is positive.

    Examples
    --------
    >>> participation_ratio(np.array([0.25, 0.25, 0.25, 0.25]))
    4.0
    """
    return float(1 / np.square(shares).sum())


def effective_rank(shares: np.ndarray) -> float:
    """Compute the effective rank: the exponential of the entropy of the eigenvalues.

    Parameters
    ----------
    shares : ndarray of float, shape (d,)
        Eigenvalues with sum 1.

    Returns
    -------
    float
        From 1 to d.

    References
    ----------
    Roy and Vetterli (2007), "The effective rank: a measure of effective dimensionality".
    """
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def half_order_rank(shares: np.ndarray) -> float:
    """Compute the effective rank of order 1/2: the squared sum of the roots of the eigenvalues.

    Between the effective rank, of order 1, and the number of dimensions. The irreducible variance
    of a flow's velocity follows from it.

    Parameters
    ----------
    shares : ndarray of float, shape (d,)
        Eigenvalues with sum 1.

    Returns
    -------
    float
        From 1 to d.

    Examples
    --------
    >>> round(half_order_rank(np.array([0.5, 0.5, 0.0])), 6)
    2.0
    """
    return float(np.square(np.sqrt(shares).sum()))


def coefficient_of_variation(values: np.ndarray) -> float:
    """Compute the standard deviation over the mean; 0 if the mean is 0.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        Numbers.

    Returns
    -------
    float
    """
    mean = values.mean()
    return float(values.std() / mean) if mean else 0.0


def gini(values: np.ndarray) -> float:
    """Compute the Gini coefficient of positive values.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        Numbers.

    Returns
    -------
    float
        0 if all values are equal, near 1 if one value is most of the sum.

    Examples
    --------
    >>> gini(np.array([1.0, 1.0, 1.0]))
    0.0
    """
    n = len(values)
    rank = np.arange(1, n + 1)
    return float(((2 * rank - n - 1) * np.sort(values)).sum() / (n * values.sum()))


def neighbor_distances(points: np.ndarray) -> np.ndarray:
    """Compute the distance of each point to its tenth nearest neighbor.

    Parameters
    ----------
    points : ndarray of float, shape (n, d)
        One point per row.

    Returns
    -------
    ndarray of float, shape (n,)
        The distance to the farthest point if there are fewer than ten others.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(NEIGHBOR_RANK, len(points) - 1)
    return NearestNeighbors(n_neighbors=k).fit(points).kneighbors()[0][:, -1]


class NeighborTable:
    """The nearest neighbors of points, searched once and looked up for many subsets.

    Parameters
    ----------
    points : ndarray of float, shape (n, d)
        One point per row.
    """

    def __init__(self, points: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._points = points
        k = min(TABLE_NEIGHBORS, len(points) - 1)
        self._distances, self._neighbors = NearestNeighbors(n_neighbors=k).fit(points).kneighbors()

    def distances(self, is_selected: np.ndarray) -> np.ndarray:
        """Compute what `neighbor_distances` does for a subset of the points.

        Parameters
        ----------
        is_selected : ndarray of bool, shape (n,)
            The subset.

        Returns
        -------
        ndarray of float, shape (n_selected,)
        """
        rank = min(NEIGHBOR_RANK, int(is_selected.sum()) - 1)
        is_far_enough = is_selected[self._neighbors[is_selected]].cumsum(axis=1) >= rank
        if not is_far_enough[:, -1].all():  # the table is too short for this subset
            return neighbor_distances(self._points[is_selected])
        columns = is_far_enough.argmax(axis=1)
        return np.take_along_axis(self._distances[is_selected], columns[:, None], axis=1)[:, 0]


def density_uniformity(plane: np.ndarray) -> tuple[float, float]:
    """Measure the uniformity of the density of points in the plane.

    The density is a kernel estimate with Scott's bandwidth, evaluated at the points themselves.
    The exact density of a Gaussian gives 1/sqrt(3) and 1/3.

    Parameters
    ----------
    plane : ndarray of float, shape (n, 2)
        Points in the plane.

    Returns
    -------
    variation, gini : float
        Coefficient of variation and Gini coefficient of the density; lower is more uniform.

    References
    ----------
    Yao et al. (2025), VA-VAE, arXiv 2501.01423, table 6.
    """
    from scipy.stats import gaussian_kde

    density = gaussian_kde(plane.T)(plane.T)
    return coefficient_of_variation(density), gini(density)


def tsne(points: np.ndarray, seed: int) -> np.ndarray:
    """Embed points in the plane by t-SNE with perplexity 30, or less if n is small.

    Parameters
    ----------
    points : ndarray of float, shape (n, d)
        One point per row.
    seed : int
        Seed of the embedding.

    Returns
    -------
    ndarray of float64, shape (n, 2)
    """
    from sklearn.manifold import TSNE

    perplexity = min(TSNE_PERPLEXITY, (len(points) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, random_state=seed, n_jobs=1)
    return model.fit_transform(points).astype(np.float64)


def gaussian_participation_ratio(n: int, d: int, standardized: bool = False) -> float:
    """Return the participation ratio of a sample of an isotropic Gaussian: E[tr S]^2 / E[tr S^2].

    S is a Wishart covariance or, for standardized points, a correlation matrix, whose entries
    have variance 1 / (n - 1).

    Parameters
    ----------
    n, d : int
        Number of points and of dimensions.
    standardized : bool, default False
        Whether each dimension is divided by its standard deviation.

    Returns
    -------
    float
    """
    degrees_of_freedom = max(n - 1, 1)
    if standardized:
        return d / (1 + (d - 1) / degrees_of_freedom)
    return (d * d + 2 * d / degrees_of_freedom) / (d + d * (d + 1) / degrees_of_freedom)


def gaussian_norm_variation(d: int) -> float:
    """Return the coefficient of variation of the norm of an isotropic Gaussian.

    The norm follows a chi distribution, so the value is about 1/sqrt(2 d).

    Parameters
    ----------
    d : int
        Number of dimensions.

    Returns
    -------
    float
    """
    mean_squared = 2 * np.exp(2 * (gammaln((d + 1) / 2) - gammaln(d / 2)))
    return float(np.sqrt(d / mean_squared - 1))


def gaussian_cosine(d: int) -> float:
    """Return the mean of |cos| between two independent isotropic directions.

    Parameters
    ----------
    d : int
        Number of dimensions.

    Returns
    -------
    float
        About sqrt(2 / (pi d)).
    """
    return float(np.exp(gammaln(d / 2) - gammaln((d + 1) / 2)) / np.sqrt(np.pi))
