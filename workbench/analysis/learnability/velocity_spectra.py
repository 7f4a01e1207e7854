"""Spectra of latents, and the irreducible variance of a flow's velocity that follows from them.

On the path x_t = t noise + (1 - t) data, a point x_t does not determine the velocity
noise - data. For Gaussian data with eigenvalues l_i and standard normal noise, the variance that
no model can predict is

    I(t) = sum_i l_i / (t^2 + (1 - t)^2 l_i),

and its integral over t in [0, 1] is (pi / 2) sum_i sqrt(l_i).

References
----------
arXiv 2606.03578 (2026).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from workbench.analysis.learnability.scaled_latents import ScaledLatents
from workbench.core.moments import Moments
from workbench.core.separable import fit_separable

MIN_IMAGES_PER_DIMENSION = 10  # with fewer, a full covariance is biased by more than 1.5 %
MAX_FULL_DIMENSIONS = 2048  # of a full covariance: 32 MiB, and seconds for its eigenvalues
MAX_SEPARABLE_IMAGES = 5000  # more do not change a separable covariance
MAX_IMAGES_PER_CLASS = 500  # of a separable covariance, which then has a bias below 0.5 %
# Directions with a smaller share of the largest variance are not inverted.
MIN_RELATIVE_VARIANCE = 1e-9
NORMAL_QUANTILE = 1.96
WHITE_NOISE = np.pi / 2  # irreducible variance per number


@dataclass(frozen=True, eq=False, kw_only=True)
class Spectrum:
    """Eigenvalues of a covariance of latents, and the sampling error of their mean root.

    Attributes
    ----------
    eigenvalues : ndarray of float64, shape (d,)
        In descending order.
    error : float
        Standard error of the mean square root over images, at a fixed scale of the latents.
    images : int
        Number of images behind it.
    """

    eigenvalues: np.ndarray = field(repr=False)
    error: float
    images: int

    @property
    def variance_per_dimension(self) -> float:
        """Irreducible variance of the velocity per dimension, integrated over time."""
        return float(WHITE_NOISE * np.sqrt(self.eigenvalues).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `variance_per_dimension`."""
        margin = NORMAL_QUANTILE * WHITE_NOISE * self.error
        value = self.variance_per_dimension
        return max(value - margin, 0.0), value + margin

    @property
    def flatness(self) -> float:
        """Effective rank of order 1/2 over the number of dimensions: 1 for equal eigenvalues."""
        total = self.eigenvalues.sum()
        if not total:
            return 0.0
        return float(np.sqrt(self.eigenvalues).sum() ** 2 / total / len(self.eigenvalues))

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the irreducible variance per number at times from 0 (data) to 1 (noise)."""
        return irreducible_variance(self.eigenvalues, times)


def irreducible_variance(eigenvalues: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the mean variance of the velocity that no model predicts, for Gaussian latents.

    Parameters
    ----------
    eigenvalues : ndarray of float, shape (d,)
        Eigenvalues of the covariance.
    times : ndarray of float, shape (m,)
        From 0, data, to 1, noise.

    Returns
    -------
    ndarray of float64, shape (m,)
        Mean over the d directions. For white noise it is 1 / (t^2 + (1 - t)^2).

    Examples
    --------
    >>> irreducible_variance(np.array([1.0, 1.0]), np.array([0.0, 0.5, 1.0])).tolist()
    [1.0, 2.0, 1.0]
    """
    positive = eigenvalues[eigenvalues > 0]
    squares = np.square(np.asarray(times, np.float64))[:, None]
    remaining = np.square(1 - np.asarray(times, np.float64))[:, None]
    return (positive / (squares + remaining * positive)).sum(axis=1) / len(eigenvalues)


def has_full_covariance(n: int, dimensions: int) -> bool:
    """Return whether n images determine a full covariance well, within the bounded memory."""
    return dimensions <= MAX_FULL_DIMENSIONS and n >= MIN_IMAGES_PER_DIMENSION * dimensions


def full_spectrum(latents: ScaledLatents, means: np.ndarray, target: np.ndarray) -> Spectrum:
    """Compute the eigenvalues of one full covariance around the mean of each class.

    Parameters
    ----------
    latents : ScaledLatents
        n images.
    means : ndarray of float, shape (classes, tokens, channels)
        Means of the classes in scaled units.
    target : ndarray of int, shape (n,)
        Class of each image.
    """
    n = len(latents)
    degrees_of_freedom = len(latents) - len(means)
    residuals = _residual_blocks(latents, means, target)
    moments = Moments.from_blocks(block.reshape(len(block), -1) for block in residuals)
    covariance = moments.covariance * ((n - 1) / degrees_of_freedom)
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(min=0)
    roots = np.sqrt(values)
    weights = np.where(values > values.max() * MIN_RELATIVE_VARIANCE, roots, np.inf)
    # The influence of an image on the sum of the roots is half its Mahalanobis distance, by root.
    influences = [
        (np.square(block.reshape(len(block), -1) @ vectors) / weights).sum(axis=1)
        for block in _residual_blocks(latents, means, target)
    ]
    error = np.concatenate(influences).std() / (2 * latents.dimensions * np.sqrt(n))
    return Spectrum(eigenvalues=values[::-1], error=float(error), images=n)


def separable_spectrum(residuals: np.ndarray, degrees: int | None = None) -> Spectrum:
    """Fit a covariance that is a product of one of tokens and one of channels.

    The eigenvalues are scaled to the trace of the unbiased covariance.

    Parameters
    ----------
    residuals : ndarray of float, shape (n, tokens, channels)
        Latents less their mean, or less the means of their classes.
    degrees : int, optional
        Degrees of freedom: n minus the number of means. By default n - 1.

    Returns
    -------
    Spectrum
        The products of the eigenvalues of both.
    """
    n = len(residuals)
    fitted = fit_separable(residuals, degrees=n - 1 if degrees is None else degrees)
    token_values, token_vectors = np.linalg.eigh(fitted.tokens)
    channel_values, channel_vectors = np.linalg.eigh(fitted.channels)
    products = np.outer(token_values.clip(min=0), channel_values.clip(min=0))
    roots = np.sqrt(products)
    weights = np.where(products > products.max() * MIN_RELATIVE_VARIANCE, roots, np.inf)
    rotated = np.matmul(token_vectors.T, residuals) @ channel_vectors
    influences = (np.square(rotated) / weights).sum(axis=(1, 2))
    return Spectrum(
        eigenvalues=np.sort(products.ravel())[::-1],
        error=float(influences.std() / (2 * roots.size * np.sqrt(n))),
        images=n,
    )


def average_spectra(spectra: list[Spectrum]) -> Spectrum:
    """Average the sorted square roots of several spectra, weighted by their numbers of images.

    The irreducible variance of the result is the weighted mean of those of the spectra.
    """
    images = np.array([spectrum.images for spectrum in spectra])
    shares = images / images.sum()
    roots = np.zeros(len(spectra[0].eigenvalues))
    for share, spectrum in zip(shares, spectra, strict=True):
        roots += share * np.sqrt(spectrum.eigenvalues)
    errors = np.array([spectrum.error for spectrum in spectra])
    return Spectrum(
        eigenvalues=np.square(roots),
        error=float(np.sqrt(np.square(shares * errors).sum())),
        images=int(images.sum()),
    )


def _residual_blocks(
    latents: ScaledLatents, means: np.ndarray, target: np.ndarray
) -> Iterator[np.ndarray]:
    start = 0
    for block in latents.blocks():
        yield block - means[target[start : start + len(block)]]
        start += len(block)
