"""Real images without a download: scikit-learn's digits, and patches of the photographs inside two wheels."""

from importlib.resources import files

import numpy as np

from workbench.core.errors import UserError
from workbench.data.images import ImageSet

# The file, and how many of its pixels become one at side 32: as many as keep a window recognisable.
PHOTOGRAPHS = {
    "china": ("sklearn", "datasets/images/china.jpg", 2.0),
    "flower": ("sklearn", "datasets/images/flower.jpg", 2.0),
    "astronaut": ("skimage", "data/astronaut.png", 2.0),
    "chelsea": ("skimage", "data/chelsea.png", 1.5),
    "coffee": ("skimage", "data/coffee.png", 2.0),
    "rocket": ("skimage", "data/rocket.jpg", 2.0),
    "motorcycle": ("skimage", "data/motorcycle_left.png", 2.0),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg", 2.0),
    "retina": ("skimage", "data/retina.jpg", 4.0),
    "ihc": ("skimage", "data/ihc.png", 2.0),
    "brick": ("skimage", "data/brick.png", 2.0),
    "grass": ("skimage", "data/grass.png", 1.5),
    "gravel": ("skimage", "data/gravel.png", 2.0),
    "moon": ("skimage", "data/moon.png", 2.0),
    "coins": ("skimage", "data/coins.png", 1.5),
    "camera": ("skimage", "data/camera.png", 2.0),
}
WINDOWS = {"train": 375, "test": 75}  # of each photograph
DARK = 16  # windows darker than this on average (of 255) are empty space, not pictures


def digits(split: str, side: int | None = None) -> ImageSet:
    """scikit-learn's handwritten digits, grey, 8 x 8 unless resized: 1,437 to train, 360 to test, stratified.

    E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    shuffled = np.random.default_rng(0).permutation(len(data.target))
    by_label = shuffled[np.argsort(data.target[shuffled], kind="stable")]
    test = by_label[::5]
    chosen = np.sort(test if split == "test" else np.setdiff1d(by_label, test))
    pixels = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in data.target_names)
    return ImageSet(
        resize(pixels, side or 8), data.target[chosen].astype(np.int64), names, "digits", split
    )


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels uint8 (n, h, w, c) at side x side: cubic and antialiased, as Pillow's BICUBIC but without Pillow."""
    if pixels.shape[1:3] == (side, side):
        return pixels
    rows, columns = (_cubic_weights(length, side) for length in pixels.shape[1:3])
    resized = np.einsum("yh,nhwc,xw->nyxc", rows, pixels.astype(np.float32), columns, optimize=True)
    return np.rint(resized).clip(0, 255).astype(np.uint8)


def _cubic_weights(before: int, after: int) -> np.ndarray:
    # R. Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -1/2, widened to shrink.
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / max(scale, 1.0)
    near, far = (
        1.5 * distance**3 - 2.5 * distance**2 + 1,
        -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2,
    )
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def photos(split: str, side: int | None = None) -> ImageSet:
    """RGB windows of 16 photographs, side 32 unless asked: 6,000 to train, 1,200 to test, from disjoint regions.

    The label is the photograph. A larger side shows the same part of a photograph in more pixels.
    """
    side = side or 32
    random = np.random.default_rng(0)
    windows = []
    for name in PHOTOGRAPHS:
        photograph = read_photograph(name, side)
        corners = window_corners(photograph, side, split)
        y, x = random.permutation(corners)[: WINDOWS[split]].T
        every = np.lib.stride_tricks.sliding_window_view(photograph, (side, side), axis=(0, 1))
        windows.append(np.moveaxis(every[y, x], 1, -1))
    labels = np.repeat(np.arange(len(windows)), [len(some) for some in windows])
    order = random.permutation(len(labels))
    return ImageSet(
        np.concatenate(windows)[order], labels[order], tuple(PHOTOGRAPHS), "photos", split
    )


def read_photograph(name: str, side: int) -> np.ndarray:
    """One of the photographs, uint8 (h, w, 3), scaled so that `side` pixels show what 32 would. Raises UserError."""
    from PIL import Image

    package, file, pixels_per_pixel = PHOTOGRAPHS[name]
    try:
        with (files(package) / file).open("rb") as opened, Image.open(opened) as image:
            scale = side / 32 / pixels_per_pixel
            size = (round(image.width * scale), round(image.height * scale))
            return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    except FileNotFoundError:
        raise UserError(
            f"The photograph {file} is not inside this version of {package}; install another."
        ) from None


def window_corners(photograph: np.ndarray, side: int, split: str) -> np.ndarray:
    """Top left corners, int (k, 2) as y and x, of the windows a split may cut from a photograph uint8 (h, w, 3).

    Blocks of one and a half windows, each fifth held out, a knight's move apart so that no two touch: a test window
    lies inside one held-out block, a train window meets none.
    """
    height, width = photograph.shape[:2]
    block = side * 3 // 2
    row, column = np.arange(height)[:, None] // block, np.arange(width) // block
    held_out = (2 * row + column) % 5 == 0
    allowed = held_out if split == "test" else ~held_out
    inside = _window_sums(allowed, side) == side * side
    bright = _window_sums(photograph.mean(axis=-1), side) >= DARK * side * side
    return np.argwhere(inside & bright)


def _window_sums(values: np.ndarray, side: int) -> np.ndarray:
    # Summed-area table: every window's sum from four corners.
    total = np.pad(values.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
