"""Mixtures of Gaussians by EM, many starts at once, for sweeps over the number of modes.

A Gaussian's log-density is linear in (1, x, x x^T), so that both steps of EM are one matrix product over all starts,
which run a few rounds each, the better ones more (Biernacki et al. 2003, short runs of EM). Starts are k-means++
(Arthur and Vassilvitskii 2007); one is warm: the means of the number of modes before, and the points it explains worst.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.core.progress import report_progress

Covariance = Literal["diag", "full", "tied"]
NUM_STARTS, NUM_KMEANS_ROUNDS = 12, 8  # starts, and rounds of k-means before EM
STAGES = ((6, 4), (20, 2), (100, 1))  # rounds of EM, and how many starts are kept after them
MAX_FINAL_ROUNDS = 500  # most rounds of EM of the one that is left, in double precision
TOLERANCE_NATS = 1e-3  # nats a point and round, under which EM has converged
VARIANCE_FLOOR = 1e-3  # added to every variance, where the points' own is 1


@dataclass(frozen=True, eq=False)
class Mixture:
    """k Gaussians in d dimensions."""

    means: np.ndarray  # (k, d)
    natural: (
        np.ndarray
    )  # (k, f): what (1, x, x x^T) is multiplied with to give the log of weight times density
    covariance: Covariance

    def joint(self, points: np.ndarray) -> np.ndarray:
        """The log of weight times density, in nats, of each Gaussian at points (n, d): (k, n)."""
        return self.natural @ _statistics(points, self.covariance)

    def density(self, points: np.ndarray) -> np.ndarray:
        """The log-density, in nats, of points (n, d): (n,)."""
        return np.logaddexp.reduce(self.joint(points), axis=0)

    def assign(self, points: np.ndarray) -> np.ndarray:
        """The most probable Gaussian of points (n, d): int (n,)."""
        return self.joint(points).argmax(axis=0)

    def bic(self, points: np.ndarray) -> float:
        """Schwarz's criterion; lower is better."""
        k, d = self.means.shape
        square = d * (d + 1) // 2
        free = k * d + k - 1 + {"diag": k * d, "full": k * square, "tied": square}[self.covariance]
        return float(free * math.log(len(points)) - 2 * self.density(points).sum())


def fit_sweeps(
    clouds: Sequence[np.ndarray], modes: Sequence[int], covariance: Covariance, seed: int
) -> list[list[Mixture]]:
    """For each cloud of points (n, d) a mixture of each number of modes, in rising order; tells its progress.

    In threads, as numpy's products let go of the interpreter: processes take longer to start than most sweeps.
    """
    from joblib import cpu_count

    found: list[list[Mixture]] = []
    with _one_thread_each(), ThreadPoolExecutor(cpu_count()) as pool:
        jobs = [
            pool.submit(fit_sweep, cloud, modes, covariance, seed + i) for i, cloud in enumerate(clouds)
        ]
        try:
            for job in jobs:
                found.append(job.result())
                report_progress(len(found), len(clouds))
        finally:
            for job in jobs:
                job.cancel()
    return found


def fit_sweep(
    points: np.ndarray, modes: Sequence[int], covariance: Covariance, seed: int
) -> list[Mixture]:
    """A mixture of each number of modes, in rising order, fitted to points (n, d)."""
    random, found = np.random.default_rng(seed), []
    for k in modes:
        found.append(fit_mixture(points, k, covariance, random, warm=found[-1] if found else None))
    return found


def fit_mixture(
    points: np.ndarray,
    modes: int,
    covariance: Covariance,
    random: np.random.Generator,
    warm: Mixture | None = None,
) -> Mixture:
    """The likeliest mixture from several starts, for points (n, d) whose variance is about 1."""
    statistics, d = _statistics(points, covariance), points.shape[1]
    rough, light = (
        points.astype(np.float32),
        statistics.astype(np.float32),
    )  # twice as fast, and enough to choose by
    centres = _spread_out(rough, modes, random, NUM_STARTS if modes > 1 else 1)
    if warm is not None and len(warm.means) < modes:
        worst = points[np.argsort(warm.density(points))[: modes - len(warm.means)]]
        centres = np.concatenate(
            [centres, np.concatenate([warm.means, worst])[None].astype(np.float32)]
        )
    natural, _ = _maximised(_sums(_lloyd(rough, centres), light), d, covariance)
    for rounds, kept in STAGES:
        natural, likelihood = _rounds(light, natural, d, covariance, rounds)
        natural = natural[np.argsort(-likelihood, kind="stable")[:kept]]
    natural, _ = _rounds(statistics, natural.astype(np.float64), d, covariance, MAX_FINAL_ROUNDS)
    natural, means = _maximised(
        _sums(_posterior(natural, statistics)[0], statistics), d, covariance
    )
    return Mixture(means[0], natural[0], covariance)


def _one_thread_each() -> AbstractContextManager:
    """Thousands of small matrix products: a library's own threads, waiting for each other, cost far more."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _statistics(points: np.ndarray, covariance: Covariance) -> np.ndarray:
    """1, x and x x^T (or its diagonal) of each point: (f, n)."""
    n, d = points.shape
    squares = (
        points * points
        if covariance == "diag"
        else (points[:, :, None] * points[:, None]).reshape(n, d * d)
    )
    return np.ascontiguousarray(np.concatenate([np.ones((n, 1)), points, squares], axis=1).T)


def _spread_out(
    points: np.ndarray, modes: int, random: np.random.Generator, starts: int
) -> np.ndarray:
    """Points (starts, modes, d), each drawn in proportion to its squared distance from those before it."""
    chosen = [points[random.integers(0, len(points), starts)]]
    far = np.full((starts, len(points)), np.inf)
    for _ in range(modes - 1):
        far = np.maximum(np.minimum(far, _distances(points, chosen[-1])), 1e-12)
        reach = far.cumsum(axis=1)
        drawn = random.random(starts) * reach[:, -1]
        places = [np.searchsorted(r[:-1], x) for r, x in zip(reach, drawn, strict=True)]
        chosen.append(points[places])
    return np.stack(chosen, axis=1)


def _lloyd(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Rounds of k-means from centres (starts, modes, d); then 1 where a centre is the nearest, (starts, modes, n)."""
    for i in range(NUM_KMEANS_ROUNDS + 1):
        distance = _distances(points, centres)
        nearest = (distance == distance.min(axis=1, keepdims=True)).astype(points.dtype)
        if i < NUM_KMEANS_ROUNDS:
            count = nearest.sum(axis=2)[..., None]
            centres = np.where(count > 0, nearest @ points / np.maximum(count, 1), centres)
    return nearest


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (..., n) of points (n, d) from centres (..., d)."""
    lengths = (centres * centres).sum(axis=-1)[..., None] + (points * points).sum(axis=1)
    return lengths - 2 * centres @ points.T


def _rounds(
    statistics: np.ndarray, natural: np.ndarray, d: int, covariance: Covariance, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds of EM until no start gains, and the mean log-likelihood of each start."""
    before = -np.inf
    for _ in range(most):
        posterior, likelihood = _posterior(natural, statistics)
        if np.all(likelihood - before < TOLERANCE_NATS):
            break
        natural, before = _maximised(_sums(posterior, statistics), d, covariance)[0], likelihood
    return natural, likelihood


def _posterior(natural: np.ndarray, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each Gaussian's share of each point (starts, modes, n), and the mean log-likelihood (starts,)."""
    starts, modes, size = natural.shape
    joint = (natural.reshape(-1, size) @ statistics).reshape(starts, modes, -1)
    top = joint.max(axis=1, keepdims=True)
    joint -= top
    np.maximum(
        joint, -60, out=joint
    )  # numbers near the least a float can hold make products ten times slower
    np.exp(joint, out=joint)
    total = joint.sum(axis=1, keepdims=True)
    joint /= total
    return joint, (np.log(total) + top).mean(axis=(1, 2))


def _sums(posterior: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """The sums (starts, modes, f) of the statistics over points, each counted by its share."""
    starts, modes, n = posterior.shape
    return (posterior.reshape(-1, n) @ statistics.T).reshape(starts, modes, -1)


def _maximised(sums: np.ndarray, d: int, covariance: Covariance) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest natural parameters (starts, modes, f) and means (starts, modes, d), given sums of statistics."""
    count = sums[..., :1] + 1e-12
    mean, square = sums[..., 1 : d + 1] / count, sums[..., d + 1 :] / count
    weight = (count / count.sum(axis=1, keepdims=True))[..., 0]
    if covariance == "diag":
        variance = np.maximum(square - mean * mean, 0) + VARIANCE_FLOOR
        precision, linear, logdet = 1 / variance, mean / variance, np.log(variance).sum(axis=-1)
    else:
        spread = square.reshape(*mean.shape, d) - mean[..., None] * mean[..., None, :]
        if covariance == "tied":
            spread = np.broadcast_to(
                np.einsum("rk,rkij->rij", weight, spread)[:, None], spread.shape
            )
        spread = spread + VARIANCE_FLOOR * np.eye(d, dtype=spread.dtype)
        inverse, logdet = np.linalg.inv(spread), np.linalg.slogdet(spread)[1]
        precision, linear = (
            inverse.reshape(*mean.shape[:2], d * d),
            (inverse @ mean[..., None])[..., 0],
        )
    constant = (
        np.log(weight) - (d * math.log(2 * math.pi) + logdet + (mean * linear).sum(axis=-1)) / 2
    )
    return np.concatenate([constant[..., None], linear, -precision / 2], axis=-1), mean
