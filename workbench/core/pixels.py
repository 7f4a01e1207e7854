"""Conversion of images from bytes to the range of models."""

from torch import Tensor


def normalize(pixels: Tensor) -> Tensor:
    """Convert images of bytes to floating-point numbers.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (b, c, h, w)
        The images.

    Returns
    -------
    Tensor of float32, shape (b, c, h, w)
        The images, in [-1, 1], on the same device.
    """
    return pixels.float().div_(127.5).sub_(1)
