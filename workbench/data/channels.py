"""Conversion between gray and color images, and of the order of the axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# ITU-R BT.601, the weights of JPEG and of Pillow's mode "L".
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def with_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """Convert images to a number of channels.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (..., h, w, 1 or 3)
        The images.
    channels : {1, 3}, optional
        The number of channels: gray is repeated, color becomes its luma. None keeps it.
    """
    if channels is None or pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    red, green, blue = (np.float32(w) * pixels[..., i] for i, w in enumerate(LUMA_WEIGHTS))
    return np.rint(red + green + blue)[..., None].astype(np.uint8)


def to_tensor(pixels: np.ndarray) -> "Tensor":
    """Return a copy of images as a tensor with the axis of the channels in front.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (b, h, w, c)
        The images.

    Returns
    -------
    Tensor of uint8, shape (b, c, h, w)
        The images.
    """
    import torch

    count, height, width, channels = pixels.shape
    planes = np.empty((count, channels, height, width), np.uint8)
    for channel in range(channels):  # several times faster than one copy with all axes
        planes[:, channel] = pixels[..., channel]
    return torch.from_numpy(planes)


def mirror(images: "Tensor", flips: "Sequence[bool]") -> None:
    """Mirror some images in place.

    Parameters
    ----------
    images : Tensor of uint8, shape (b, c, h, w)
        A batch of images, which is changed.
    flips : sequence of bool
        Where True, the image is mirrored.
    """
    for image, is_flipped in zip(images, flips, strict=True):
        if is_flipped:
            image.copy_(image.flip(-1))  # along contiguous rows, which is fast
