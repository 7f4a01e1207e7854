"""How latents fill their space: numbers of points (n, d), each with the value of an isotropic Gaussian."""

import numpy as np
from scipy.special import gammaln

NEIGHBOR_RANK = 10  # the neighbour whose distance is measured
TSNE_PERPLEXITY = 30  # of t-SNE, as VA-VAE's script sets it


def spectrum(points: np.ndarray) -> np.ndarray:
    """The eigenvalues (d,) of the points' covariance as shares of its trace, the largest first."""
    values = np.linalg.eigvalsh(np.cov(points, rowvar=False).reshape(points.shape[1], -1))[
        ::-1
    ].clip(min=0)
    return values / (values.sum() or 1)


def participation_ratio(shares: np.ndarray) -> float:
    """(sum of eigenvalues)^2 / sum of their squares: d where all are equal, 1 where one holds everything."""
    return float(1 / np.square(shares).sum())


def effective_rank(shares: np.ndarray) -> float:
    """The exponential of the eigenvalues' entropy (Roy and Vetterli 2007), from 1 to d."""
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def coefficient_of_variation(values: np.ndarray) -> float:
    """The coefficient of variation, standard deviation over mean; 0 where all are 0."""
    mean = values.mean()
    return float(values.std() / mean) if mean else 0.0


def gini(values: np.ndarray) -> float:
    """Gini's coefficient of positive values: 0 where all are equal, near 1 where one holds everything."""
    n = len(values)
    rank = np.arange(1, n + 1)
    return float(((2 * rank - n - 1) * np.sort(values)).sum() / (n * values.sum()))


def neighbor_distances(points: np.ndarray) -> np.ndarray:
    """Each point's distance (n,) to its tenth nearest other point, or the farthest where there are fewer."""
    from sklearn.neighbors import NearestNeighbors

    k = min(NEIGHBOR_RANK, len(points) - 1)
    return NearestNeighbors(n_neighbors=k).fit(points).kneighbors()[0][:, -1]


def density_uniformity(plane: np.ndarray) -> tuple[float, float]:
    """The coefficient of variation and Gini's coefficient of a kernel estimate of density at its own points (n, 2).

    Scott's bandwidth. A Gaussian's exact density gives 1/sqrt(3) and 1/3. Source: VA-VAE (arXiv 2501.01423), table 6.
    """
    from scipy.stats import gaussian_kde

    density = gaussian_kde(plane.T)(plane.T)
    return coefficient_of_variation(density), gini(density)


def tsne(points: np.ndarray, seed: int) -> np.ndarray:
    """The points (n, d) in the plane, float64 (n, 2): t-SNE with perplexity 30, less where n is small."""
    from sklearn.manifold import TSNE

    perplexity = min(TSNE_PERPLEXITY, (len(points) - 1) / 3)
    return (
        TSNE(2, perplexity=perplexity, random_state=seed, n_jobs=1)
        .fit_transform(points)
        .astype(np.float64)
    )


def gaussian_participation_ratio(n: int, d: int, standardized: bool = False) -> float:
    """What n independent points of an isotropic Gaussian in d dimensions show: E[tr S]^2 / E[tr S^2].

    S is a Wishart covariance or, of `standardized` points, a correlation matrix, whose entries have variance 1/(n-1).
    """
    free = max(n - 1, 1)
    if standardized:
        return d / (1 + (d - 1) / free)
    return (d * d + 2 * d / free) / (d + d * (d + 1) / free)


def gaussian_norm_variation(d: int) -> float:
    """The coefficient of variation of an isotropic Gaussian's norm, of the chi distribution: about 1/sqrt(2 d)."""
    mean_squared = 2 * np.exp(2 * (gammaln((d + 1) / 2) - gammaln(d / 2)))
    return float(np.sqrt(d / mean_squared - 1))


def gaussian_cosine(d: int) -> float:
    """The mean of |cos| between two independent isotropic directions in d dimensions: about sqrt(2 / (pi d))."""
    return float(np.exp(gammaln(d / 2) - gammaln((d + 1) / 2)) / np.sqrt(np.pi))
