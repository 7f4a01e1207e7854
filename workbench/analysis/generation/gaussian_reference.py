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


def reference_distances(
    training: np.ndarray,
    gaussian: np.ndarray | None,
    isotropic: np.ndarray | None,
    seed: int = 0,
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

    Returns
    -------
    tuple of ReferenceDistance
        One entry per set that is given, both sets cut to the smaller one.

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
        n = min(len(training), len(draws))
        order = np.random.default_rng(seed).permutation(len(draws))[:n]
        value = frechet_distance(training[:n], draws[np.sort(order)])
        distances.append(ReferenceDistance(name=name, value=value, n=n))
    return tuple(distances)
