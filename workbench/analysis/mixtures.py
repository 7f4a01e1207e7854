"""Mixtures of Gaussians by EM, several starts at once, and what they say of points they were not fitted to.

A Gaussian's log-density is linear in (1, x, x x^T), so both steps of EM are one matrix product over all starts.
Starts as in k-means++ (Arthur and Vassilvitskii 2007); a few rounds of each, then the best alone (Biernacki et al.
2003, "short runs of EM"). One more start is warm: the previous number's means and the point they explain worst.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Covariance = Literal["diag", "full", "tied"]
FOLDS, STARTS, SHORT, LONG, LLOYD = 5, 10, 6, 500, 8
TOLERANCE = 1e-3  # nats a point and round, below which EM has converged
WARM = True
STAGES = ((6, 3), (30, 1))
DT = np.float32
FLOOR = 1e-3  # added to every variance, where the points' own is 1


@dataclass(frozen=True, eq=False)
class Mixture:
    """k Gaussians in d dimensions."""

    means: np.ndarray  # (k, d)
    natural: np.ndarray  # (k, f): weights of (1, x, x x^T) in the log of weight times density
    covariance: Covariance

    def joint(self, points: np.ndarray) -> np.ndarray:
        """The log of weight times density, in nats, (k, n), of points (n, d)."""
        return self.natural @ _statistics(points, self.covariance)

    def density(self, points: np.ndarray) -> np.ndarray:
        """The log-density, in nats, (n,)."""
        return np.logaddexp.reduce(self.joint(points), axis=0)

    def assign(self, points: np.ndarray) -> np.ndarray:
        """The most probable Gaussian, int (n,)."""
        return self.joint(points).argmax(axis=0)

    def bic(self, points: np.ndarray) -> float:
        """Schwarz's criterion; lower is better."""
        (k, d), square = self.means.shape, self.means.shape[1] * (self.means.shape[1] + 1) // 2
        shape = {"diag": k * d, "full": k * square, "tied": square}[self.covariance]
        return float((k * d + k - 1 + shape) * np.log(len(points)) - 2 * self.density(points).sum())


def sweep(points: np.ndarray, modes: Sequence[int], covariance: Covariance, seed: int) -> list[Mixture]:
    """A mixture of each number of modes, in rising order, fitted to points (n, d)."""
    random, found = np.random.default_rng(seed), []
    for k in modes:
        found.append(fit(points, k, covariance, random, warm=found[-1] if found else None))
    return found


def fit(
    points: np.ndarray, modes: int, covariance: Covariance, random: np.random.Generator, warm: Mixture | None = None
) -> Mixture:
    """The likeliest mixture of several starts."""
    statistics = _statistics(points, covariance)
    rough, light = points.astype(DT), statistics.astype(DT)
    starts = _spread_out(rough, modes, random, STARTS if modes > 1 else 1)
    if WARM and warm is not None and len(warm.means) < modes:
        worst = points[np.argsort(warm.density(points))[: modes - len(warm.means)]]
        starts = np.concatenate([starts, np.concatenate([warm.means, worst])[None].astype(DT)])
    nearest = _nearest(rough, starts)
    for _ in range(LLOYD):
        sums = nearest @ rough
        count = nearest.sum(axis=2)[..., None]
        starts = np.where(count > 0, sums / np.maximum(count, 1), starts)
        nearest = _nearest(rough, starts)
    natural, _ = _maximised(_sums(nearest, light), points.shape[1], covariance)
    for rounds, kept in STAGES:
        natural, likelihood = _expected_maximised(light, natural, covariance, points.shape[1], rounds)
        natural = natural[np.argsort(-likelihood, kind="stable")[:kept]]
    best = natural.astype(float)
    natural, _ = _expected_maximised(statistics, best, covariance, points.shape[1], LONG)
    sums = _sums(_posterior(natural, statistics)[0], statistics)
    natural, means = _maximised(sums, points.shape[1], covariance)
    return Mixture(means[0], natural[0], covariance)


def _statistics(points: np.ndarray, covariance: Covariance) -> np.ndarray:
    """(1, x, x x^T) of each point, or its diagonal, (f, n)."""
    n, d = points.shape
    squares = points * points if covariance == "diag" else (points[:, :, None] * points[:, None]).reshape(n, d * d)
    return np.ascontiguousarray(np.concatenate([np.ones((n, 1)), points, squares], axis=1).T)


def _spread_out(points: np.ndarray, modes: int, random: np.random.Generator, starts: int) -> np.ndarray:
    """Points (starts, modes, d), each drawn in proportion to its squared distance from those before."""
    chosen = [points[random.integers(0, len(points), starts)]]
    norms, far = (points * points).sum(axis=1), np.full((starts, len(points)), np.inf)
    for _ in range(modes - 1):
        last = chosen[-1]
        np.minimum(far, norms - 2 * last @ points.T + (last * last).sum(axis=1)[:, None], out=far)
        np.maximum(far, 1e-12, out=far)
        reach = far.cumsum(axis=1)
        drawn = random.random(starts) * reach[:, -1]
        chosen.append(points[[np.searchsorted(r, x) for r, x in zip(reach, drawn, strict=True)]])
    return np.stack(chosen, axis=1)


def _nearest(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """One where a start's centre is the nearest to a point, (starts, modes, n)."""
    distance = (starts * starts).sum(axis=2)[:, :, None] - 2 * starts @ points.T
    return (distance == distance.min(axis=1, keepdims=True)).astype(starts.dtype)


def _sums(posterior: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    starts, modes, n = posterior.shape
    return (posterior.reshape(-1, n) @ statistics.T).reshape(starts, modes, -1)


def _posterior(natural: np.ndarray, statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each Gaussian's share of each point (starts, modes, n), and the mean log-likelihood (starts,)."""
    starts, modes, size = natural.shape
    joint = (natural.reshape(-1, size) @ statistics).reshape(starts, modes, -1)
    top = joint.max(axis=1, keepdims=True)
    joint -= top
    np.maximum(joint, -60, out=joint)  # numbers too small for their type make products ten times as slow
    np.exp(joint, out=joint)
    total = joint.sum(axis=1, keepdims=True)
    joint /= total
    return joint, (np.log(total) + top).mean(axis=(1, 2))


def _maximised(sums: np.ndarray, d: int, covariance: Covariance) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest parameters given each Gaussian's sums of statistics: natural ones and means."""
    count = sums[..., :1] + 1e-12
    mean, square = sums[..., 1 : d + 1] / count, sums[..., d + 1 :] / count
    weight = (count / count.sum(axis=1, keepdims=True))[..., 0]
    if covariance == "diag":
        variance = np.maximum(square - mean * mean, 0) + FLOOR
        shape, linear, logdet = 1 / variance, mean / variance, np.log(variance).sum(axis=-1)
    else:
        spread = square.reshape(*mean.shape, d) - mean[..., None] * mean[..., None, :]
        if covariance == "tied":
            spread = np.broadcast_to(np.einsum("rk,rkij->rij", weight, spread)[:, None], spread.shape)
        spread = spread + FLOOR * np.eye(d)
        precision, logdet = np.linalg.inv(spread), np.linalg.slogdet(spread)[1]
        shape, linear = precision.reshape(*mean.shape[:2], d * d), (precision @ mean[..., None])[..., 0]
    constant = np.log(weight) - (d * math.log(2 * math.pi) + logdet + (mean * linear).sum(axis=-1)) / 2
    return np.concatenate([constant[..., None], linear, -shape / 2], axis=-1), mean


def _expected_maximised(
    statistics: np.ndarray, natural: np.ndarray, covariance: Covariance, d: int, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds of EM until no start gains, and each start's mean log-likelihood."""
    before = -np.inf
    for _ in range(rounds):
        posterior, likelihood = _posterior(natural, statistics)
        if np.all(likelihood - before < TOLERANCE):
            break
        natural, _ = _maximised(_sums(posterior, statistics), d, covariance)
        before = likelihood
    return natural, likelihood
