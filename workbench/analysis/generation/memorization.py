"""Whether a generator repeats its training images: how near samples come to them, beside held-out images.

After the three-sample test of Meehan et al. 2020 (arXiv 2004.05675): held-out images say how near an image that cannot
be a copy comes. Here: the share in their nearest 1 %, which sees a few copies that a mean over samples would not.
"""

from dataclasses import dataclass, field

import numpy as np

from workbench.analysis.generation.feature_distances import nearest
from workbench.analysis.plotting import image_grid
from workbench.core.errors import UserError

TAIL = (
    0.01  # the share of held-out images that lie as near to a training image as a copy is said to
)
SHOWN = 8  # samples in the gallery
ROUNDS = 1000


@dataclass(frozen=True, eq=False)
class Memorization:
    """How near samples come to training images, beside held-out images, which cannot be copies."""

    share: float  # of samples as near to a training image as the nearest 1 % of held-out images; 0.01 without copying
    low: float  # 95 % bootstrap interval over samples and held-out images
    high: float
    reach: float  # the distance those 1 % are within
    samples: np.ndarray = field(repr=False)  # (s,) distance to the nearest training image
    held_out: np.ndarray = field(repr=False)  # (n,) the same
    places: np.ndarray = field(repr=False)  # int (s,): which training image that is


def memorization(
    samples: np.ndarray, held_out: np.ndarray, training: np.ndarray, seed: int = 0
) -> Memorization:
    """Measure how near samples (s, e) come to training images (t, e), beside held-out images (n, e), in features."""
    places, near = nearest(samples, training)
    usual = nearest(held_out, training)[1]
    random, (s, n) = np.random.default_rng(seed), (len(near), len(usual))
    drawn = [
        _share(near[random.integers(0, s, s)], np.quantile(usual[random.integers(0, n, n)], TAIL))
        for _ in range(ROUNDS)
    ]
    reach = float(np.quantile(usual, TAIL))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Memorization(_share(near, reach), float(low), float(high), reach, near, usual, places)


def gallery(copying: Memorization, samples: np.ndarray, train_images: np.ndarray) -> np.ndarray:
    """The samples (s, h, w, c) nearest to a training image (t, h, w, c) above those, uint8 (height, width, 4).

    Raises UserError where there are not as many images as features.
    """
    shown = np.argsort(copying.samples, kind="stable")[:SHOWN]
    if len(samples) != len(copying.samples):
        raise UserError(
            f"There are {len(samples)} samples and features of {len(copying.samples)}; collect them again."
        )
    if len(train_images) <= copying.places.max():
        raise UserError(
            f"There are {len(train_images)} training images and features of more; collect them again."
        )
    return image_grid.compose(
        [samples[shown], np.stack([train_images[i] for i in copying.places[shown]])]
    )


def _share(distances: np.ndarray, reach: float) -> float:
    return float((distances <= reach).mean())
