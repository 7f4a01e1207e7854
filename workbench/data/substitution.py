"""Batches of training images without the damaged ones."""

import warnings
from collections.abc import Callable

import numpy as np

from workbench.core.damage import report_damage
from workbench.core.errors import UserError


def decode_batch(
    shape: tuple[int, ...], decode: Callable[[int, int], np.ndarray], source: str
) -> np.ndarray:
    """Decode the images of a batch; the next readable image takes the place of a damaged one.

    The result depends on the images of the batch alone: it is the same for any number of worker
    processes and after a resume. A warning counts and names the damaged images, and a run that is
    trained stores its sentence as an event.

    Parameters
    ----------
    shape : tuple of int
        The shape of the batch: (b, h, w, c).
    decode : callable
        Decodes the image at one position of the batch, the first argument, with the crop and the
        flip of another position, the second argument.
    source : str
        Name of the images for errors.

    Returns
    -------
    ndarray of uint8, shape (b, h, w, c)
        The images.

    Raises
    ------
    UserError
        If all images of the batch are damaged.

    Examples
    --------
    >>> def decode(position, place):
    ...     return np.full((1, 1, 1), 10 * position + place)
    >>> decode_batch((2, 1, 1, 1), decode, "a folder").ravel()
    array([ 0, 11], dtype=uint8)
    """
    count = shape[0]
    pixels = np.empty(shape, np.uint8)
    damaged: dict[int, UserError] = {}
    for position in range(count):
        try:
            pixels[position] = decode(position, position)
        except UserError as error:
            damaged[position] = error
    if count and len(damaged) == count:
        raise UserError(f"All {count:,} images of a batch of {source} are damaged: {damaged[0]}")
    if damaged:
        reasons = " ".join(map(str, damaged.values()))
        sentence = (
            f"{len(damaged):,} of the {count:,} images of a batch of {source} are left out, and"
            f" others of the batch take their places: {reasons}"
        )
        report_damage([sentence])
        warnings.warn(sentence, stacklevel=4)
    for position in damaged:
        following = (other % count for other in range(position + 1, position + count))
        substitute = next(other for other in following if other not in damaged)
        pixels[position] = decode(substitute, position)
    return pixels
