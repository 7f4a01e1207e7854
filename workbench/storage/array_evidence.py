"""Evidence from nothing but arrays: latents, codes, labels and images that other code computed.

================ ========================================= =========================================
array            axes                                      values
================ ========================================= =========================================
latents          (image, token, channel), or               floats
                 (image, channel, row, column)
codes            (image, token), or (image, row, column)   integers from 0; -1 is padding
active           as codes                                  True for tokens that the decoder uses
labels           (image,)                                  integers from 0
images           (image, row, column, color), or           8-bit integers, or floats in [0, 1]
                 (image, color, row, column)
reconstructions  as images                                 as images
codebook         (code, channel), or                       floats; or only the number of codes
                 (codebook, code, channel)
================ ========================================= =========================================

The number of axes decides between the two forms. Latents with four axes have their channels first.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench import __version__
from workbench.core.errors import UserError
from workbench.core.fingerprint import FINGERPRINT_DIGITS, image_fingerprint
from workbench.storage.array_files import ArrayFiles, Parts, read_array_files
from workbench.storage.atomic import atomic_folder
from workbench.storage.evidence import ARRAYS, PADDING, Evidence
from workbench.storage.files import printable
from workbench.storage.mapped_array import create_scratch_array
from workbench.storage.run import IMPORTED_STEP, Run, check_new_run
from workbench.storage.run_config import DataConfig, ImportedConfig, ScaleConfig

ARRAYS_FAMILY = "arrays"  # of the address of a run that has arrays and no model
CLASS_PATH = "arrays:Arrays"  # in place of the class of a model
CHUNK_BYTES = 2**24  # read at a time
COLOR_CHANNELS = (1, 3)
MAX_CODE = np.iinfo(np.int32).max
NUM_HASHED_IMAGES = 64  # of the latents or codes, if there are no images
Grid = tuple[int, int]


@dataclass(frozen=True)
class _Column:
    """An array with one row per image, and how its rows are brought to the form of evidence.

    Attributes
    ----------
    parts : Parts
        The array as it was given.
    convert : callable
        Brings some rows to the axes of evidence. It returns a view where the values stay.
    grid : tuple of int or None
        Rows and columns of the tokens, if the axes of the array have them.
    """

    parts: Parts
    convert: Callable[[np.ndarray], np.ndarray]
    grid: Grid | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row in the form of evidence."""
        return self.convert(self.parts.arrays[0][:1]).shape[1:]


def evidence(
    files: str | Path | None = None,
    *,
    latents: npt.ArrayLike | None = None,
    codes: npt.ArrayLike | None = None,
    codebook: npt.ArrayLike | None = None,
    active: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    images: npt.ArrayLike | None = None,
    reconstructions: npt.ArrayLike | None = None,
    grid: Grid | None = None,
    names: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Evidence:
    """Return evidence from nothing but arrays, which every analysis takes.

    An analysis that needs an array that is missing raises `NotApplicable`.

    Parameters
    ----------
    files : str or Path, optional
        A `.npy`, `.npz`, `.safetensors` or `.parquet` file, or a folder of them, whose arrays have
        the names of the other parameters. Several files whose names differ by a number are joined,
        as in LightningDiT's `latents_rank00_shard000.safetensors`. A subfolder with such a name has
        one `.npy` file per image.
    latents : array of float, shape (n, tokens, d) or (n, d, rows, columns), optional
        The latents. Four axes are a grid with channels first.
    codes : array of int, shape (n, tokens) or (n, rows, columns), optional
        The index of the codeword of each token; -1 is padding.
    codebook : int, or array of float, shape (k, d) or (g, k, d), optional
        The number of codes, or the codewords. Codebook i serves the i-th of g equal blocks of
        tokens.
    active : array of bool, shape (n, tokens) or (n, rows, columns), optional
        The tokens that the decoder uses; by default all.
    labels : array of int, shape (n,), optional
        The classes of the images.
    images : array, shape (n, height, width, c) or (n, c, height, width), optional
        The images with c = 1 or 3 color channels, uint8 or floats in [0, 1].
    reconstructions : array, optional
        The decoded images, in the form of `images`.
    grid : tuple of int, optional
        Rows and columns of the tokens, if the axes of the arrays do not have them.
    names : sequence of str, optional
        The names of the classes, by label.
    limit : int, optional
        Use at most this many images, drawn at random. By default all.
    seed : int
        Seed of the choice of images.
    out : str or Path, optional
        A new folder. The evidence is saved there as a run in the state `imported`, which the
        dashboard and reports open as any other.

    Returns
    -------
    Evidence
        The saved arrays; without `out`, views of the arrays where their type permits. Several files
        are joined in memory, or in a temporary file if they are large.

    Raises
    ------
    UserError
        If an array has other axes, another type or values out of range; if arrays differ in their
        numbers of images or tokens; if the codebook is smaller than the largest code; or if the
        folder is in use.

    Examples
    --------
    >>> import workbench as wb
    >>> arrays = wb.evidence(codes=[[0, 1, 3], [2, 2, -1]], codebook=4)
    >>> usage = wb.analysis.codebook_usage
    >>> usage(**arrays.kwargs_for(usage)).codebooks[0].used
    4
    """
    if out is not None:
        check_new_run(Path(out))
    arguments = {
        "latents": latents,
        "codes": codes,
        "codebook": codebook,
        "active": active,
        "labels": labels,
        "images": images,
        "reconstructions": reconstructions,
    }
    stored = ArrayFiles(arrays={}) if files is None else read_array_files(files)
    arrays = _merged(stored.arrays, arguments)
    columns = {name: COLUMNS[name](name, parts) for name, parts in _image_arrays(arrays).items()}
    count = _check_lengths(columns)
    common_grid = _check_tokens(columns, grid)
    _check_sizes(columns, common_grid)
    table = _codebook(arrays["codebook"], columns) if "codebook" in arrays else None
    if table is not None and "codes" in columns:
        _check_codes_fit(columns["codes"].parts, arrays["codebook"], table)
    rows = _drawn_rows(count, limit, seed)
    assembled = {
        name: _assemble(column, ARRAYS[name].dtype, rows)
        for name, column in columns.items()
        if name in ARRAYS  # latents of mirrored images are only checked
    }
    class_names = tuple(names) or stored.class_names
    num_images = count if rows is None else len(rows)
    provenance: dict[str, Any] = {
        "run": "arrays" if out is None else Path(out).resolve().name,
        "step": 0,
        "data": "arrays" if files is None else printable(files),
        "split": "all",
        "names": list(class_names),
        "fingerprint": _fingerprint(assembled, class_names),
        "n": num_images,
        "of": count,
        "seed": seed,
        "discrete": "codes" in columns,
        "grid": None if common_grid is None else list(common_grid),
        "sources": {name: parts.source for name, parts in arrays.items() if parts.source},
    }
    if stored.stats is not None:
        provenance["latent_stats"] = stored.stats.to_dict()
    result = Evidence(provenance=provenance, codebook=table, **dict[str, Any](assembled))
    return result if out is None else save_array_run(result, Path(out), files=files).evidence()


def save_array_run(
    result: Evidence,
    folder: Path,
    *,
    files: str | Path | None = None,
    data: DataConfig | None = None,
) -> Run:
    """Save evidence of arrays as an imported run that has no model.

    Parameters
    ----------
    result : Evidence
        The evidence.
    folder : Path
        The folder of the run. An existing folder is replaced.
    files : str or Path, optional
        The files that the arrays are from.
    data : DataConfig, optional
        The images.

    Returns
    -------
    Run
        The run.
    """
    settings = {}
    if result.latents is not None:
        settings = {"num_tokens": result.latents.shape[1], "dim": result.latents.shape[2]}
    elif result.codes is not None:
        settings = {"num_tokens": result.codes.shape[1]}
    if result.codebook is not None:
        settings["codebook_size"] = result.codebook.shape[1]
    address = None if files is None else f"{ARRAYS_FAMILY}:{Path(files).resolve()}"
    stats = result.provenance.get("latent_stats")
    scale = None
    if stats is not None:
        scale = ScaleConfig(mean=stats["channel_mean"], std=stats["channel_std"])
    sections: dict[str, Any] = {
        "class": CLASS_PATH,
        "settings": settings,
        "imported": ImportedConfig(kind="arrays", address=address, scale=scale),
        "versions": {"workbench": __version__, "numpy": np.__version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if data is not None:
        sections["data"] = data
    with atomic_folder(folder, same_name=True) as temporary:
        run = Run.create(temporary, sections)
        origin = {"imported": {"kind": ARRAYS_FAMILY, "address": address}}
        named = replace(result, provenance=result.provenance | origin)
        named.save(run.evidence_folder(IMPORTED_STEP))
    return Run(folder)


def _merged(stored: Mapping[str, Parts], arguments: Mapping[str, Any]) -> dict[str, Parts]:
    """Combine the arrays of files with those that were passed."""
    arrays = dict(stored)
    for name, value in arguments.items():
        if value is None:
            continue
        if name in stored:
            raise UserError(f"{name} is an argument, and also in {stored[name].source}.")
        arrays[name] = Parts(arrays=(_as_array(name, value),), sources=("",))
    if not arrays:
        raise UserError("Evidence needs at least one array, such as latents or codes.")
    return arrays


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor on a GPU
        raise UserError(f"{name} cannot be converted to a numpy array: {error}") from None
    if array.dtype.hasobject:
        raise UserError(f"{name} must be an array of numbers, got {type(value).__name__}.")
    return array


def _image_arrays(arrays: Mapping[str, Parts]) -> dict[str, Parts]:
    return {name: parts for name, parts in arrays.items() if name in COLUMNS}


def _latents(name: str, parts: Parts) -> _Column:
    shape = _check_parts(name, parts, kinds="f", num_axes=(3, 4), expected=LATENT_AXES)
    _check_finite(name, parts)
    if len(shape) == 2:
        return _Column(parts, convert=lambda rows: rows)
    channels, height, width = shape
    return _Column(
        parts,
        convert=lambda rows: rows.reshape(len(rows), channels, height * width).transpose(0, 2, 1),
        grid=(height, width),
    )


def _codes(name: str, parts: Parts) -> _Column:
    shape = _check_parts(name, parts, kinds="iu", num_axes=(2, 3), expected=CODE_AXES)
    (low, low_source), (high, high_source) = _extremes(parts)
    if low < PADDING:
        raise UserError(
            f"{_prefix(low_source)}{name} must be at least 0, or -1 for padding, got {low}."
        )
    if high > MAX_CODE:
        raise UserError(f"{_prefix(high_source)}{name} must be at most {MAX_CODE:,}, got {high:,}.")
    return _token_column(parts, shape)


def _active(name: str, parts: Parts) -> _Column:
    return _token_column(
        parts, _check_parts(name, parts, kinds="b", num_axes=(2, 3), expected=CODE_AXES)
    )


def _token_column(parts: Parts, shape: tuple[int, ...]) -> _Column:
    if len(shape) == 1:
        return _Column(parts, convert=lambda rows: rows)
    height, width = shape
    return _Column(
        parts, convert=lambda rows: rows.reshape(len(rows), height * width), grid=(height, width)
    )


def _labels(name: str, parts: Parts) -> _Column:
    _check_parts(name, parts, kinds="iu", num_axes=(1,), expected="(image,)")
    (low, source), _ = _extremes(parts)
    if low < 0:
        raise UserError(f"{_prefix(source)}{name} must be at least 0, got {low}.")
    return _Column(parts, convert=lambda rows: rows)


def _pictures(name: str, parts: Parts) -> _Column:
    shape = _check_parts(name, parts, kinds="uf", num_axes=(4,), expected=IMAGE_AXES)
    is_last = shape[2] in COLOR_CHANNELS
    is_first = shape[0] in COLOR_CHANNELS
    if is_last == is_first:
        raise UserError(
            f"{_prefix(parts.source)}either the second or the last axis of {name} must be 1 or 3 "
            f"color channels, got the shape {_shape(parts.arrays[0].shape)}."
        )
    dtype = parts.arrays[0].dtype
    if dtype.kind == "u" and dtype != np.uint8:
        raise UserError(f"{_prefix(parts.source)}{name} must be {KINDS['uf']}, got {dtype}.")
    is_float = dtype.kind == "f"
    if is_float:
        _check_pixel_range(name, parts)

    def convert(rows: np.ndarray) -> np.ndarray:
        channels_last = rows if is_last else np.moveaxis(rows, 1, -1)
        if is_float:
            return np.rint(channels_last * np.float32(255)).astype(np.uint8)
        return channels_last

    return _Column(parts, convert=convert)


def _check_pixel_range(name: str, parts: Parts) -> None:
    _check_finite(name, parts)
    (low, source), (high, high_source) = _extremes(parts)
    if low < 0 or high > 1:
        raise UserError(
            f"{_prefix(source if low < 0 else high_source)}{name} must have values in [0, 1] if "
            f"they are floats, got {low:.3g} to {high:.3g}. Convert values in [-1, 1] by "
            f"({name} + 1) / 2, and values up to 255 to uint8."
        )


LATENT_AXES = "(image, token, channel) or (image, channel, row, column)"
CODE_AXES = "(image, token) or (image, row, column)"
IMAGE_AXES = "(image, row, column, color) or (image, color, row, column)"
# How each array with one row per image is checked and converted.
COLUMNS: Mapping[str, Callable[[str, Parts], _Column]] = {
    "latents": _latents,
    "latents_flip": _latents,
    "codes": _codes,
    "active": _active,
    "labels": _labels,
    "images": _pictures,
    "reconstructions": _pictures,
}
KINDS = {"f": "floats", "iu": "integers", "b": "booleans", "uf": "uint8 or floats in [0, 1]"}


def _check_parts(
    name: str, parts: Parts, *, kinds: str, num_axes: tuple[int, ...], expected: str
) -> tuple[int, ...]:
    """Check type and axes of every part, and return the shape of one row."""
    first = parts.arrays[0]
    for array, source in zip(parts.arrays, parts.sources, strict=True):
        if array.ndim not in num_axes:
            raise UserError(
                f"{_prefix(source)}the axes of {name} must be {expected}, got the shape "
                f"{_shape(array.shape)}."
            )
        if array.dtype.kind not in kinds:
            raise UserError(f"{_prefix(source)}{name} must be {KINDS[kinds]}, got {array.dtype}.")
        if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
            raise UserError(
                f"{_prefix(source)}{name} has {array.dtype} rows of {_shape(array.shape[1:])}, and "
                f"{parts.sources[0]} has {first.dtype} rows of {_shape(first.shape[1:])}."
            )
    if not len(parts) or not math.prod(first.shape[1:]):
        raise UserError(f"{_prefix(parts.source)}{name} is empty (shape {_shape(first.shape)}).")
    return first.shape[1:]


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield consecutive rows of an array that fit in memory."""
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    return (array[start : start + step] for start in range(0, len(array), step))


def _check_finite(name: str, parts: Parts) -> None:
    for array, source in zip(parts.arrays, parts.sources, strict=True):
        num_invalid = 0
        for rows in _chunks(array):
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity
                values = np.asarray(rows, np.float32)
            num_invalid += int((~np.isfinite(values).reshape(len(rows), -1).all(axis=1)).sum())
        if num_invalid:
            raise UserError(
                f"{_prefix(source)}{name} contain NaN or infinity in {num_invalid:,} of "
                f"{len(array):,} images. Leave out these images."
            )


def _extremes(parts: Parts) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return the least and the greatest value, each with the source of its part."""
    lows = []
    highs = []
    for array, source in zip(parts.arrays, parts.sources, strict=True):
        for rows in _chunks(array):
            lows.append((rows.min().item(), source))
            highs.append((rows.max().item(), source))
    return min(lows, key=_value), max(highs, key=_value)


def _value(extreme: tuple[float, str]) -> float:
    return extreme[0]


def _check_lengths(columns: Mapping[str, _Column]) -> int:
    """Return the number of images, which all arrays must have."""
    first = ""
    for name, column in columns.items():
        first = first or name
        reference = columns[first].parts
        if len(column.parts) != len(reference):
            raise UserError(
                f"{_described(first, reference)} describe {len(reference):,} images, and "
                f"{_described(name, column.parts)} describe {len(column.parts):,}. Both must "
                "describe the same images in the same order."
            )
    if not first:
        raise UserError("A codebook alone is no evidence: latents, codes or images are missing.")
    return len(columns[first].parts)


def _check_tokens(columns: Mapping[str, _Column], grid: Grid | None) -> Grid | None:
    """Return the grid of the tokens, on which and on whose number all arrays must agree."""
    described = {
        name: columns[name]
        for name in ("latents", "latents_flip", "codes", "active")
        if name in columns
    }
    grids = {name: column.grid for name, column in described.items() if column.grid is not None}
    if grid is not None:
        grids["the argument grid"] = (int(grid[0]), int(grid[1]))
    counts = {name: column.row_shape[0] for name, column in described.items()}
    if not counts:
        return None
    common_grid = next(iter(grids.values()), None)
    for name, other in grids.items():
        if other != common_grid:
            first = next(iter(grids))
            raise UserError(
                f"The grid of {first} is {_shape(grids[first])} (rows × columns) and that of "
                f"{name} is {_shape(other)}. Latents with four axes have their channels first."
            )
    first = next(iter(counts))
    for name, count in counts.items():
        if count != counts[first]:
            raise UserError(
                f"{_described(first, described[first].parts)} have {counts[first]:,} tokens per "
                f"image, and {_described(name, described[name].parts)} have {count:,}."
            )
    if common_grid is not None and math.prod(common_grid) != counts[first]:
        raise UserError(
            f"A grid of {_shape(common_grid)} does not hold the {counts[first]:,} tokens of "
            f"{first}."
        )
    return common_grid


def _check_sizes(columns: Mapping[str, _Column], grid: Grid | None) -> None:
    """Check that images, reconstructions and the grid of the tokens fit each other."""
    shapes = {
        name: columns[name].row_shape for name in ("images", "reconstructions") if name in columns
    }
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"The images are {_shape(shapes['images'])} (rows × columns × colors) and the "
            f"reconstructions are {_shape(shapes['reconstructions'])}; both must be of one size."
        )
    for name, (height, width, _) in shapes.items():
        if grid is not None and (height % grid[0] or width % grid[1]):
            raise UserError(
                f"The {name} have {height} × {width} pixels, which the grid of {_shape(grid)} "
                "tokens does not divide. Resize them as the tokenizer saw them."
            )


def _codebook(parts: Parts, columns: Mapping[str, _Column]) -> np.ndarray:
    """Return the codewords, float32 (g, k, d); if only their number is known, d is 0."""
    table = parts.arrays[0]
    if table.ndim == 0:
        if table.dtype.kind not in "iu" or table < 1:
            raise UserError(
                f"{_prefix(parts.source)}the number of codes must be an integer of at least 1, got "
                f"{table}."
            )
        return np.zeros((1, int(table), 0), np.float32)
    if table.ndim not in (2, 3) or table.dtype.kind != "f" or not table.size:
        raise UserError(
            f"{_prefix(parts.source)}the codebook must be floats with the axes (code, channel) or "
            f"(codebook, code, channel), or the number of codes; got {table.dtype} "
            f"{_shape(table.shape)}."
        )
    if not np.isfinite(table).all():
        raise UserError(f"{_prefix(parts.source)}the codebook contains NaN or infinity.")
    table = np.asarray(table, np.float32)
    return table if table.ndim == 3 else table[None]


def _check_codes_fit(codes: Parts, codebook: Parts, table: np.ndarray) -> None:
    _, (high, source) = _extremes(codes)
    size = table.shape[1]
    if high >= size:
        raise UserError(
            f"{_prefix(source)}codes contain {high:,}, and {_described('the codebook', codebook)} "
            f"has {size:,} codes (0 to {size - 1:,})."
        )
    num_tokens = math.prod(codes.arrays[0].shape[1:])
    if num_tokens % len(table):
        raise UserError(
            f"{_described('the codebook', codebook)} has {len(table)} tables, which cannot share "
            f"{num_tokens} tokens equally."
        )


def _drawn_rows(count: int, limit: int | None, seed: int) -> np.ndarray | None:
    """Return the images to use, ascending; None for all."""
    if limit is None or limit >= count:
        return None
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _assemble(column: _Column, dtype: npt.DTypeLike, rows: np.ndarray | None) -> np.ndarray:
    """Return the array as evidence has it: a view if possible, otherwise a copy."""
    arrays = column.parts.arrays
    first = arrays[0]
    if len(arrays) == 1 and rows is None and first.dtype == dtype:
        return column.convert(first)
    count = len(column.parts) if rows is None else len(rows)
    joined = create_scratch_array((count, *column.row_shape), dtype)
    start = 0
    for selected in _selected_rows(column.parts, rows):
        converted = column.convert(selected)
        joined[start : start + len(converted)] = converted
        start += len(converted)
    return joined


def _selected_rows(parts: Parts, rows: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield the rows with the given ascending indices, in chunks that fit in memory."""
    offset = 0
    for array in parts.arrays:
        if rows is None:
            yield from _chunks(array)
        else:
            local = rows[(rows >= offset) & (rows < offset + len(array))] - offset
            yield array[local]
        offset += len(array)


def _fingerprint(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """Return a hash of the images, or of other arrays if there are none.

    Without images it is not known whether two runs describe the same ones, so that they must not
    have equal fingerprints.
    """
    if "images" in arrays:
        return image_fingerprint(arrays["images"], arrays.get("labels"), names)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        rows = np.linspace(0, len(array) - 1, min(len(array), NUM_HASHED_IMAGES)).astype(int)
        digest.update(repr((name, array.shape)).encode())
        digest.update(np.ascontiguousarray(array[rows]).data)
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def _prefix(source: str) -> str:
    """Return the beginning of an error about an array, which names its file."""
    return f"{source}: " if source else ""


def _described(name: str, parts: Parts) -> str:
    return f"{name} ({parts.source})" if parts.source else name


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "()"
