"""Checks that arrays describe the same images, tokens and codebook."""

import math
from collections.abc import Mapping

import numpy as np

from workbench.core.errors import UserError
from workbench.storage.array_columns import (
    MAX_CODES,
    Column,
    Grid,
    described,
    extremes,
    prefix,
    sizes,
)
from workbench.storage.array_files import Parts


def check_lengths(columns: Mapping[str, Column]) -> int:
    """Return the number of images, which all arrays must have."""
    first = ""
    for name, column in columns.items():
        first = first or name
        reference = columns[first].parts
        if len(column.parts) != len(reference):
            raise UserError(
                f"{described(first, reference)} describe {len(reference):,} images, and "
                f"{described(name, column.parts)} describe {len(column.parts):,}. Both must "
                "describe the same images in the same order."
            )
    if columns.keys() <= {"active", "labels"}:
        names = ", ".join(columns) or "no array of images"
        raise UserError(f"Give latents, codes or images; got {names}.")
    return len(columns[first].parts)


def check_tokens(columns: Mapping[str, Column], grid: Grid | None) -> Grid | None:
    """Return the grid of the tokens, on which and on whose number all arrays must agree."""
    token_columns = {
        name: columns[name]
        for name in ("latents", "latents_flip", "codes", "active")
        if name in columns
    }
    grids = {name: column.grid for name, column in token_columns.items() if column.grid is not None}
    if grid is not None:
        grids["the argument grid"] = (int(grid[0]), int(grid[1]))
    counts = {name: column.row_shape[0] for name, column in token_columns.items()}
    if not counts:
        return None
    common_grid = next(iter(grids.values()), None)
    for name, other in grids.items():
        if other != common_grid:
            first = next(iter(grids))
            raise UserError(
                f"The grid of {first} is {sizes(grids[first])} (rows × columns) and that of "
                f"{name} is {sizes(other)}. Latents with four axes have their channels first."
            )
    first = next(iter(counts))
    for name, count in counts.items():
        if count != counts[first]:
            raise UserError(
                f"{described(first, token_columns[first].parts)} have {counts[first]:,} tokens per "
                f"image, and {described(name, token_columns[name].parts)} have {count:,}."
            )
    if common_grid is not None and math.prod(common_grid) != counts[first]:
        raise UserError(
            f"A grid of {sizes(common_grid)} does not hold the {counts[first]:,} tokens of {first}."
        )
    return common_grid


def check_sizes(columns: Mapping[str, Column], grid: Grid | None) -> None:
    """Check that images, reconstructions and the grid of the tokens fit each other."""
    shapes = {
        name: columns[name].row_shape for name in ("images", "reconstructions") if name in columns
    }
    if len(set(shapes.values())) > 1:
        images, reconstructions = (
            f"{described(name, columns[name].parts)} are {sizes(shape)}"
            for name, shape in shapes.items()
        )
        raise UserError(
            f"The {images} (rows × columns × colors) and the {reconstructions}; both must be of"
            " one size."
        )
    for name, (height, width, _) in shapes.items():
        if grid is not None and (height % grid[0] or width % grid[1]):
            raise UserError(
                f"The {described(name, columns[name].parts)} have {height} × {width} pixels, which"
                f" the grid of {sizes(grid)} tokens does not divide. Resize them as the"
                " tokenizer saw them."
            )


def codewords(parts: Parts) -> np.ndarray:
    """Return the codewords, float32 (g, k, d); if only their number is known, d is 0."""
    table = parts.arrays[0]
    if table.ndim == 0:
        if table.dtype.kind not in "iu" or not 1 <= table <= MAX_CODES:
            raise UserError(
                f"{prefix(parts.source)}the number of codes must be an integer from 1 to "
                f"{MAX_CODES:,}, got {table}."
            )
        return np.zeros((1, int(table), 0), np.float32)
    if table.ndim not in (2, 3) or table.dtype.kind != "f" or not table.size:
        raise UserError(
            f"{prefix(parts.source)}the codebook must be floats with the axes (code, channel) or "
            f"(codebook, code, channel), or the number of codes; got {table.dtype} "
            f"{sizes(table.shape)}."
        )
    if not np.isfinite(table).all():
        raise UserError(f"{prefix(parts.source)}the codebook contains NaN or infinity.")
    table = np.asarray(table, np.float32)
    return table if table.ndim == 3 else table[None]


def check_codewords_fit(latents: Column, codebook: Parts, table: np.ndarray) -> None:
    """Check that latents and codewords, if these are known, are vectors of the same space."""
    dim = latents.row_shape[1]
    codeword_dim = table.shape[2]
    if codeword_dim not in (0, dim):
        raise UserError(
            f"The codewords of {described('the codebook', codebook)} have {codeword_dim:,} "
            f"channels, and {described('latents', latents.parts)} have {dim:,}. "
            "If the decoder projects its codewords, give the latents before the projection; "
            "otherwise give the codebook of these latents, or only the number of codes."
        )


def check_codes_fit(codes: Parts, codebook: Parts, table: np.ndarray) -> None:
    """Check that the codebook has all codes, and that its tables share the tokens equally."""
    _, (high, source) = extremes(codes)
    size = table.shape[1]
    if high >= size:
        raise UserError(
            f"{prefix(source)}codes contain {high:,}, and {described('the codebook', codebook)} "
            f"has {size:,} codes (0 to {size - 1:,})."
        )
    num_tokens = math.prod(codes.arrays[0].shape[1:])
    if num_tokens % len(table):
        raise UserError(
            f"{described('the codebook', codebook)} has {len(table)} tables, which cannot share "
            f"{num_tokens} tokens equally."
        )
