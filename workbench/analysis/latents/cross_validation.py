"""Cross-validation of Gaussian mixtures over the number of modes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from workbench.analysis.stats.mixtures import Covariance, Mixture, fit_sweeps

NUM_FOLDS = 5
NUM_RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class CrossValidatedSweep:
    """Held-out likelihoods over numbers of modes, by five-fold cross-validation.

    Attributes
    ----------
    modes : ndarray of int, shape (m,)
        Numbers of modes, in ascending order.
    likelihood : ndarray of float, shape (n, m)
        Log-density of each image, in nats, under the mixture of the four folds without it.
    stability : ndarray of float, shape (m,)
        Mean adjusted Rand index between the assignments of all n images by the five fits. NaN if
        it was not computed.
    """

    modes: np.ndarray
    likelihood: np.ndarray
    stability: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """Mean gain in log-density over one mode, in nats per image, shape (m,)."""
        return (self.likelihood - self.likelihood[:, :1]).mean(axis=0)

    @property
    def gain_error(self) -> np.ndarray:
        """Paired standard error of the gain, shape (m,)."""
        gains = self.likelihood - self.likelihood[:, :1]
        return gains.std(axis=0, ddof=1) / np.sqrt(len(self.likelihood))

    @property
    def best(self) -> int:
        """Fewest modes within one standard error of the highest likelihood."""
        return int(self.modes[_one_standard_error_rule(self.likelihood)])

    def range(self, seed: int) -> tuple[int, int]:
        """Return the 5th and 95th percentile of `best` over bootstrap samples of the images.

        Parameters
        ----------
        seed : int
            Seed of the bootstrap.

        Returns
        -------
        low, high : int
        """
        random = np.random.default_rng(seed)
        n = len(self.likelihood)
        selected = [
            self.modes[_one_standard_error_rule(self.likelihood[random.integers(0, n, n)])]
            for _ in range(NUM_RESAMPLES)
        ]
        low, high = np.percentile(selected, [5, 95], method="nearest")
        return int(low), int(high)


def mode_grid(max_modes: int) -> np.ndarray:
    """Return the numbers of modes to try: all up to 16, then increasingly sparse ones.

    Parameters
    ----------
    max_modes : int
        Largest number of modes. It is always included.

    Returns
    -------
    ndarray of int, shape (m,)

    Examples
    --------
    >>> mode_grid(4)
    array([1, 2, 3, 4])
    >>> mode_grid(22)[-4:]
    array([16, 18, 20, 22])
    """
    sparse = (18, 20, 24, 28, 32, 40, 48, 56, 64)
    return np.unique([k for k in (*range(1, 17), *sparse, max_modes) if k <= max_modes])


def cross_validate_mixtures(
    clouds: Sequence[np.ndarray], modes: np.ndarray, covariance: Covariance, seed: int
) -> tuple[list[CrossValidatedSweep], list[Mixture]]:
    """Cross-validate the number of modes of several clouds of points.

    Parameters
    ----------
    clouds : sequence of ndarray of float, each of shape (n, d)
        Clouds of points whose variance is about 1.
    modes : ndarray of int, shape (m,)
        Numbers of modes, in ascending order.
    covariance : {"diag", "full", "tied"}
        Shape of the covariances: diagonal, full, or one full covariance that all modes share
        (tied).
    seed : int
        Seed of the folds and the starts.

    Returns
    -------
    sweeps : list of CrossValidatedSweep
        One per cloud. The stability is computed for the first cloud only.
    mixtures : list of Mixture
        Fits to all points of the first cloud, one per number of modes.
    """
    from sklearn.model_selection import KFold

    splits = [
        list(KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(cloud)) for cloud in clouds
    ]
    training_sets = [
        cloud[train] for cloud, folds in zip(clouds, splits, strict=True) for train, _ in folds
    ]
    mixtures, *fold_fits = fit_sweeps([clouds[0], *training_sets], modes.tolist(), covariance, seed)
    sweeps = []
    for i, (cloud, folds) in enumerate(zip(clouds, splits, strict=True)):
        fits = fold_fits[NUM_FOLDS * i : NUM_FOLDS * (i + 1)]
        likelihood = np.empty((len(cloud), len(modes)))
        for (_, test), fold_mixtures in zip(folds, fits, strict=True):
            densities = [mixture.density(cloud[test]) for mixture in fold_mixtures]
            likelihood[test] = np.stack(densities, axis=1)
        stability = _stability(cloud, fits) if i == 0 else np.full(len(modes), np.nan)
        sweeps.append(CrossValidatedSweep(modes=modes, likelihood=likelihood, stability=stability))
    return sweeps, mixtures


def _stability(points: np.ndarray, fits: Sequence[Sequence[Mixture]]) -> np.ndarray:
    from sklearn.metrics import adjusted_rand_score

    means = []
    for mixtures in zip(*fits, strict=True):
        assignments = [mixture.assign(points) for mixture in mixtures]
        means.append(np.mean([adjusted_rand_score(a, b) for a, b in combinations(assignments, 2)]))
    return np.array(means)


def _one_standard_error_rule(likelihood: np.ndarray) -> int:
    """Return the first column within one paired standard error of the column of highest mean."""
    loss = likelihood[:, [likelihood.mean(axis=0).argmax()]] - likelihood
    error = loss.std(axis=0, ddof=1) / np.sqrt(len(loss))
    return int(np.flatnonzero(loss.mean(axis=0) <= error)[0])
