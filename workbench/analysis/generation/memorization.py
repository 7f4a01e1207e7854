"""Memorization: distances of samples to training images, compared with held-out images.

This follows the three-sample test of Meehan et al. 2020 (arXiv 2004.05675): held-out images measure
how near an image that cannot be a copy is to the training images. In contrast to the paper, the
statistic is the fraction of samples as near as the nearest 1 % of held-out images, which detects a
few copies that a mean over samples does not.
"""

from dataclasses import dataclass, field

import numpy as np

from workbench.analysis.generation.feature_distances import nearest
from workbench.analysis.plotting import image_grid
from workbench.core.errors import UserError

# A sample is a near copy if it is as near as this fraction of the held-out images.
TAIL_SHARE = 0.01
MAX_GALLERY_SAMPLES = 8
NUM_BOOTSTRAP = 1000


@dataclass(frozen=True, eq=False)
class Memorization:
    """Distances of samples to training images, and those of held-out images."""

    # Fraction of samples as near to a training image as the nearest 1 % of held-out images; about
    # 0.01 without memorization.
    share: float
    low: float  # 95 % bootstrap interval over samples and held-out images
    high: float
    reach: float  # distance within which those 1 % are
    samples: np.ndarray = field(repr=False)  # (s,): distance to the nearest training image
    held_out: np.ndarray = field(repr=False)  # (n,): the same for held-out images
    training_indices: np.ndarray = field(repr=False)  # int (s,): the nearest training image


def memorization(
    samples: np.ndarray, held_out: np.ndarray, training: np.ndarray, seed: int = 0
) -> Memorization:
    """Measure how near samples are to training images, compared with held-out images.

    Parameters
    ----------
    samples, held_out, training : ndarray of float, shapes (s, dim), (n, dim) and (t, dim)
        Features of the three sets of images.
    seed : int, default 0
        Seed of the bootstrap.

    Returns
    -------
    Memorization
        Fraction of near copies, with a 95 % bootstrap interval.

    References
    ----------
    Meehan et al., arXiv 2004.05675.
    """
    indices, sample_distances = nearest(samples, training)
    held_out_distances = nearest(held_out, training)[1]
    random = np.random.default_rng(seed)
    s, n = len(sample_distances), len(held_out_distances)
    shares = []
    for _ in range(NUM_BOOTSTRAP):
        resampled = sample_distances[random.integers(0, s, s)]
        reach = np.quantile(held_out_distances[random.integers(0, n, n)], TAIL_SHARE)
        shares.append(_share_within(resampled, reach))
    low, high = np.percentile(shares, [2.5, 97.5])
    reach = float(np.quantile(held_out_distances, TAIL_SHARE))
    return Memorization(
        share=_share_within(sample_distances, reach),
        low=float(low),
        high=float(high),
        reach=reach,
        samples=sample_distances,
        held_out=held_out_distances,
        training_indices=indices,
    )


def gallery(
    result: Memorization, samples: np.ndarray, train_images: np.ndarray
) -> np.ndarray | None:
    """Compose the samples nearest to training images, above these images.

    Parameters
    ----------
    result : Memorization
        The distances.
    samples : ndarray of uint8, shape (s, height, width, channels)
        The generated images that `result` compares.
    train_images : ndarray of uint8, shape (t, height, width, channels)
        The training images, or the first of them. Samples whose nearest training image is not among
        these are left out.

    Returns
    -------
    ndarray of uint8, shape (grid_height, grid_width, 4), or None
        An RGBA image grid of two rows; None if there is no such sample.

    Raises
    ------
    UserError
        If the numbers of samples and of their features differ.
    """
    if len(samples) != len(result.samples):
        raise UserError(
            f"There are {len(samples)} samples, but features of {len(result.samples)} samples."
            " Collect the evidence again."
        )
    order = np.argsort(result.samples, kind="stable")
    selected = order[result.training_indices[order] < len(train_images)][:MAX_GALLERY_SAMPLES]
    if not len(selected):
        return None
    copied = np.stack([train_images[i] for i in result.training_indices[selected]])
    return image_grid.compose([samples[selected], copied])


def _share_within(distances: np.ndarray, reach: float) -> float:
    return float((distances <= reach).mean())
