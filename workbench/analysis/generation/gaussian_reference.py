"""Distances of images that need no training: decoded draws from Gaussians.

A generator that has learned the means of the classes and one covariance is as far from real images
as the class Gaussians. One that is farther has not learned second moments yet, so that its distance
measures how fast it learns, and not how well a latent space can be generated. An untrained flow is
as far as isotropic noise.
"""

from dataclasses import dataclass

import numpy as np

from workbench.analysis.generation.feature_distances import frechet_distance
from workbench.core.errors import UserError

CLASS_GAUSSIANS = "class Gaussians"
ISOTROPIC_NOISE = "isotropic noise"


@dataclass(frozen=True)
class ReferenceDistance:
    """The Fréchet distance of decoded draws to training images."""

    name: str  # class Gaussians or isotropic noise
    value: float
    n: int  # images of each set
    samples: float = float("nan")  # the distance of a generator's samples at this n


def reference_distances(
    training: np.ndarray,
    gaussian: np.ndarray | None,
    isotropic: np.ndarray | None,
    seed: int = 0,
    *,
    samples: np.ndarray | None = None,
) -> tuple[ReferenceDistance, ...]:
    """Compute the distances of decoded draws to training images.

    Parameters
    ----------
    training : ndarray of float, shape (n, dim)
        Features of training images, as many as the samples are compared with.
    gaussian, isotropic : ndarray of float, shape (m, dim), optional
        Features of decoded draws from one Gaussian per class, and of decoded isotropic noise.
    seed : int, default 0
        Seed of the subsets of equal size.
    samples : ndarray of float, shape (n_samples, dim), optional
        Features of the samples of a generator.

    Returns
    -------
    tuple of ReferenceDistance
        One entry per set that is given, all sets cut to the smallest one: a distance is the higher,
        the fewer images there are.

    Raises
    ------
    UserError
        If the features differ in dimensions, or contain NaN.
    """
    distances = []
    for name, draws in ((CLASS_GAUSSIANS, gaussian), (ISOTROPIC_NOISE, isotropic)):
        if draws is None:
            continue
        if draws.shape[1] != training.shape[1] or not np.isfinite(draws).all():
            raise UserError(
                f"The features of {name} must be finite and have {training.shape[1]:,} dimensions;"
                " collect the evidence again."
            )
        sets = [training, draws] if samples is None else [training, draws, samples]
        n = min(map(len, sets))
        value, *of_samples = (
            frechet_distance(training[:n], _random_rows(rows, n, seed)) for rows in sets[1:]
        )
        distances.append(ReferenceDistance(name, value, n, *of_samples))
    return tuple(distances)


def _random_rows(rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(rows))[:n]
    return rows[np.sort(order)]
