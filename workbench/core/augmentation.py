"""Random crops and flips of training images, reproducible for every item of every epoch."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from workbench.core.image_size import ImageSize

CROPS = ("center", "random", "random_scale", "random_resized")
MAX_SCALE = 1.25  # of the short side, for random_scale
MIN_AREA = 0.8  # of the image, for random_resized
MAX_RATIO = 4 / 3  # of width to height or of height to width, for random_resized


class Draw(NamedTuple):
    """The random numbers of one image, each uniform in [0, 1).

    Attributes
    ----------
    scale : float
        Determines the length of the short side, or the area of the window.
    top, left : float
        The position of the crop, as a fraction of the possible ones.
    flip : float
        The image is flipped if this is below the probability.
    ratio : float
        Determines the width of the window relative to its height.
    """

    scale: float
    top: float
    left: float
    flip: float
    ratio: float


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training images. It is never applied in evaluation.

    Attributes
    ----------
    crop : {"center", "random", "random_scale", "random_resized"}
        center resizes an image until it covers the size of the images and crops the center. random
        crops at a random position instead. random_scale first resizes it until it covers 1 to 1.25
        times the size. random_resized resizes a random window to the size: 80 to 100 % of the area,
        3/4 to 4/3 as wide as a window of the ratio of the size, and clipped to the image.
    flip : float
        The probability of a horizontal flip.
    reduced_decoding : bool
        Whether JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where this is still as
        large as needed. It is faster, and the pixels differ slightly.
    seed : int
        The seed of the draws.
    """

    crop: str = "center"
    flip: float = 0.0
    reduced_decoding: bool = False
    seed: int = 0

    @property
    def is_active(self) -> bool:
        """True if training images differ from those of evaluation."""
        return self.needs_originals or self.flip > 0

    @property
    def needs_originals(self) -> bool:
        """True if images are decoded anew in each epoch, instead of once for all epochs."""
        return self.crop != "center" or self.reduced_decoding

    def draw(self, epoch: int, index: int) -> Draw:
        """Return the random numbers of an item, which depend on nothing but the arguments.

        Parameters
        ----------
        epoch : int
            The number of the epoch.
        index : int
            The index of the image in its dataset.
        """
        generator = np.random.default_rng([self.seed % 2**63, epoch, index])
        return Draw(*generator.random(len(Draw._fields)).tolist())

    def is_flipped(self, draw: Draw) -> bool:
        """Return True if the image of a draw is flipped."""
        return draw.flip < self.flip

    def covered_size(self, size: ImageSize, draw: Draw) -> ImageSize:
        """Return the size that an image covers before it is cropped.

        For random_scale, every length of the short side from that of `size` to 1.25 times that
        (rounded up) is equally likely.

        Parameters
        ----------
        size : ImageSize
            The size of the result.
        draw : Draw
            The random numbers of the image.
        """
        if self.crop != "random_scale":
            return size
        short = min(size)
        return size.with_short_side(short + int(draw.scale * (_largest_short(size) - short + 1)))

    def max_size(self, size: ImageSize) -> ImageSize:
        """Return the size that an image must cover before any crop.

        Parameters
        ----------
        size : ImageSize
            The size of the result.
        """
        if self.crop == "random_scale":
            return size.with_short_side(_largest_short(size))
        if self.crop == "random_resized":
            return ImageSize(math.ceil(MAX_RATIO * size.height), math.ceil(MAX_RATIO * size.width))
        return size

    def window(
        self, width: int, height: int, size: ImageSize, draw: Draw
    ) -> tuple[int, int, int, int]:
        """Return the window of random_resized as left, top, right and bottom, in pixels.

        Parameters
        ----------
        width, height : int
            The size of the image.
        size : ImageSize
            The size of the result, around whose ratio that of the window is drawn.
        draw : Draw
            The random numbers of the image.
        """
        area = width * height * (MIN_AREA + (1 - MIN_AREA) * draw.scale)
        ratio = MAX_RATIO ** (2 * draw.ratio - 1) * (size.width / size.height)
        columns = min(round(math.sqrt(area * ratio)), width)
        rows = min(round(math.sqrt(area / ratio)), height)
        left = int(draw.left * (width - columns + 1))
        top = int(draw.top * (height - rows + 1))
        return left, top, left + columns, top + rows


def _largest_short(size: ImageSize) -> int:
    """Return the largest length of the short side for random_scale."""
    return math.ceil(MAX_SCALE * min(size))
