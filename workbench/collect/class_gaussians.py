"""One Gaussian per class, fitted to latents: the samples of a model of only two moments."""

from dataclasses import dataclass

import numpy as np

from workbench.core.errors import NotApplicable

# With m images per class, the variance of draws is 1 + 1/m of that within classes, because the
# class means vary too.
MIN_IMAGES_PER_CLASS = 10


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """The means of classes, and one covariance within classes.

    Attributes
    ----------
    classes : ndarray of int, shape (n_classes,)
        The classes in ascending order; empty without labels.
    class_means : ndarray of float64, shape (n_classes, n_tokens, dim)
        Their means.
    mean : ndarray of float64, shape (n_tokens, dim)
        The mean of all latents, in place of the mean of a class without images.
    factor : ndarray of float64, shape (rank, n_tokens * dim)
        The covariance within classes is factor.T @ factor.
    """

    classes: np.ndarray
    class_means: np.ndarray
    mean: np.ndarray
    factor: np.ndarray

    def sample(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """Draw the latents of one image per label.

        Parameters
        ----------
        labels : ndarray of int, shape (n,)
            Classes.
        seed : int
            Seed of the noise.

        Returns
        -------
        ndarray of float32, shape (n, n_tokens, dim)
        """
        random = np.random.default_rng(seed)
        means = self._means(labels)
        noise = random.standard_normal((len(labels), len(self.factor))) @ self.factor
        return (means + noise.reshape(means.shape)).astype(np.float32)

    def _means(self, labels: np.ndarray) -> np.ndarray:
        """Return the mean of each label's class, or that of all latents for an unknown class."""
        means = np.broadcast_to(self.mean, (len(labels), *self.mean.shape)).copy()
        if not len(self.classes):
            return means
        rows = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
        is_known = self.classes[rows] == labels
        means[is_known] = self.class_means[rows[is_known]]
        return means


def fit_class_gaussians(latents: np.ndarray, labels: np.ndarray | None) -> ClassGaussians:
    """Fit class means and the covariance within classes.

    With fewer images than dimensions of a latent, the draws are random combinations of the
    deviations of images from their class means, which have the same covariance.

    Parameters
    ----------
    latents : ndarray of float, shape (n, n_tokens, dim)
        Latents of training images.
    labels : ndarray of int, shape (n,), or None
        Their classes; None fits a single Gaussian.

    Raises
    ------
    NotApplicable
        If there are under 10 images per class on average, or latents are not finite.
    """
    rows = np.asarray(latents, np.float64)
    num_finite = int(np.isfinite(rows).all(axis=(1, 2)).sum())
    if num_finite < len(rows):
        raise NotApplicable(
            "One Gaussian per class needs finite latents; those of"
            f" {len(rows) - num_finite:,} of {len(rows):,} training images contain NaN or infinity."
        )
    mean = rows.mean(axis=0)
    classes = np.zeros(0, np.int64)
    class_means = np.zeros((0, *mean.shape))
    residuals = rows - mean
    degrees = len(rows) - 1
    if labels is not None:
        classes, members = np.unique(labels, return_inverse=True)
        class_means = np.stack([rows[members == k].mean(axis=0) for k in range(len(classes))])
        residuals = rows - class_means[members]
        degrees = len(rows) - len(classes)
    num_classes = max(1, len(classes))
    if len(rows) < MIN_IMAGES_PER_CLASS * num_classes:
        raise NotApplicable(
            f"One Gaussian per class needs at least {MIN_IMAGES_PER_CLASS} training images per"
            f" class, got {len(rows):,} images of {num_classes:,} classes. Collect with"
            f" --limit {MIN_IMAGES_PER_CLASS * num_classes} or more."
        )
    factor = residuals.reshape(len(rows), -1) / np.sqrt(degrees)
    if len(factor) > factor.shape[1]:
        factor = _root(factor.T @ factor)
    return ClassGaussians(classes=classes, class_means=class_means, mean=mean, factor=factor)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Return the symmetric root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
