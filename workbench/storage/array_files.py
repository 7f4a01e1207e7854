"""Arrays in files of other programs: .npy, .npz, safetensors, parquet, and folders of these.

The names of tensors, columns and `.npy` files are the names of the arrays. Files whose names differ
only by a number, such as LightningDiT's `latents_rank00_shard000.safetensors`, are parts of the
same arrays, in the order of these numbers. A subfolder with the name of an array has one `.npy`
file per image, in the order of the numbers in their names. `.npy` and safetensors files are mapped
into memory; `.npz`, parquet and files of single images are read. Nothing is ever unpickled.
"""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from workbench.core.archive_errors import ZIP_ERRORS
from workbench.core.errors import UserError, missing_extra, unknown
from workbench.core.printable import printable
from workbench.storage.files import (
    HEADER_ERRORS,
    DamagedError,
    is_count,
    load_array,
    map_values,
    open_regular,
    parse_json,
    read_bytes,
    unreadable,
)
from workbench.storage.foreign_weights import read_checkpoint
from workbench.storage.latent_stats import STATS_FILE, LatentStats
from workbench.storage.mapped_array import create_scratch_array

if TYPE_CHECKING:
    import pyarrow

# Names of arrays. Those of mirrored images, `latents_flip` and `codes_flip`, are for trainers only.
# The number is the least number of axes of one image.
IMAGE_ARRAYS = {
    "latents": 2,
    "latents_flip": 2,
    "codes": 1,
    "codes_flip": 1,
    "active": 1,
    "labels": 0,
    "images": 3,
    "reconstructions": 3,
}
ARRAY_NAMES = (*IMAGE_ARRAYS, "codebook")
CLASS_NAMES_FILE = "class_names.json"
LIGHTNINGDIT_STATS_FILE = "latents_stats.pt"
PART_NUMBER = re.compile(r"(_rank\d+_shard\d+|(^|[-_])\d+(-of-\d+)?)$")  # at the end of a stem
MAX_HEADER_BYTES = 100 * 2**20  # of a safetensors file, as its specification says
# "BF16" is not a type of numpy; it is the upper half of a float32.
SAFETENSORS_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BF16": "<u2",
}
NPZ_ERRORS = (*ZIP_ERRORS, *HEADER_ERRORS, KeyError)
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Parts:
    """An array in parts along its first axis.

    Attributes
    ----------
    arrays : tuple of ndarray
        The parts; at least one.
    sources : tuple of str
        The name of the file of each part; empty for an array that is not from a file.
    """

    arrays: tuple[np.ndarray, ...] = field(repr=False)
    sources: tuple[str, ...]

    @property
    def source(self) -> str:
        """The first file, and the number of others."""
        num_others = len(self.sources) - 1
        return f"{self.sources[0]} and {num_others} more" if num_others else self.sources[0]

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)


@dataclass(frozen=True, eq=False)
class ArrayFiles:
    """The content of a file or a folder with arrays.

    Attributes
    ----------
    arrays : dict of str to Parts
        The arrays by their names in `ARRAY_NAMES`.
    class_names : tuple of str
        The names of the classes, by label; empty if the folder has no `class_names.json`.
    stats : LatentStats or None
        The statistics in `latent_stats.json` or `latents_stats.pt`, if the folder has one of them.
    """

    arrays: dict[str, Parts]
    class_names: tuple[str, ...] = ()
    stats: LatentStats | None = None


def read_array_files(path: str | Path) -> ArrayFiles:
    """Read the arrays of a file or of a folder.

    Parameters
    ----------
    path : str or Path
        A `.npy`, `.npz`, `.safetensors` or `.parquet` file, or a folder of them. Files of other
        formats in a folder are ignored. A subfolder with the name of an array, such as `latents`,
        has one `.npy` file per image.

    Returns
    -------
    ArrayFiles
        Arrays of `.npy` and safetensors files are memory-mapped.

    Raises
    ------
    UserError
        If a file is damaged or contains an array of another name, if two files contain an array of
        the same name, or if there are no arrays.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{printable(path)} does not exist. Give a file or a folder with arrays.")
    if not path.is_dir():
        return ArrayFiles(arrays=_join_files([path]))
    entries = sorted(path.iterdir(), key=_natural_order)
    files = [file for file in entries if file.suffix in READERS and not file.is_dir()]
    folders = [entry for entry in entries if entry.name in IMAGE_ARRAYS and entry.is_dir()]
    if not files and not folders:
        raise UserError(
            f"{printable(path)} has no files with arrays ({', '.join(READERS)}). "
            f"Name them after their content: {', '.join(ARRAY_NAMES)}."
        )
    _check_not_single_images(path, files)
    arrays = _join_files(files)
    for folder in folders:
        if folder.name in arrays:
            raise UserError(
                f"{printable(path)} has {folder.name} in the folder {folder.name} and in "
                f"{arrays[folder.name].source}. Keep one of them."
            )
        arrays[folder.name] = _read_single_images(folder)
    return ArrayFiles(
        arrays=arrays,
        class_names=_read_class_names(path / CLASS_NAMES_FILE),
        stats=_read_stats(path),
    )


def _natural_order(file: Path) -> list[tuple[int, str]]:
    """Return a key that sorts file names with numbers by these numbers."""
    pieces = re.split(r"(\d+)", file.name)
    return [(int(piece), "") if piece.isdigit() else (0, piece) for piece in pieces]


def _check_not_single_images(path: Path, files: Sequence[Path]) -> None:
    """Refuse files that are named after the numbers of images, with the layout that is read."""
    numbered = [file for file in files if file.suffix == ".npy" and file.stem.isdigit()]
    if numbered:
        raise UserError(
            f"{printable(path)} has one file per image, such as {printable(numbered[0].name)}. "
            "Move them to a subfolder that is named after the array, as in latents/0.npy, and give "
            f"{printable(path)}."
        )


def _read_single_images(folder: Path) -> Parts:
    """Read an array from files of one image each, with or without an axis for the image."""
    files = sorted(folder.glob("*.npy"), key=_natural_order)
    if not files:
        raise UserError(f"{printable(folder)} has no .npy files, one per image.")
    first = _read_single_image(files[0], folder.name)
    joined = create_scratch_array((len(files), *first.shape), first.dtype)
    for index, file in enumerate(files):
        row = _read_single_image(file, folder.name)
        if (row.shape, row.dtype) != (first.shape, first.dtype):
            raise UserError(
                f"{printable(file)} has {row.dtype} of the shape {row.shape}, and "
                f"{files[0].name} has {first.dtype} of the shape {first.shape}."
            )
        joined[index] = row
    return Parts(arrays=(joined,), sources=(printable(folder.name),))


def _read_single_image(file: Path, name: str) -> np.ndarray:
    """Read the array of one image; a first axis of length 1 beyond its own axes is left out."""
    try:
        array = load_array(file)
    except DamagedError as error:
        raise _damaged(file, error) from None
    except OSError as error:
        raise unreadable(file, error) from None
    has_image_axis = array.ndim > IMAGE_ARRAYS[name] and len(array) == 1
    return array[0] if has_image_axis else array


def _join_files(files: Sequence[Path]) -> dict[str, Parts]:
    contents = {file: _read_file(file) for file in files}
    joined: dict[str, Parts] = {}
    for name in ARRAY_NAMES:
        owners = [file for file in files if name in contents[file]]
        if not owners:
            continue
        series = {(PART_NUMBER.sub("", file.stem), file.suffix) for file in owners}
        is_series = len(series) == 1 and name != "codebook"
        if len(owners) > 1 and not is_series:
            raise UserError(
                f"{printable(owners[0])} and {owners[1].name} both contain {name}. "
                "Keep one of them; only the names of parts may differ by a number."
            )
        joined[name] = Parts(
            arrays=tuple(contents[file][name] for file in owners),
            sources=tuple(printable(file.name) for file in owners),
        )
    return joined


def _read_file(path: Path) -> Arrays:
    """Read one file, and check the names and the lengths of its arrays."""
    reader = READERS.get(path.suffix)
    if reader is None:
        raise UserError(
            f"{printable(path)} is not a file with arrays; these end in {', '.join(READERS)}."
        )
    try:
        open_regular(path).close()  # names the cause if the file cannot be read
        arrays = reader(path)
    except DamagedError as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except MemoryError:
        raise UserError(f"{printable(path)} declares arrays that do not fit in memory.") from None
    if not arrays:
        raise UserError(f"{printable(path)} contains no arrays.")
    for name in arrays:
        if name not in ARRAY_NAMES:
            raise UserError(f"{printable(path)}: {unknown('array', name, ARRAY_NAMES)}")
    lengths = {name: array.shape[:1] for name, array in arrays.items() if name in IMAGE_ARRAYS}
    first = next(iter(lengths), "")
    for name, length in lengths.items():
        if not length:
            raise UserError(f"{printable(path)}: {name} is a single number.")
        if length != lengths[first]:
            raise UserError(
                f"{printable(path)}: {first} has {lengths[first][0]:,} rows and {name} has "
                f"{length[0]:,}; both need one per image."
            )
    return arrays


def _damaged(path: Path, error: DamagedError) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{printable(path)} is damaged or incomplete: {reason}.")


def _read_npy(path: Path) -> Arrays:
    return {PART_NUMBER.sub("", path.stem): load_array(path)}


def _read_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as content:
            num_bytes = sum(member.file_size for member in content.zip.infolist())
            if num_bytes > psutil.virtual_memory().available:
                raise MemoryError
            return {name: content[name] for name in content.files}
    except NPZ_ERRORS as error:
        raise DamagedError(str(error) or "it is not a zip file") from None


def _read_safetensors(path: Path) -> Arrays:
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise DamagedError("its header is too long")
        text = file.read(length)
        if len(text) < length:
            raise DamagedError("the file is too short")
        header = parse_json(text)
        if not isinstance(header, dict):
            raise DamagedError("its header is not a table")
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        arrays = {}
        ranges = []
        for name, tensor in tensors.items():
            dtype_name, shape, start, end = _tensor_entry(name, tensor)
            dtype = np.dtype(SAFETENSORS_DTYPES[dtype_name])
            if end - start != math.prod(shape) * dtype.itemsize:
                raise DamagedError(f"the size of {name} does not fit its shape")
            values = map_values(path, file, dtype, math.prod(shape), 8 + length + start)
            if dtype_name == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            arrays[name] = _reshaped(name, values, shape)
            ranges.append((start, end))
        num_bytes = os.fstat(file.fileno()).st_size - 8 - length
        if not _cover(ranges, num_bytes):
            raise DamagedError("its tensors overlap, or some bytes belong to no tensor")
    return arrays


def _cover(ranges: Sequence[tuple[int, int]], num_bytes: int) -> bool:
    """Return True if ranges follow each other from 0 to a number of bytes, as is required."""
    ordered = sorted(ranges)
    starts = [start for start, _ in ordered]
    ends = [end for _, end in ordered]
    return [*starts, num_bytes] == [0, *ends]


def _reshaped(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return values.reshape(shape)
    except ValueError as error:  # more than 64 axes, or an empty array of impossible lengths
        raise DamagedError(f"{name}: {error}") from None


def _tensor_entry(name: str, tensor: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return the type, the shape and the range of bytes of a tensor in a safetensors header."""
    entry = tensor if isinstance(tensor, Mapping) else {}
    dtype = entry.get("dtype")
    shape = entry.get("shape")
    offsets = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_DTYPES:
        accepted = ", ".join(SAFETENSORS_DTYPES)
        raise DamagedError(f"the type of {name} must be one of {accepted}, got {dtype}")
    lengths = _counts(shape)
    bounds = _counts(offsets)
    if lengths is None or bounds is None or len(bounds) != 2:
        raise DamagedError(f"its entry of {name} has no valid shape and offsets")
    return dtype, lengths, bounds[0], bounds[1]


def _counts(values: Any) -> tuple[int, ...] | None:
    """Return a list of whole numbers of at least 0 as a tuple; None if it is anything else."""
    is_valid = isinstance(values, list) and all(is_count(value) for value in values)
    return tuple(values) if is_valid else None


def _read_parquet(path: Path) -> Arrays:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise missing_extra("pyarrow", "train", f"Reading {path.name}") from None
    try:
        table = read_table(path)
    except (ArrowException, ValueError) as error:
        raise DamagedError(str(error)) from None
    for name in table.column_names:
        if name not in ARRAY_NAMES:  # other columns, such as encoded images, are not numbers
            raise UserError(f"{printable(path)}: {unknown('array', name, ARRAY_NAMES)}")
    return {name: _column(name, table.column(name)) for name in table.column_names}


def _column(name: str, column: "pyarrow.ChunkedArray") -> np.ndarray:
    """Return a column of numbers, or of nested lists of equal lengths, as an array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if isinstance(values, pa.FixedShapeTensorArray):
        return values.to_numpy_ndarray()
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    shape = [len(values)]
    while _is_list(values.type):
        if values.null_count:
            raise DamagedError(f"{name} has missing values")
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1:
            raise DamagedError(f"the lists of {name} differ in length")
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    if values.null_count:
        raise DamagedError(f"{name} has missing values")
    try:
        return values.to_numpy(zero_copy_only=False).reshape(shape)
    except (pa.ArrowException, ValueError) as error:
        raise DamagedError(f"{name} is not an array of numbers ({error})") from None


def _is_list(kind: "pyarrow.DataType") -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


READERS: Mapping[str, Callable[[Path], Arrays]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        names = parse_json(read_bytes(path))
    except FileNotFoundError:
        return ()
    except DamagedError as error:
        raise UserError(f"{printable(path)} is not JSON: {error}.") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{printable(path)} must be a list of names, one per class.")
    return tuple(names)


def _read_stats(folder: Path) -> LatentStats | None:
    if (folder / STATS_FILE).exists():
        return LatentStats.read(folder / STATS_FILE)
    path = folder / LIGHTNINGDIT_STATS_FILE
    if not path.exists():
        return None
    try:
        content = read_checkpoint(path)
    except ImportError:
        raise missing_extra("torch", "train", f"Reading {path.name}") from None
    # A name that is missing gives None, which is refused.
    table = {f"channel_{name}": _flat_list(content.get(name)) for name in ("mean", "std")}
    return LatentStats.from_dict(table, path)


def _flat_list(tensor: Any) -> list[float] | None:
    """Return the numbers of a tensor; None if the value is anything else."""
    from torch import Tensor

    return tensor.flatten().tolist() if isinstance(tensor, Tensor) else None
