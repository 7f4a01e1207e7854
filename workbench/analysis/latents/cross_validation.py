"""Mixtures judged by images they were not fitted to: the likelihood of each number of modes, and what it chooses."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from workbench.analysis.stats.mixtures import Covariance, Mixture, fit_sweeps

NUM_FOLDS, NUM_RESAMPLES = 5, 200


@dataclass(frozen=True, eq=False)
class CrossValidatedSweep:
    """A sweep over numbers of modes by five-fold cross-validation: every image is judged by four fifths of others."""

    modes: np.ndarray  # (m,) rising
    likelihood: np.ndarray  # (n, m) log-density, nats an image
    stability: (
        np.ndarray
    )  # (m,) mean adjusted Rand index between the five fits' assignments of all n images

    @property
    def gain(self) -> np.ndarray:
        """Nats an image over one mode, (m,)."""
        return (self.likelihood - self.likelihood[:, :1]).mean(axis=0)

    @property
    def gain_error(self) -> np.ndarray:
        """The paired standard error of the gain, (m,)."""
        return (self.likelihood - self.likelihood[:, :1]).std(axis=0, ddof=1) / np.sqrt(
            len(self.likelihood)
        )

    @property
    def best(self) -> int:
        """The fewest modes within one standard error of the highest likelihood."""
        return int(self.modes[_fewest(self.likelihood)])

    def range(self, seed: int) -> tuple[int, int]:
        """The 5th and 95th percentile of that choice over images drawn again with replacement."""
        random, n = np.random.default_rng(seed), len(self.likelihood)
        chosen = [
            self.modes[_fewest(self.likelihood[random.integers(0, n, n)])]
            for _ in range(NUM_RESAMPLES)
        ]
        low, high = np.percentile(chosen, [5, 95], method="nearest")
        return int(low), int(high)


def mode_grid(most: int) -> np.ndarray:
    """The numbers of modes to try: every one to 16, then ever fewer, and the most."""
    sparse = (18, 20, 24, 28, 32, 40, 48, 56, 64)
    return np.unique([k for k in (*range(1, 17), *sparse, most) if k <= most])


def cross_validate_mixtures(
    clouds: Sequence[np.ndarray], modes: np.ndarray, covariance: Covariance, seed: int
) -> tuple[list[CrossValidatedSweep], list[Mixture]]:
    """Each cloud of points (n, d) cross-validated, and the first one's mixtures fitted to all its points."""
    from sklearn.model_selection import KFold

    splits = [
        list(KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(cloud)) for cloud in clouds
    ]
    parts = [cloud[rest] for cloud, folds in zip(clouds, splits, strict=True) for rest, _ in folds]
    whole, *fits = fit_sweeps([clouds[0], *parts], modes, covariance, seed)
    found = []
    for i, (cloud, folds) in enumerate(zip(clouds, splits, strict=True)):
        own = fits[NUM_FOLDS * i : NUM_FOLDS * (i + 1)]
        likelihood = np.empty((len(cloud), len(modes)))
        for (_, out), mixtures in zip(folds, own, strict=True):
            likelihood[out] = np.stack(
                [mixture.density(cloud[out]) for mixture in mixtures], axis=1
            )
        found.append(
            CrossValidatedSweep(
                modes, likelihood, _stability(cloud, own) if i == 0 else np.full(len(modes), np.nan)
            )
        )
    return found, whole


def _stability(points: np.ndarray, fits: Sequence[Sequence[Mixture]]) -> np.ndarray:
    from sklearn.metrics import adjusted_rand_score

    by_modes = [
        [mixture.assign(points) for mixture in column] for column in zip(*fits, strict=True)
    ]
    return np.array(
        [np.mean([adjusted_rand_score(*pair) for pair in combinations(of, 2)]) for of in by_modes]
    )


def _fewest(likelihood: np.ndarray) -> int:
    """The first column whose mean is within one standard error, paired over images, of the highest mean."""
    lost = likelihood[:, [likelihood.mean(axis=0).argmax()]] - likelihood
    error = lost.std(axis=0, ddof=1) / np.sqrt(len(lost))
    return int(np.flatnonzero(lost.mean(axis=0) <= error)[0])
