"""Arrays that are written through a memory map, because they are larger than memory."""

import errno
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_MEMORY_BYTES = 2**28  # larger scratch arrays are in a temporary file
ZEROS_BYTES = 2**20  # written at a time where space cannot be reserved in one call
UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def create_mapped_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """Create a `.npy` file and map it for writing.

    The space is reserved before the array is returned. Without that, a full disk is only noticed
    when a page of the map is written, and the system then ends the process with SIGBUS.

    Parameters
    ----------
    path : Path
        The new file.
    dtype : dtype
        The type of the array.
    shape : tuple of int
        The shape of the array.

    Returns
    -------
    memmap
        The array, filled with zeros.

    Raises
    ------
    OSError
        If the disk has not enough space for the array.
    """
    array: np.memmap = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # macOS and Windows
            _write_zeros(file.fileno(), array.offset, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            _write_zeros(file.fileno(), array.offset, size)
    return array


def create_scratch_array(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Create an array to fill: in memory or, if it is large, in a temporary file without a name.

    Parameters
    ----------
    shape : tuple of int
        The shape of the array.
    dtype : dtype
        The type of the array.

    Returns
    -------
    ndarray
        The array, with arbitrary values.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= MAX_MEMORY_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # The file is removed at once; its space is freed when the array is.
        return create_mapped_array(Path(folder) / "scratch.npy", dtype, shape)


def _write_zeros(file: int, start: int, end: int) -> None:
    """Overwrite a part of a file that has no data yet, which occupies its space."""
    os.lseek(file, start, os.SEEK_SET)
    zeros = bytes(ZEROS_BYTES)
    while start < end:
        start += os.write(file, zeros[: end - start])
