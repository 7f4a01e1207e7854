"""A hash by which runs compare the images that they were measured on."""

import hashlib
from collections.abc import Sequence

import numpy as np

FINGERPRINT_DIGITS = 16


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
    digest = hashlib.sha256(repr((pixels.shape, tuple(names))).encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(pixels).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()[:FINGERPRINT_DIGITS]
