"""Procedural RGB images of known complexity: the bits of the description that drew each image.

Every number of a description costs 8 bits, so a colour costs 24:

    flat       one colour                                      24
    gradient   two colours, a direction                        56
    stripes    two colours, a direction, a period, a phase     72
    discs      a background, and a colour, place and radius    24 + 48 n       for n discs, 1 to 8
    blend      two of the three above, and the share of one    the two + 8
    noise      a colour, and what is added to each channel     24 + 3 side^2 log2(2 a + 1)   for amplitude a

Noise is drawn evenly from the 2 a + 1 whole numbers up to a in size, so its bits are exact; the others' are a count.
"""

from collections.abc import Callable

import numpy as np

from workbench.data.images import ImageSet

COUNT = {"train": 4000, "test": 800}
MOST_DISCS = 8
AMPLITUDES = (8, 96)  # of noise, in grey levels

Drawn = tuple[
    np.ndarray, np.ndarray
]  # colours float32 (n, side, side, 3) in [0, 255], and bits float64 (n,)
Random = np.random.Generator


def shapes(split: str, side: int | None = None) -> ImageSet:
    """Images of six families in equal parts, side 32 unless asked: 4,000 to train, 800 to test.

    The label is the family; `complexity` is in bits.
    """
    side, count = side or 32, COUNT[split]
    pixels, complexity = np.empty((count, side, side, 3), np.uint8), np.empty(count)
    for label, draw in enumerate(FAMILIES.values()):
        mine = slice(label, None, len(FAMILIES))
        random = np.random.default_rng([label, split == "test"])
        colours, complexity[mine] = draw(random, len(complexity[mine]), side)
        pixels[mine] = np.rint(colours)
    labels = np.arange(count) % len(FAMILIES)
    return ImageSet(pixels, labels, tuple(FAMILIES), "shapes", split, complexity=complexity)


def flat(random: Random, count: int, side: int) -> Drawn:
    """One colour everywhere."""
    return np.broadcast_to(_colours(random, count), (count, side, side, 3)), np.full(count, 24.0)


def gradient(random: Random, count: int, side: int) -> Drawn:
    """From one colour to another along a direction."""
    along = _along(random, count, side)
    low, high = along.min(axis=(1, 2), keepdims=True), along.max(axis=(1, 2), keepdims=True)
    share = (along - low) / np.maximum(high - low, 1)
    return _mix(_colours(random, count), _colours(random, count), share), np.full(count, 56.0)


def stripes(random: Random, count: int, side: int) -> Drawn:
    """A sine wave between two colours, with a period from 3 pixels to half the side."""
    period = np.exp(random.uniform(np.log(3), np.log(max(side / 2, 4)), (count, 1, 1)))
    phase = random.uniform(0, 2 * np.pi, (count, 1, 1))
    share = 0.5 + 0.5 * np.sin(2 * np.pi * _along(random, count, side) / period + phase)
    return _mix(_colours(random, count), _colours(random, count), share), np.full(count, 72.0)


def discs(random: Random, count: int, side: int) -> Drawn:
    """One to eight discs, the later over the earlier, with edges one pixel soft."""
    number = random.integers(1, MOST_DISCS + 1, count)
    row, column = np.mgrid[:side, :side]
    picture = np.broadcast_to(_colours(random, count), (count, side, side, 3))
    for nth in range(MOST_DISCS):
        y, x = random.uniform(0, side, (2, count, 1, 1))
        radius = random.uniform(side / 12, side / 4, (count, 1, 1))
        share = (
            np.clip(radius - np.hypot(row - y, column - x) + 0.5, 0, 1)
            * (number > nth)[:, None, None]
        )
        picture = _mix(picture, _colours(random, count), share)
    return picture, 24.0 + 48 * number


def blend(random: Random, count: int, side: int) -> Drawn:
    """Two different ones of a gradient, stripes and discs, laid over each other at 25 to 75 %."""
    pictures, bits = zip(
        *(draw(random, count, side) for draw in (gradient, stripes, discs)), strict=True
    )
    left_out, each = random.integers(0, 3, count), np.arange(count)
    one, other = (left_out + 1) % 3, (left_out + 2) % 3
    share = random.uniform(0.25, 0.75, (count, 1, 1))
    pictures, bits = np.stack(pictures), np.stack(bits)
    return _mix(pictures[one, each], pictures[other, each], share), bits[one, each] + bits[
        other, each
    ] + 8


def noise(random: Random, count: int, side: int) -> Drawn:
    """A colour, and to each channel of each pixel a whole number drawn evenly between minus and plus the amplitude."""
    low, high = AMPLITUDES
    amplitude = np.rint(np.exp(random.uniform(np.log(low), np.log(high), count))).astype(np.int64)
    bound = amplitude[:, None, None, None]
    middle = random.integers(bound, 256 - bound, (count, 1, 1, 3))  # so that nothing is clipped
    added = random.integers(-bound, bound + 1, (count, side, side, 3))
    return middle + added, 24 + 3 * side**2 * np.log2(2 * amplitude + 1)


def _colours(random: Random, count: int) -> np.ndarray:
    return random.uniform(0, 255, (count, 1, 1, 3)).astype(np.float32)


def _along(random: Random, count: int, side: int) -> np.ndarray:
    """Each pixel's distance, in pixels, along a direction of each image's own."""
    angle = random.uniform(0, 2 * np.pi, (count, 1, 1))
    row, column = np.mgrid[:side, :side]
    return column * np.cos(angle) + row * np.sin(angle)


def _mix(under: np.ndarray, over: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Colours between two, by the share (n, side, side) in [0, 1] of the second."""
    return under + share[..., None].astype(np.float32) * (over - under)


FAMILIES: dict[str, Callable[[Random, int, int], Drawn]] = {
    "flat": flat,
    "gradient": gradient,
    "discs": discs,
    "stripes": stripes,
    "noise": noise,
    "blend": blend,
}
