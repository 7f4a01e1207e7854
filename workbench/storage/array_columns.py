"""Checks and conversion of single arrays to the form of evidence.

Arrays may be larger than the memory, and in several files. They are read in chunks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.core.errors import UserError
from workbench.storage.array_files import Parts
from workbench.storage.evidence_arrays import PADDING

CHUNK_BYTES = 2**24  # read at a time
COLOR_CHANNELS = (1, 3)
MAX_CODE = np.iinfo(np.int32).max
MAX_CODES = 2**24  # of a codebook; analyses count every one of them
LATENT_AXES = "(image, token, channel) or (image, channel, row, column)"
CODE_AXES = "(image, token) or (image, row, column)"
IMAGE_AXES = "(image, row, column, color) or (image, color, row, column)"
KINDS = {"f": "floats", "iu": "integers", "b": "booleans", "uf": "uint8 or floats in [0, 1]"}
Grid = tuple[int, int]


@dataclass(frozen=True)
class Column:
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


def _latents(name: str, parts: Parts) -> Column:
    shape = _check_parts(name, parts, kinds="f", num_axes=(3, 4), expected=LATENT_AXES)
    _check_finite(name, parts)
    if len(shape) == 2:
        return Column(parts, convert=lambda rows: rows)
    channels, height, width = shape
    return Column(
        parts,
        convert=lambda rows: rows.reshape(len(rows), channels, height * width).transpose(0, 2, 1),
        grid=(height, width),
    )


def _codes(name: str, parts: Parts) -> Column:
    shape = _check_parts(name, parts, kinds="iu", num_axes=(2, 3), expected=CODE_AXES)
    (low, low_source), (high, high_source) = extremes(parts)
    if low < PADDING:
        raise UserError(
            f"{prefix(low_source)}{name} must be at least 0, or -1 for padding, got {low}."
        )
    if high > MAX_CODE:
        raise UserError(f"{prefix(high_source)}{name} must be at most {MAX_CODE:,}, got {high:,}.")
    return _token_column(parts, shape)


def _active(name: str, parts: Parts) -> Column:
    return _token_column(
        parts, _check_parts(name, parts, kinds="b", num_axes=(2, 3), expected=CODE_AXES)
    )


def _token_column(parts: Parts, shape: tuple[int, ...]) -> Column:
    if len(shape) == 1:
        return Column(parts, convert=lambda rows: rows)
    height, width = shape
    return Column(
        parts, convert=lambda rows: rows.reshape(len(rows), height * width), grid=(height, width)
    )


def _labels(name: str, parts: Parts) -> Column:
    _check_parts(name, parts, kinds="iu", num_axes=(1,), expected="(image,)")
    (low, source), _ = extremes(parts)
    if low < 0:
        raise UserError(f"{prefix(source)}{name} must be at least 0, got {low}.")
    return Column(parts, convert=lambda rows: rows)


def _pictures(name: str, parts: Parts) -> Column:
    shape = _check_parts(name, parts, kinds="uf", num_axes=(4,), expected=IMAGE_AXES)
    is_last = shape[2] in COLOR_CHANNELS
    is_first = shape[0] in COLOR_CHANNELS
    if is_last == is_first:
        raise UserError(
            f"{prefix(parts.source)}either the second or the last axis of {name} must be 1 or 3 "
            f"color channels, got the shape {sizes(parts.arrays[0].shape)}."
        )
    dtype = parts.arrays[0].dtype
    if dtype.kind == "u" and dtype != np.uint8:
        raise UserError(f"{prefix(parts.source)}{name} must be {KINDS['uf']}, got {dtype}.")
    is_float = dtype.kind == "f"
    if is_float:
        _check_pixel_range(name, parts)

    def convert(rows: np.ndarray) -> np.ndarray:
        channels_last = rows if is_last else np.moveaxis(rows, 1, -1)
        if is_float:
            return np.rint(channels_last * np.float32(255)).astype(np.uint8)
        return channels_last

    return Column(parts, convert=convert)


def _check_pixel_range(name: str, parts: Parts) -> None:
    _check_finite(name, parts)
    (low, source), (high, high_source) = extremes(parts)
    if low < 0 or high > 1:
        raise UserError(
            f"{prefix(source if low < 0 else high_source)}{name} must have values in [0, 1] if "
            f"they are floats, got {low:.3g} to {high:.3g}. Convert values in [-1, 1] by "
            f"({name} + 1) / 2, and values up to 255 to uint8."
        )


# How each array with one row per image is checked and converted.
COLUMNS: Mapping[str, Callable[[str, Parts], Column]] = {
    "latents": _latents,
    "latents_flip": _latents,
    "codes": _codes,
    "active": _active,
    "labels": _labels,
    "images": _pictures,
    "reconstructions": _pictures,
}


def _check_parts(
    name: str, parts: Parts, *, kinds: str, num_axes: tuple[int, ...], expected: str
) -> tuple[int, ...]:
    """Check type and axes of every part, and return the shape of one row."""
    first = parts.arrays[0]
    for array, source in zip(parts.arrays, parts.sources, strict=True):
        if array.ndim not in num_axes:
            raise UserError(
                f"{prefix(source)}the axes of {name} must be {expected}, got the shape "
                f"{sizes(array.shape)}."
            )
        if array.dtype.kind not in kinds:
            raise UserError(f"{prefix(source)}{name} must be {KINDS[kinds]}, got {array.dtype}.")
        if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
            raise UserError(
                f"{prefix(source)}{name} has {array.dtype} rows of {sizes(array.shape[1:])}, and "
                f"{parts.sources[0]} has {first.dtype} rows of {sizes(first.shape[1:])}."
            )
    if not len(parts) or not math.prod(first.shape[1:]):
        raise UserError(f"{prefix(parts.source)}{name} is empty (shape {sizes(first.shape)}).")
    return first.shape[1:]


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield consecutive rows of an array that fit in memory."""
    row_bytes = array.dtype.itemsize * math.prod(array.shape[1:])
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    return (array[start : start + step] for start in range(0, len(array), step))


def _check_finite(name: str, parts: Parts) -> None:
    for array, source in zip(parts.arrays, parts.sources, strict=True):
        num_invalid = 0
        for rows in chunks(array):
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity
                values = np.asarray(rows, np.float32)
            num_invalid += int((~np.isfinite(values).reshape(len(rows), -1).all(axis=1)).sum())
        if num_invalid:
            raise UserError(
                f"{prefix(source)}{name} contain NaN or infinity in {num_invalid:,} of "
                f"{len(array):,} images. Leave out these images."
            )


def extremes(parts: Parts) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return the least and the greatest value, each with the source of its part."""
    lows = []
    highs = []
    for array, source in zip(parts.arrays, parts.sources, strict=True):
        for rows in chunks(array):
            lows.append((rows.min().item(), source))
            highs.append((rows.max().item(), source))
    return min(lows, key=_value), max(highs, key=_value)


def _value(extreme: tuple[float, str]) -> float:
    return extreme[0]


def prefix(source: str) -> str:
    """Return the beginning of an error about an array, which names its file."""
    return f"{source}: " if source else ""


def described(name: str, parts: Parts) -> str:
    """Return the name of an array, with the files that it is from."""
    return f"{name} ({parts.source})" if parts.source else name


def sizes(shape: Sequence[int]) -> str:
    """Return a shape as text."""
    return " × ".join(map(str, shape)) or "()"
