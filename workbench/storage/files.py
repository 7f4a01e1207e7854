"""Reading of files that may be missing, damaged, special or unreadable.

Every reader of a run's folder opens files here. A FIFO or a device is never opened, because that
could block forever. A failure of the system is never reported as damage of the file.
"""

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
import tokenize
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from cachetools import LRUCache, cached

from workbench.core.errors import RunError
from workbench.core.mapped_memory import map_file
from workbench.core.printable import printable

MAX_READ_BYTES = 64 * 1024  # smaller arrays are read; larger ones are mapped
# Largest file that is read as a whole: a small archive may hold a sparse file of any size.
MAX_WHOLE_BYTES = 2**26
MAX_LOG_BYTES = 2**29
# numpy parses the header of an array as Python code.
HEADER_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)
MAX_CACHED_DIGESTS = 100_000
DIGEST_BLOCK_BYTES = 2**20
STEP_NAME = re.compile(r"step-([0-9]{6,18})")


class DamagedError(ValueError):
    """The content of a file is not what its format requires. Callers name the file."""


def unreadable(path: Path, error: OSError) -> RunError:
    """Return the error for a file that the system does not let be read, by its cause."""
    name = printable(path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return RunError(
            f"{name} cannot be read: permission denied. Change its permissions with chmod."
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return RunError(
            f"{name} cannot be opened: too many files are open. "
            "Close other programs, or raise the limit with: ulimit -n 4096"
        )
    reason = error.strerror or str(error)
    return RunError(
        f"{name} cannot be read: {reason}. Check the disk or the network, and try again."
    )


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    RunError
        If the path is not a regular file, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise RunError(f"{printable(path)} is not a regular file. Remove or rename it.")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise unreadable(path, error) from None


def read_bytes(path: Path, max_bytes: int = MAX_WHOLE_BYTES) -> bytes:
    """Return the content of a regular file; see `open_regular` and `read_rest` for the errors."""
    with open_regular(path) as file:
        return read_rest(path, file, max_bytes)


def read_rest(path: Path, file: BinaryIO, max_bytes: int = MAX_WHOLE_BYTES) -> bytes:
    """Return the content of an open file from its position on.

    Raises
    ------
    RunError
        If the file is too large, or cannot be read.
    """
    try:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise RunError(
                f"{printable(path)} has {size:,} bytes; such a file may have at most "
                f"{max_bytes:,}. Remove or rename it."
            )
        return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def parse_json(content: bytes | str) -> Any:
    """Parse JSON.

    Raises
    ------
    DamagedError
        If the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(content)
    except ValueError as error:
        raise DamagedError(str(error)) from None
    except RecursionError:
        raise DamagedError("it is nested too deeply") from None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(DIGEST_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def check_digest(path: Path, digest: str) -> None:
    """Compare the content of a file with its SHA-256.

    A version of a file, given by its size and its times, is read only once per process.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    DamagedError
        If the content has another SHA-256.
    RunError
        If the file cannot be read.
    """
    try:
        state = path.stat()
        version = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if _digest_of_version(version, path) != digest:
            raise DamagedError("its content has changed since it was written")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from None


@cached(LRUCache(maxsize=MAX_CACHED_DIGESTS), key=lambda version, path: version, lock=Lock())
def _digest_of_version(version: tuple[int, ...], path: Path) -> str:
    return file_digest(path)


def is_int(value: Any) -> bool:
    """Return True if a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Return True if a JSON value is a whole number of at least 0 that fits 63 bits."""
    return is_int(value) and 0 <= value < 1 << 63


def is_number(value: Any) -> bool:
    """Return True if a JSON value is a number. NaN and infinity count: a loss may be either."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _fits_float(value)


def is_finite(value: Any) -> bool:
    """Return True if a JSON value is a finite number."""
    return is_number(value) and math.isfinite(value)


def _fits_float(value: float) -> bool:
    return isinstance(value, float) or abs(value) < 1 << 63


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder or a link to one; False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the folders `step-000500`, ascending.

    Other names, such as `step-000500 (copy)`, and files are ignored.

    Raises
    ------
    RunError
        If the folder exists and cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            matches = [STEP_NAME.fullmatch(entry.name) for entry in entries if is_folder(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from None
    # `step-0000500` also matches, but is not the name that is written.
    steps = {int(match[1]): match[0] for match in matches if match}
    return sorted(step for step, name in steps.items() if name == f"step-{step:06d}")


def load_array(path: Path) -> np.ndarray:
    """Open a `.npy` file read-only, without keeping the file open.

    A large array is mapped into memory, so that nothing of it is read until it is used. A mapping
    needs no open file, so any number of arrays can be open at once. `numpy.load` keeps one open
    file per array.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    DamagedError
        If the content is not an array, or is shorter than its header declares.
    RunError
        If the file cannot be read.
    """
    with open_regular(path) as file:
        try:
            shape, is_fortran, dtype = _read_header(file)
            offset = file.tell()
            values = map_values(path, file, dtype, math.prod(shape), offset)
            # More than 64 axes, or an empty array of impossible lengths, are refused here.
            return values.reshape(shape, order="F" if is_fortran else "C")
        except DamagedError:
            raise
        except (*HEADER_ERRORS, EOFError) as error:
            raise DamagedError(str(error)) from None
        except OSError as error:
            raise unreadable(path, error) from None


def map_values(
    path: Path, file: BinaryIO, dtype: np.dtype, num_items: int, offset: int
) -> np.ndarray:
    """Open consecutive numbers of a file read-only: mapped into memory, or read if they are few.

    Parameters
    ----------
    path : Path
        The path of the file.
    file : BinaryIO
        The open file.
    dtype : dtype
        The type of the numbers.
    num_items : int
        How many there are.
    offset : int
        The position of the first, in bytes.

    Returns
    -------
    ndarray, shape (num_items,)

    Raises
    ------
    DamagedError
        If the file is shorter.
    """
    num_bytes = num_items * dtype.itemsize
    if offset + num_bytes > os.fstat(file.fileno()).st_size:
        raise DamagedError("the file is too short")
    if num_bytes <= MAX_READ_BYTES:
        file.seek(offset)
        return np.frombuffer(file.read(num_bytes), dtype, num_items)
    if sys.platform == "win32":
        return np.memmap(path, dtype, "r", offset, (num_items,))
    buffer = map_file(file, offset + num_bytes)
    mapped = np.frombuffer(buffer, dtype, num_items, offset).view(np.memmap)
    mapped.filename = str(path.resolve())
    return mapped


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the shape, the order and the type of an array."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise DamagedError(f"its version {version} is unknown")
    if dtype.hasobject:
        raise DamagedError("it holds Python objects")
    if any(length < 0 for length in shape):
        raise DamagedError(f"its shape {shape} is negative")
    return shape, is_fortran, dtype
