"""A hash by which runs compare the images that they were measured on."""

import hashlib
from collections.abc import Sequence

import numpy as np

FINGERPRINT_DIGITS = 16


class ImageHash:
    """The hash of images that are added in parts.

    Parameters
    ----------
    shape : tuple of int
        The shape (n, h, w, c) of the array of all images.
    names : sequence of str
        The names of the classes.
    """

    def __init__(self, shape: tuple[int, ...], names: Sequence[str] = ()) -> None:
        description = repr((tuple(shape), tuple(names)))
        self._digest = hashlib.sha256(description.encode("utf-8", "surrogateescape"))

    def add_pixels(self, pixels: np.ndarray) -> None:
        """Add the next images."""
        self._digest.update(np.ascontiguousarray(pixels).data)

    def add_text(self, text: str) -> None:
        """Add a line that identifies images."""
        self._digest.update(text.encode("utf-8", "surrogateescape") + b"\n")

    def finish(self, labels: np.ndarray | None) -> str:
        """Return the hash as 16 hexadecimal digits, after all images.

        Parameters
        ----------
        labels : ndarray of int, shape (n,), or None
            The classes of the images.
        """
        if labels is not None:
            self._digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return self._digest.hexdigest()[:FINGERPRINT_DIGITS]


def image_fingerprint(
    pixels: np.ndarray, labels: np.ndarray | None, names: Sequence[str] = ()
) -> str:
    """Return a hash of images, their labels and the names of the classes.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, h, w, c)
        The images.
    labels : ndarray of int, shape (n,), or None
        The classes of the images.
    names : sequence of str
        The names of the classes.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    identity = ImageHash(pixels.shape, names)
    identity.add_pixels(pixels)
    return identity.finish(labels)
