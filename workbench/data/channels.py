"""Conversion between gray and color images, and of the order of the axes."""

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

    return torch.from_numpy(np.array(np.moveaxis(pixels, -1, 1), order="C"))
