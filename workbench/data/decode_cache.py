"""A cache of decoded images: a process that trains, collects and samples decodes them once."""

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cachetools import LRUCache

if TYPE_CHECKING:
    from workbench.data.lazy import LazyImages


class DecodedImages(NamedTuple):
    """Images of one size, decoded from files or table cells.

    Attributes
    ----------
    pixels : ndarray or LazyImages of uint8, shape (n, h, w, 1 or 3)
        The images.
    indices : ndarray of int64, shape (n,)
        Index of each image among the files or cells.
    skipped : tuple of str
        One sentence per file or cell that cannot be decoded.
    notes : tuple of str
        Sentences about the images as a whole.
    originals : LazyImages or None
        The same images, which are decoded when they are read.
    """

    pixels: "np.ndarray | LazyImages"
    indices: np.ndarray
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()
    originals: "LazyImages | None" = None


def new_cache(max_bytes: int) -> LRUCache[Any, DecodedImages]:
    """Return an empty cache whose entries have at most `max_bytes` of pixels together."""
    return LRUCache(max_bytes, getsizeof=lambda images: images.pixels.nbytes)


_CACHE = new_cache(2**28)
_LOCK = Lock()


def cached_decode(
    files: Iterable[Path], options: tuple[Any, ...], decode: Callable[[], DecodedImages]
) -> DecodedImages:
    """Return the images of files from the cache, or decode them.

    Parameters
    ----------
    files : iterable of Path
        The files that the result depends on. A file with another size or time of modification is
        another file. Without files nothing is cached.
    options : tuple
        Everything else that the result depends on.
    decode : callable
        Decodes the images. Its exceptions are raised, and nothing is cached then.

    Returns
    -------
    DecodedImages
        The images; if they are cached, the pixels are read-only.
    """
    key = (tuple(_file_state(file) for file in files), options)
    if not key[0]:
        return decode()
    with _LOCK:
        images = _CACHE.get(key)
    if images is None:
        images = decode()
        np.asarray(images.pixels).flags.writeable = False  # all callers share the array
        if images.pixels.nbytes <= _CACHE.maxsize:
            with _LOCK:
                _CACHE[key] = images
    return images


def _file_state(file: Path) -> tuple[str, int, int]:
    try:
        state = file.stat()
    except OSError:  # decoding reports the error
        return str(file), 0, 0
    return str(file.absolute()), state.st_mtime_ns, state.st_size
