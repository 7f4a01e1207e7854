"""Writing of arrays with one row per image in the formats that `array_files` reads.

safetensors, npz and parquet files are parts of at most 10,000 images, as LightningDiT names them.
npy files have one array each.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.core.errors import missing_extra, unknown
from workbench.storage.mapped_array import create_mapped_array

if TYPE_CHECKING:
    import pyarrow

FORMATS = ("safetensors", "npz", "npy", "parquet")
SHARD_IMAGES = 10_000


class ArrayWriter(Protocol):
    """Writes batches of arrays to a folder."""

    def write(self, batch: Mapping[str, np.ndarray]) -> None:
        """Append the rows of some images, the same number of each array."""
        ...

    def close(self) -> None:
        """Write what has not been written yet."""
        ...


class ShardWriter:
    """Collects rows until a file is full.

    Parameters
    ----------
    folder : Path
        The folder that receives the files.
    stem : str
        The beginning of the names of the files.
    suffix : str
        The end of the names of the files.
    save : callable
        Writes one file, from its path and its arrays.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        suffix: str,
        save: Callable[[Path, dict[str, np.ndarray]], None],
    ) -> None:
        self._folder = folder
        self._stem = stem
        self._suffix = suffix
        self._save = save
        self._shard = 0
        self._batches: list[dict[str, np.ndarray]] = []
        self._length = 0

    def write(self, batch: Mapping[str, np.ndarray]) -> None:
        """Append the rows of some images, the same number of each array."""
        count = len(next(iter(batch.values())))
        start = 0
        while start < count:
            end = min(count, start + SHARD_IMAGES - self._length)
            self._batches.append({name: rows[start:end] for name, rows in batch.items()})
            self._length += end - start
            start = end
            if self._length == SHARD_IMAGES:
                self.close()

    def close(self) -> None:
        """Write the rows that do not fill a file."""
        if not self._length:
            return
        path = self._folder / f"{self._stem}_rank00_shard{self._shard:03d}{self._suffix}"
        arrays = {
            name: np.concatenate([batch[name] for batch in self._batches])
            for name in self._batches[0]
        }
        self._save(path, arrays)
        self._shard += 1
        self._batches = []
        self._length = 0


class MappedWriter:
    """Writes every array to a file of its own through a memory map.

    Parameters
    ----------
    folder : Path
        The folder that receives the files.
    count : int
        The number of images.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count
        self._arrays: dict[str, np.memmap] = {}
        self._length = 0

    def write(self, batch: Mapping[str, np.ndarray]) -> None:
        """Append the rows of some images, the same number of each array."""
        end = self._length + len(next(iter(batch.values())))
        for name, rows in batch.items():
            if name not in self._arrays:
                shape = (self._count, *rows.shape[1:])
                path = self._folder / f"{name}.npy"
                self._arrays[name] = create_mapped_array(path, rows.dtype, shape)
            self._arrays[name][self._length : end] = rows
        self._length = end

    def close(self) -> None:
        """Write all pages of the maps."""
        for array in self._arrays.values():
            array.flush()


def array_writer(folder: Path, file_format: str, *, stem: str, count: int) -> ArrayWriter:
    """Return a writer of a format.

    Parameters
    ----------
    folder : Path
        The folder, which exists.
    file_format : {"safetensors", "npz", "npy", "parquet"}
        The format.
    stem : str
        The beginning of the names of files that have several arrays.
    count : int
        The number of images.

    Raises
    ------
    UserError
        If there is no such format, or its library is not installed.
    """
    if file_format not in FORMATS:
        raise unknown("format of arrays", file_format, FORMATS)
    if file_format == "npy":
        return MappedWriter(folder, count)
    if file_format == "parquet" and find_spec("pyarrow") is None:
        raise missing_extra("pyarrow", "train", "Writing parquet")
    savers = {"safetensors": save_safetensors, "npz": _save_npz, "parquet": _save_parquet}
    return ShardWriter(folder, stem, f".{file_format}", savers[file_format])


def save_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a safetensors file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(contiguous, path)
    except SafetensorError as error:  # its report of a full disk
        raise OSError(str(error)) from None
    path.chmod(0o644)  # safetensors makes the file private to its owner


def _save_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def _save_parquet(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    write_table(pa.table({name: _nested_lists(array) for name, array in arrays.items()}), path)


def _nested_lists(array: np.ndarray) -> "pyarrow.Array":
    """Return an array as a column of nested lists of equal lengths, which every reader supports."""
    import pyarrow as pa

    values = pa.array(array.reshape(-1))
    for length in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, length)
    return values
