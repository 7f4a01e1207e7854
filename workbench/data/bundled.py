"""Real images without a download: scikit-learn's digits, and windows of photographs in wheels."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np
from cachetools import LRUCache, cached

from workbench.core.errors import UserError
from workbench.core.image_size import AnySide, ImageSize
from workbench.data.decode import open_image
from workbench.data.images import ImageSet


@dataclass(frozen=True)
class Photograph:
    """A photograph inside an installed package.

    Attributes
    ----------
    package : str
        Name of the package.
    path : str
        Path of the file in the package.
    downscale : float
        Pixels of the file per pixel of a window of side 32: large enough for a recognizable window.
    """

    package: str
    path: str
    downscale: float


PHOTOGRAPHS = {
    "china": Photograph("sklearn", "datasets/images/china.jpg", 2.0),
    "flower": Photograph("sklearn", "datasets/images/flower.jpg", 2.0),
    "astronaut": Photograph("skimage", "data/astronaut.png", 2.0),
    "chelsea": Photograph("skimage", "data/chelsea.png", 1.5),
    "coffee": Photograph("skimage", "data/coffee.png", 2.0),
    "rocket": Photograph("skimage", "data/rocket.jpg", 2.0),
    "motorcycle": Photograph("skimage", "data/motorcycle_left.png", 2.0),
    "hubble_deep_field": Photograph("skimage", "data/hubble_deep_field.jpg", 2.0),
    "retina": Photograph("skimage", "data/retina.jpg", 4.0),
    "ihc": Photograph("skimage", "data/ihc.png", 2.0),
    "brick": Photograph("skimage", "data/brick.png", 2.0),
    "grass": Photograph("skimage", "data/grass.png", 1.5),
    "gravel": Photograph("skimage", "data/gravel.png", 2.0),
    "moon": Photograph("skimage", "data/moon.png", 2.0),
    "coins": Photograph("skimage", "data/coins.png", 1.5),
    "camera": Photograph("skimage", "data/camera.png", 2.0),
}
WINDOWS_PER_PHOTOGRAPH = {"train": 375, "test": 75}
MIN_BRIGHTNESS = 16  # mean of 255; darker windows are empty space
DIGITS_FILE = "datasets/data/digits.csv.gz"
DIGITS_SIDE, PHOTOS_SIDE = 8, 32  # pixels
TEST_DIGITS_ONE_IN = 5
CACHE_BYTES = 64 << 20  # of windows; those of both splits at side 32 need 22 MB


def package_file(package: str, path: str) -> Path:
    """Return a file of an installed package without importing it, which would take a second.

    Parameters
    ----------
    package : str
        Name of the package.
    path : str
        Path of the file in the package.

    Raises
    ------
    UserError
        If the package is not installed, or has no such file.
    """
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    file = Path(folders[0], path) if folders else None
    if file is None or not file.is_file():
        raise UserError(
            f"The bundled images need {path} of the package {package}, which is not installed or"
            " has no such file in this version."
        )
    return file


def digits(split: str, side: int | None = None) -> ImageSet:
    """Load scikit-learn's handwritten digits, gray, stratified into 1,437 and 360 images.

    Parameters
    ----------
    split : {"train", "test"}
        Part of the images to load.
    side : int, optional
        Height and width in pixels; 8 by default.

    References
    ----------
    E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998.
    """
    rows = np.loadtxt(package_file("sklearn", DIGITS_FILE), delimiter=",", dtype=np.int64)
    images, labels = rows[:, :-1].reshape(-1, DIGITS_SIDE, DIGITS_SIDE), rows[:, -1]
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    test = by_label[::TEST_DIGITS_ONE_IN]
    indices = np.sort(test if split == "test" else np.setdiff1d(by_label, test))
    pixels = np.rint(images[indices] * (255 / 16)).astype(np.uint8)[..., None]
    return ImageSet(
        pixels=resize(pixels, side or DIGITS_SIDE),
        labels=labels[indices],
        names=tuple(str(digit) for digit in range(10)),
        source="digits",
        split=split,
    )


def resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Resize images with antialiased cubic interpolation.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, h, w, c)
        The images.
    side : int
        New height and width in pixels.

    Notes
    -----
    The result differs from Pillow's BICUBIC by up to 21 gray levels, because Pillow rounds and
    clips 8-bit images between its two passes. Stored runs have fingerprints of these pixels, so
    Pillow cannot replace it.
    """
    if pixels.shape[1:3] == (side, side):
        return pixels
    rows, columns = (_cubic_weights(length, side) for length in pixels.shape[1:3])
    resized = np.einsum("yh,nhwc,xw->nyxc", rows, pixels.astype(np.float32), columns, optimize=True)
    return np.rint(resized).clip(0, 255).astype(np.uint8)


def _cubic_weights(length: int, new_length: int) -> np.ndarray:
    # R. Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -1/2. The
    # kernel is widened for shrinking.
    scale = length / new_length
    centers = (np.arange(new_length) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centers[:, None]) / max(scale, 1.0)
    inner = 1.5 * distance**3 - 2.5 * distance**2 + 1
    outer = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, inner, np.where(distance < 2, outer, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def photos(split: str, side: AnySide | None = None) -> ImageSet:
    """Load RGB windows of 16 photographs, from disjoint regions: 6,000 to train, 1,200 to test.

    The label is the photograph. A larger side shows the same part of a photograph in more pixels; a
    window that is not square shows more of it in one direction.

    Parameters
    ----------
    split : {"train", "test"}
        Part of the images to load.
    side : int, str or pair of int, optional
        Height and width in pixels; 32 by default. See `ImageSize.of`.
    """
    pixels, labels = _windows(split, ImageSize.of(side or PHOTOS_SIDE))
    return ImageSet(
        pixels=pixels.copy(),
        labels=labels.copy(),
        names=tuple(PHOTOGRAPHS),
        source="photos",
        split=split,
    )


# A training and its evaluation need the same windows several times.
@cached(LRUCache(CACHE_BYTES, getsizeof=lambda windows: windows[0].nbytes), lock=Lock())
def _windows(split: str, size: ImageSize) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and labels of all windows of a split."""
    random = np.random.default_rng(0)
    windows = []
    for name in PHOTOGRAPHS:
        photograph = read_photograph(name, min(size))
        if size.height > photograph.shape[0] or size.width > photograph.shape[1]:
            raise UserError(f"The photograph {name} is smaller than windows of {size} pixels.")
        corners = window_corners(photograph, size, split)
        y, x = random.permutation(corners)[: WINDOWS_PER_PHOTOGRAPH[split]].T
        every_window = np.lib.stride_tricks.sliding_window_view(photograph, size, axis=(0, 1))
        windows.append(np.moveaxis(every_window[y, x], 1, -1))
    labels = np.repeat(np.arange(len(windows)), [len(part) for part in windows])
    order = random.permutation(len(labels))
    return np.concatenate(windows)[order], labels[order]


def read_photograph(name: str, side: int) -> np.ndarray:
    """Read a photograph, scaled so that `side` pixels show what 32 pixels show at side 32.

    Parameters
    ----------
    name : str
        A name in `PHOTOGRAPHS`.
    side : int
        The short side of the windows, in pixels.

    Returns
    -------
    ndarray of uint8, shape (h, w, 3)
        The photograph.

    Raises
    ------
    UserError
        If the installed version of the package does not have the file.
    """
    from PIL import Image

    photograph = PHOTOGRAPHS[name]
    path = package_file(photograph.package, photograph.path)
    with path.open("rb") as file, open_image(file) as image:
        scale = side / PHOTOS_SIDE / photograph.downscale
        size = (round(image.width * scale), round(image.height * scale))
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def window_corners(photograph: np.ndarray, size: ImageSize, split: str) -> np.ndarray:
    """Return the top left corners of the windows that a split can take from a photograph.

    The photograph is divided into blocks of one and a half windows. One block in five is held out,
    a knight's move apart, so that no two of them touch. A test window is inside one held-out block;
    a train window meets none.

    Parameters
    ----------
    photograph : ndarray of uint8, shape (h, w, 3)
        The image that the windows are cut from.
    size : ImageSize
        The size of the windows.
    split : {"train", "test"}
        Part of the images that the windows belong to.

    Returns
    -------
    ndarray of int, shape (k, 2)
        Corners as y and x.
    """
    height, width = photograph.shape[:2]
    row = np.arange(height)[:, None] // (size.height * 3 // 2)
    column = np.arange(width) // (size.width * 3 // 2)
    is_held_out = (2 * row + column) % 5 == 0
    is_allowed = is_held_out if split == "test" else ~is_held_out
    is_inside = _window_sums(is_allowed, size) == size.pixels
    is_bright = _window_sums(photograph.mean(axis=-1), size) >= MIN_BRIGHTNESS * size.pixels
    return np.argwhere(is_inside & is_bright)


def _window_sums(values: np.ndarray, size: ImageSize) -> np.ndarray:
    # A summed-area table gives the sum of every window from four corners.
    total = np.pad(values.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    h, w = size
    return total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
