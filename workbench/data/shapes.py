"""Procedural RGB images of known complexity: the bits of the description of each image.

Every number of a description costs 8 bits, so a color costs 24:

    flat       one color                                       24
    gradient   two colors, a direction                         56
    stripes    two colors, a direction, a period, a phase      72
    discs      a background, and per disc a color, a position
               and a radius                                    24 + 48 n       for n discs, 1 to 8
    blend      two of the three above, and their weight        both + 8
    noise      a color, and a number per channel and pixel     24 + 3 side^2 log2(2 a + 1)
               for an amplitude a

Noise is drawn uniformly from the 2 a + 1 integers from -a to a, so its bits are exact; those of the
other families are a count.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workbench.data.images import ImageSet

IMAGES_PER_SPLIT = {"train": 4000, "test": 800}
DEFAULT_SIDE = 32  # pixels
MAX_DISCS = 8
AMPLITUDES = (8, 96)  # of noise, in gray levels

Random = np.random.Generator


@dataclass(frozen=True)
class Drawing:
    """Images of one family.

    Attributes
    ----------
    colors : ndarray of float, shape (n, side, side, 3)
        The images, in [0, 255].
    bits : ndarray of float64, shape (n,)
        The complexity of each image.
    """

    colors: np.ndarray
    bits: np.ndarray


def shapes(split: str, side: int | None = None) -> ImageSet:
    """Draw images of six families in equal parts: 4,000 to train, 800 to test.

    The label is the family; `complexity` is in bits.

    Parameters
    ----------
    split : {"train", "test"}
        Part of the images to draw.
    side : int, optional
        Height and width in pixels; 32 by default.
    """
    side = side or DEFAULT_SIDE
    count = IMAGES_PER_SPLIT[split]
    pixels = np.empty((count, side, side, 3), np.uint8)
    complexity = np.empty(count)
    for label, draw in enumerate(FAMILIES.values()):
        part = slice(label, None, len(FAMILIES))
        random = np.random.default_rng([label, split == "test"])
        drawing = draw(random, len(complexity[part]), side)
        complexity[part] = drawing.bits
        pixels[part] = np.rint(drawing.colors)
    labels = np.arange(count) % len(FAMILIES)
    return ImageSet(pixels, labels, tuple(FAMILIES), "shapes", split, complexity=complexity)


def flat(random: Random, count: int, side: int) -> Drawing:
    """Draw images of one color."""
    colors = np.broadcast_to(_random_colors(random, count), (count, side, side, 3))
    return Drawing(colors, np.full(count, 24.0))


def gradient(random: Random, count: int, side: int) -> Drawing:
    """Draw gradients from one color to another along a direction."""
    along = _distance_along_direction(random, count, side)
    low = along.min(axis=(1, 2), keepdims=True)
    high = along.max(axis=(1, 2), keepdims=True)
    weight = (along - low) / np.maximum(high - low, 1)
    colors = _mix(_random_colors(random, count), _random_colors(random, count), weight)
    return Drawing(colors, np.full(count, 56.0))


def stripes(random: Random, count: int, side: int) -> Drawing:
    """Draw a sine wave between two colors, with a period from 3 pixels to half the side."""
    period = np.exp(random.uniform(np.log(3), np.log(max(side / 2, 4)), (count, 1, 1)))
    phase = random.uniform(0, 2 * np.pi, (count, 1, 1))
    along = _distance_along_direction(random, count, side)
    weight = 0.5 + 0.5 * np.sin(2 * np.pi * along / period + phase)
    colors = _mix(_random_colors(random, count), _random_colors(random, count), weight)
    return Drawing(colors, np.full(count, 72.0))


def discs(random: Random, count: int, side: int) -> Drawing:
    """Draw one to eight discs, later ones on top, with edges that are one pixel soft."""
    num_discs = random.integers(1, MAX_DISCS + 1, count)
    row, column = np.mgrid[:side, :side]
    picture = np.broadcast_to(_random_colors(random, count), (count, side, side, 3))
    for index in range(MAX_DISCS):
        y, x = random.uniform(0, side, (2, count, 1, 1))
        radius = random.uniform(side / 12, side / 4, (count, 1, 1))
        coverage = np.clip(radius - np.hypot(row - y, column - x) + 0.5, 0, 1)
        weight = coverage * (num_discs > index)[:, None, None]
        picture = _mix(picture, _random_colors(random, count), weight)
    return Drawing(picture, 24.0 + 48 * num_discs)


def blend(random: Random, count: int, side: int) -> Drawing:
    """Blend two different ones of a gradient, stripes and discs, with a weight of 25 to 75 %."""
    drawings = [draw(random, count, side) for draw in (gradient, stripes, discs)]
    colors = np.stack([drawing.colors for drawing in drawings])
    bits = np.stack([drawing.bits for drawing in drawings])
    excluded = random.integers(0, 3, count)
    image = np.arange(count)
    lower, upper = (excluded + 1) % 3, (excluded + 2) % 3
    weight = random.uniform(0.25, 0.75, (count, 1, 1))
    return Drawing(
        _mix(colors[lower, image], colors[upper, image], weight),
        bits[lower, image] + bits[upper, image] + 8,
    )


def noise(random: Random, count: int, side: int) -> Drawing:
    """Draw a color plus, per channel and pixel, a uniform integer within plus or minus a."""
    low, high = AMPLITUDES
    amplitude = np.rint(np.exp(random.uniform(np.log(low), np.log(high), count))).astype(np.int64)
    bound = amplitude[:, None, None, None]
    color = random.integers(bound, 256 - bound, (count, 1, 1, 3))  # so that nothing is clipped
    deviation = random.integers(-bound, bound + 1, (count, side, side, 3))
    return Drawing(color + deviation, 24 + 3 * side**2 * np.log2(2 * amplitude + 1))


def _random_colors(random: Random, count: int) -> np.ndarray:
    return random.uniform(0, 255, (count, 1, 1, 3)).astype(np.float32)


def _distance_along_direction(random: Random, count: int, side: int) -> np.ndarray:
    """Return each pixel's distance, in pixels, along a random direction per image."""
    angle = random.uniform(0, 2 * np.pi, (count, 1, 1))
    row, column = np.mgrid[:side, :side]
    return column * np.cos(angle) + row * np.sin(angle)


def _mix(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mix two colors by the weight of the second, (n, side, side) in [0, 1]."""
    return lower + weight[..., None].astype(np.float32) * (upper - lower)


FAMILIES: dict[str, Callable[[Random, int, int], Drawing]] = {
    "flat": flat,
    "gradient": gradient,
    "discs": discs,
    "stripes": stripes,
    "noise": noise,
    "blend": blend,
}
