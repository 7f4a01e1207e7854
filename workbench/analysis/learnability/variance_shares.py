"""Shares of the variance of latents: of positions, of classes, and within classes."""

from dataclasses import dataclass

import numpy as np

from workbench.analysis.learnability.scaled_latents import ScaledLatents


@dataclass(frozen=True, kw_only=True)
class VarianceShares:
    """Shares of the mean square of scaled latents.

    Attributes
    ----------
    position : float
        Share of the mean of each token position, the same vector for all images.
    class_ : float
        Share of the mean of each class at each position, less that of the position. NaN without
        labels.
    class_null : float
        Expected value of `class_` for shuffled labels, at which each mean of a class is noise.
    within : float
        The remaining share: within classes, or within positions without labels.
    """

    position: float
    class_: float
    class_null: float
    within: float

    @property
    def class_corrected(self) -> float:
        """Share of the classes less that of shuffled labels, at least 0."""
        return max(self.class_ - self.class_null, 0.0)


def position_and_residual(latents: ScaledLatents) -> tuple[float, float]:
    """Return the mean square of the position means, and of the latents around them."""
    position_means = (latents.position_mean - latents.shift) * latents.factor
    variance = latents.position_variance * np.square(latents.factor)
    return float(np.square(position_means).mean()), float(variance.mean())


def class_means(latents: ScaledLatents, target: np.ndarray, num_classes: int) -> np.ndarray:
    """Compute the mean of each class at each token position.

    Parameters
    ----------
    latents : ScaledLatents
        n images.
    target : ndarray of int, shape (n,)
        Class of each row.
    num_classes : int
        Number of classes.

    Returns
    -------
    ndarray of float64, shape (classes, tokens, channels)
    """
    sums = np.zeros((num_classes, latents.dimensions))
    start = 0
    for block in latents.blocks():
        rows = block.reshape(len(block), -1)
        labels = target[start : start + len(block)]
        for label in np.unique(labels):
            sums[label] += rows[labels == label].sum(axis=0)
        start += len(block)
    counts = np.bincount(target, minlength=num_classes)
    return (sums / counts[:, None]).reshape(num_classes, latents.tokens, latents.channels)


def variance_shares(
    latents: ScaledLatents, means: np.ndarray | None, sizes: np.ndarray | None
) -> VarianceShares:
    """Split the mean square of the latents into positions, classes and the rest.

    Parameters
    ----------
    latents : ScaledLatents
        The scaled latents.
    means : ndarray of float, shape (classes, tokens, channels), optional
        Means of the classes.
    sizes : ndarray of int, shape (classes,), optional
        Number of images of each class.

    Returns
    -------
    VarianceShares
        With sum 1.
    """
    position, residual = position_and_residual(latents)
    total = position + residual
    if means is None or sizes is None:
        nan = float("nan")
        return VarianceShares(
            position=position / total, class_=nan, class_null=nan, within=residual / total
        )
    position_means = (latents.position_mean - latents.shift) * latents.factor
    between = np.square(means - position_means).mean(axis=(1, 2))
    class_ = float((sizes * between).sum() / sizes.sum())
    # The mean over all permutations of the labels is exact: one degree of freedom per class.
    null = residual * (len(sizes) - 1) / (len(latents) - 1)
    return VarianceShares(
        position=position / total,
        class_=class_ / total,
        class_null=null / total,
        within=(residual - class_) / total,
    )
