"""Separable covariances: one matrix between tokens and one between channels of a token."""

from dataclasses import dataclass

import numpy as np

MAX_ROUNDS = 30
TOLERANCE = 1e-3  # relative change of the mean square root of the eigenvalues
# Directions with a smaller share of the largest eigenvalue count as constant.
MIN_EIGENVALUE_SHARE = 1e-9


@dataclass(frozen=True, eq=False)
class SeparableCovariance:
    """The covariance of tokens and channels as a Kronecker product.

    Attributes
    ----------
    tokens : ndarray of float64, shape (n_tokens, n_tokens)
        Covariance between the tokens of an image; its mean diagonal entry is 1.
    channels : ndarray of float64, shape (dim, dim)
        Covariance between the channels of a token.
    """

    tokens: np.ndarray
    channels: np.ndarray

    @property
    def eigenvalues(self) -> np.ndarray:
        """The eigenvalues of the whole covariance, shape (n_tokens * dim,), unsorted."""
        token_values = np.maximum(np.linalg.eigvalsh(self.tokens), 0)
        channel_values = np.maximum(np.linalg.eigvalsh(self.channels), 0)
        return np.outer(token_values, channel_values).ravel()


def fit_separable(residuals: np.ndarray, degrees: int | None = None) -> SeparableCovariance:
    """Fit a separable covariance by alternating maximum likelihood ("flip-flop").

    Parameters
    ----------
    residuals : ndarray of float, shape (n, n_tokens, dim)
        Latents with mean 0, such as latents minus the means of their classes.
    degrees : int, optional
        Degrees of freedom: n minus the number of means. By default n.

    Returns
    -------
    SeparableCovariance
        Its trace is the sum of the squared residuals divided by `degrees`.

    References
    ----------
    Dutilleul (1999), "The MLE algorithm for the matrix normal distribution".

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(500, 2, 3)) * np.array([1.0, 2.0, 3.0])
    >>> np.round(np.sqrt(np.diag(fit_separable(rows).channels)))
    array([1., 2., 3.])
    """
    rows = np.asarray(residuals, np.float64)
    n, num_tokens, dim = rows.shape
    trace = float(np.square(rows).sum()) / max(1, n if degrees is None else degrees)
    tokens = np.eye(num_tokens)
    channels = np.eye(dim)
    previous = 0.0
    for _ in range(MAX_ROUNDS):
        whitened = _inverse(tokens) @ rows
        channels = np.tensordot(rows, whitened, axes=([0, 1], [0, 1])) / (n * num_tokens)
        whitened = rows @ _inverse(channels)
        tokens = np.tensordot(whitened, rows, axes=([0, 2], [0, 2])) / (n * dim)
        tokens /= max(np.trace(tokens) / num_tokens, np.finfo(np.float64).tiny)
        channels *= trace / max(num_tokens * np.trace(channels), np.finfo(np.float64).tiny)
        fitted = SeparableCovariance(tokens=tokens, channels=channels)
        root = float(np.sqrt(fitted.eigenvalues).mean())
        if abs(root - previous) <= TOLERANCE * root:
            break
        previous = root
    return fitted


def _inverse(covariance: np.ndarray) -> np.ndarray:
    """Return the pseudo-inverse of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    has_variance = values > MIN_EIGENVALUE_SHARE * max(values[-1], 0)
    inverse = np.where(has_variance, 1 / np.where(has_variance, values, 1), 0)
    return (vectors * inverse) @ vectors.T
