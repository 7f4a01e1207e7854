"""Gaussian mixtures by EM, fitted from many starts at once, for sweeps over the number of modes.

The log-density of a Gaussian is linear in (1, x, x x^T), so both steps of EM are one matrix product
over all starts. All starts run a few rounds and the better ones run more. One start is warm: it
takes the means of the previous number of modes and the points that those explain worst. The other
starts are k-means++.

References
----------
Biernacki et al. (2003), "Choosing starting values for the EM algorithm" (short runs of EM).
Arthur and Vassilvitskii (2007), "k-means++: the advantages of careful seeding".
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.analysis.stats.threads import one_thread
from workbench.core.progress import report_progress

Covariance = Literal["diag", "full", "tied"]
NUM_STARTS = 12
NUM_KMEANS_ROUNDS = 8  # before EM
STAGES = ((6, 4), (20, 2), (100, 1))  # rounds of EM, and the number of starts kept after them
MAX_FINAL_ROUNDS = 500  # of EM in double precision, for the remaining start
TOLERANCE_NATS = 1e-3  # EM has converged if the gain per point and round is smaller
VARIANCE_FLOOR = 1e-3  # added to every variance; the variance of the points is 1
MIN_LOG_POSTERIOR = -60  # products of subnormal numbers are ten times slower


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of k Gaussians in d dimensions.

    Attributes
    ----------
    means : ndarray of float, shape (k, d)
        Means of the Gaussians.
    natural : ndarray of float, shape (k, f)
        Coefficients of (1, x, x x^T) in the log of weight times density.
    covariance : {"diag", "full", "tied"}
        Form of the covariances. `tied` means one matrix shared by all Gaussians.
    """

    means: np.ndarray
    natural: np.ndarray
    covariance: Covariance

    def joint(self, points: np.ndarray) -> np.ndarray:
        """Compute the log of weight times density of each Gaussian.

        Parameters
        ----------
        points : ndarray of float, shape (n, d)
            One point per row.

        Returns
        -------
        ndarray of float, shape (k, n)
            In nats.
        """
        return self.natural @ _statistics(points, self.covariance)

    def density(self, points: np.ndarray) -> np.ndarray:
        """Compute the log-density of the mixture.

        Parameters
        ----------
        points : ndarray of float, shape (n, d)
            One point per row.

        Returns
        -------
        ndarray of float, shape (n,)
            In nats.
        """
        return np.logaddexp.reduce(self.joint(points), axis=0)

    def assign(self, points: np.ndarray) -> np.ndarray:
        """Return the most probable Gaussian of each point.

        Parameters
        ----------
        points : ndarray of float, shape (n, d)
            One point per row.

        Returns
        -------
        ndarray of int, shape (n,)
        """
        return self.joint(points).argmax(axis=0)

    def bic(self, points: np.ndarray) -> float:
        """Compute the Bayesian information criterion; lower is better.

        Parameters
        ----------
        points : ndarray of float, shape (n, d)
            One point per row.

        Returns
        -------
        float
        """
        k, d = self.means.shape
        matrix_size = d * (d + 1) // 2
        covariance_size = {"diag": k * d, "full": k * matrix_size, "tied": matrix_size}
        num_parameters = k * d + k - 1 + covariance_size[self.covariance]
        return float(num_parameters * math.log(len(points)) - 2 * self.density(points).sum())


def fit_sweeps(
    clouds: Sequence[np.ndarray], modes: Sequence[int], covariance: Covariance, seed: int
) -> list[list[Mixture]]:
    """Fit mixtures with several numbers of modes to several clouds of points, and report progress.

    The sweeps run in threads because NumPy releases the interpreter lock during matrix products.
    Processes take longer to start than most sweeps.

    Parameters
    ----------
    clouds : sequence of ndarray of float, each of shape (n, d)
        Clouds of points whose variance is about 1.
    modes : sequence of int
        Numbers of modes, in ascending order.
    covariance : {"diag", "full", "tied"}
        Shape of the covariances: diagonal, full, or one full covariance that all modes share
        (tied).
    seed : int
        Seed of the first cloud. Cloud i uses `seed + i`.

    Returns
    -------
    list of list of Mixture
        One list per cloud, with one mixture per number of modes.
    """
    from joblib import cpu_count

    sweeps: list[list[Mixture]] = []
    with one_thread(), ThreadPoolExecutor(cpu_count()) as pool:
        jobs = [
            pool.submit(fit_sweep, cloud, modes, covariance, seed + i)
            for i, cloud in enumerate(clouds)
        ]
        try:
            for job in jobs:
                sweeps.append(job.result())
                report_progress(len(sweeps), len(clouds))
        finally:
            for job in jobs:
                job.cancel()
    return sweeps


def fit_sweep(
    points: np.ndarray, modes: Sequence[int], covariance: Covariance, seed: int
) -> list[Mixture]:
    """Fit one mixture per number of modes.

    Parameters
    ----------
    points : ndarray of float, shape (n, d)
        Points whose variance is about 1.
    modes : sequence of int
        Numbers of modes, in ascending order.
    covariance : {"diag", "full", "tied"}
        Shape of the covariances: diagonal, full, or one full covariance that all modes share
        (tied).
    seed : int
        Seed of all random draws.

    Returns
    -------
    list of Mixture
    """
    random = np.random.default_rng(seed)
    mixtures: list[Mixture] = []
    for k in modes:
        warm = mixtures[-1] if mixtures else None
        mixtures.append(fit_mixture(points, k, covariance, random, warm=warm))
    return mixtures


def fit_mixture(
    points: np.ndarray,
    modes: int,
    covariance: Covariance,
    random: np.random.Generator,
    warm: Mixture | None = None,
) -> Mixture:
    """Fit a mixture from several starts and return the one with the highest likelihood.

    Parameters
    ----------
    points : ndarray of float, shape (n, d)
        Points whose variance is about 1.
    modes : int
        Number of Gaussians.
    covariance : {"diag", "full", "tied"}
        Shape of the covariances: diagonal, full, or one full covariance that all modes share
        (tied).
    random : numpy.random.Generator
        Source of the starts.
    warm : Mixture, optional
        A mixture of fewer modes. Its means, completed by the points it explains worst, are one
        more start.

    Returns
    -------
    Mixture

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> points = random.normal(size=(200, 1)) / 10 + np.repeat([[-1.0], [1.0]], 100, axis=0)
    >>> sorted(fit_mixture(points, 2, "diag", random).means.round(1).ravel().tolist())
    [-1.0, 1.0]
    """
    statistics = _statistics(points, covariance)
    d = points.shape[1]
    # Single precision is twice as fast and accurate enough to rank the starts.
    points_32, statistics_32 = points.astype(np.float32), statistics.astype(np.float32)
    centers = _kmeans_plus_plus(points_32, modes, random, NUM_STARTS if modes > 1 else 1)
    if warm is not None and len(warm.means) < modes:
        worst = points[np.argsort(warm.density(points))[: modes - len(warm.means)]]
        warm_start = np.concatenate([warm.means, worst])[None].astype(np.float32)
        centers = np.concatenate([centers, warm_start])
    natural, _ = _maximize(_sums(_kmeans(points_32, centers), statistics_32), d, covariance)
    for rounds, num_kept in STAGES:
        natural, likelihood = _run_em(statistics_32, natural, d, covariance, rounds)
        natural = natural[np.argsort(-likelihood, kind="stable")[:num_kept]]
    natural, _ = _run_em(statistics, natural.astype(np.float64), d, covariance, MAX_FINAL_ROUNDS)
    posterior, _ = _posterior(natural, statistics)
    natural, means = _maximize(_sums(posterior, statistics), d, covariance)
    return Mixture(means=means[0], natural=natural[0], covariance=covariance)


def _statistics(points: np.ndarray, covariance: Covariance) -> np.ndarray:
    """Compute 1, x and x x^T (or its diagonal) of each point, shape (f, n)."""
    n, d = points.shape
    if covariance == "diag":
        squares = points * points
    else:
        squares = (points[:, :, None] * points[:, None]).reshape(n, d * d)
    return np.ascontiguousarray(np.concatenate([np.ones((n, 1)), points, squares], axis=1).T)


def _kmeans_plus_plus(
    points: np.ndarray, modes: int, random: np.random.Generator, starts: int
) -> np.ndarray:
    """Draw centers (starts, modes, d) in proportion to their squared distance to previous ones."""
    centers = [points[random.integers(0, len(points), starts)]]
    distance = np.full((starts, len(points)), np.inf)
    for _ in range(modes - 1):
        distance = np.minimum(distance, _squared_distances(points, centers[-1]))
        distance = np.maximum(distance, 1e-12)
        cumulative = distance.cumsum(axis=1)
        thresholds = random.random(starts) * cumulative[:, -1]
        indices = [
            np.searchsorted(row[:-1], x) for row, x in zip(cumulative, thresholds, strict=True)
        ]
        centers.append(points[indices])
    return np.stack(centers, axis=1)


def _kmeans(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Run k-means from centers (starts, modes, d) and return the assignment as 0 and 1.

    The shape of the assignment is (starts, modes, n).
    """
    for i in range(NUM_KMEANS_ROUNDS + 1):
        distance = _squared_distances(points, centers)
        nearest = (distance == distance.min(axis=1, keepdims=True)).astype(points.dtype)
        if i < NUM_KMEANS_ROUNDS:
            count = nearest.sum(axis=2)[..., None]
            centers = np.where(count > 0, nearest @ points / np.maximum(count, 1), centers)
    return nearest


def _squared_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Compute squared distances (..., n) of points (n, d) from centers (..., d)."""
    lengths = (centers * centers).sum(axis=-1)[..., None] + (points * points).sum(axis=1)
    return lengths - 2 * centers @ points.T


def _run_em(
    statistics: np.ndarray, natural: np.ndarray, d: int, covariance: Covariance, max_rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run EM until no start improves; return parameters and mean log-likelihood of each start."""
    previous: np.ndarray | float = -np.inf
    for _ in range(max_rounds):
        posterior, likelihood = _posterior(natural, statistics)
        if np.all(likelihood - previous < TOLERANCE_NATS):
            break
        natural, _ = _maximize(_sums(posterior, statistics), d, covariance)
        previous = likelihood
    return natural, likelihood


def _posterior(natural: np.ndarray, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute posteriors (starts, modes, n) and the mean log-likelihood (starts,)."""
    starts, modes, size = natural.shape
    joint = (natural.reshape(-1, size) @ statistics).reshape(starts, modes, -1)
    top = joint.max(axis=1, keepdims=True)
    joint -= top
    np.maximum(joint, MIN_LOG_POSTERIOR, out=joint)
    np.exp(joint, out=joint)
    total = joint.sum(axis=1, keepdims=True)
    joint /= total
    return joint, (np.log(total) + top).mean(axis=(1, 2))


def _sums(posterior: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Sum the statistics over points, weighted by the posterior: (starts, modes, f)."""
    starts, modes, n = posterior.shape
    return (posterior.reshape(-1, n) @ statistics.T).reshape(starts, modes, -1)


def _maximize(sums: np.ndarray, d: int, covariance: Covariance) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters (starts, modes, f) and means (starts, modes, d) that fit best."""
    count = sums[..., :1] + 1e-12
    mean, square = sums[..., 1 : d + 1] / count, sums[..., d + 1 :] / count
    weight = (count / count.sum(axis=1, keepdims=True))[..., 0]
    if covariance == "diag":
        variance = np.maximum(square - mean * mean, 0) + VARIANCE_FLOOR
        precision = 1 / variance
        linear = mean / variance
        logdet = np.log(variance).sum(axis=-1)
    else:
        matrix: np.ndarray = square.reshape(*mean.shape, d) - mean[..., None] * mean[..., None, :]
        if covariance == "tied":
            shared = np.einsum("rk,rkij->rij", weight, matrix)
            matrix = np.broadcast_to(shared[:, None], matrix.shape)
        matrix = matrix + VARIANCE_FLOOR * np.eye(d, dtype=matrix.dtype)
        inverse = np.linalg.inv(matrix)
        precision = inverse.reshape(*mean.shape[:2], d * d)
        linear = (inverse @ mean[..., None])[..., 0]
        logdet = np.linalg.slogdet(matrix)[1]
    constant = (
        np.log(weight) - (d * math.log(2 * math.pi) + logdet + (mean * linear).sum(axis=-1)) / 2
    )
    return np.concatenate([constant[..., None], linear, -precision / 2], axis=-1), mean
