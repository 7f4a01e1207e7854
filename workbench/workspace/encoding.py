"""Encode arrays and images as text for a page: base64 and thumbnail sheets."""

import base64
from typing import Any

import numpy as np

from workbench.core.image_url import webp_url

MAX_THUMBNAILS = 4096
THUMBNAIL_SIZE_PX = 32


def base64_array(array: np.ndarray) -> str:
    """Encode the bytes of an array for a JavaScript typed array.

    Parameters
    ----------
    array : ndarray
        Numbers of any dtype; the dtype decides which typed array can read them.

    Returns
    -------
    str
        The little-endian bytes in C order, as base64.

    Examples
    --------
    >>> base64_array(np.array([1, 2], np.uint16))
    'AQACAA=='
    """
    little_endian = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(little_endian.tobytes()).decode()


def thumbnail_sheet(images: np.ndarray, indices: np.ndarray) -> dict[str, Any]:
    """Tile thumbnails of images on one sheet.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, h, w, c)
        Images of one size.
    indices : ndarray of int, shape (m,)
        Which images to show; only the first `MAX_THUMBNAILS` are. Those beyond the pictures are
        black.

    Returns
    -------
    dict
        ``sheet``, a `data:` address; ``columns``, thumbnails per row; ``count``, thumbnails in all;
        ``size``, height and width of a thumbnail in pixels.
    """
    count = min(len(indices), MAX_THUMBNAILS)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    block = max(1, -(-max(images.shape[1:3]) // THUMBNAIL_SIZE_PX))
    blank = np.zeros_like(images[0])
    thumbnails = np.stack(
        [
            _block_means(np.asarray(images[index]) if index < len(images) else blank, block)
            for index in indices[:count]
        ]
    )
    h, w, c = thumbnails.shape[1:]
    cells = np.zeros((-(-count // columns), columns, h, w, c), np.uint8)
    cells.reshape(-1, h, w, c)[:count] = thumbnails
    pixels = cells.transpose(0, 2, 1, 3, 4).reshape(-1, columns * w, c)
    return {"sheet": webp_url(pixels), "columns": columns, "count": count, "size": [h, w]}


def _block_means(image: np.ndarray, block: int) -> np.ndarray:
    """Shrink an image (h, w, c): each square block of pixels becomes one pixel, its mean."""
    h, w = image.shape[0] // block, image.shape[1] // block
    blocks = image[: h * block, : w * block].reshape(h, block, w, block, -1)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
