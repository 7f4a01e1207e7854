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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench import __version__
from workbench.core.errors import UserError
from workbench.core.fingerprint import FINGERPRINT_DIGITS, image_fingerprint
from workbench.core.printable import printable
from workbench.storage.array_agreement import (
    check_codes_fit,
    check_codewords_fit,
    check_lengths,
    check_sizes,
    check_tokens,
    codewords,
)
from workbench.storage.array_columns import COLUMNS, Column, Grid, chunks
from workbench.storage.array_files import ArrayFiles, Parts, read_array_files
from workbench.storage.atomic import atomic_folder
from workbench.storage.evidence import ARRAYS, Evidence
from workbench.storage.mapped_array import create_scratch_array
from workbench.storage.run import IMPORTED_STEP, Run, check_new_run
from workbench.storage.run_config import DataConfig, ImportedConfig, ScaleConfig
from workbench.storage.run_folders import run_name

ARRAYS_FAMILY = "arrays"  # of the address of a run that has arrays and no model
CLASS_PATH = "arrays:Arrays"  # in place of the class of a model
NUM_HASHED_IMAGES = 64  # of the latents or codes, if there are no images


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
        numbers of images or tokens; if the codebook is smaller than the largest code; if codewords
        and latents differ in their number of channels; or if the folder is in use.

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
    count = check_lengths(columns)
    common_grid = check_tokens(columns, grid)
    check_sizes(columns, common_grid)
    table = codewords(arrays["codebook"]) if "codebook" in arrays else None
    if table is not None and "latents" in columns:
        check_codewords_fit(columns["latents"], arrays["codebook"], table)
    if table is not None and "codes" in columns:
        check_codes_fit(columns["codes"].parts, arrays["codebook"], table)
    rows = _drawn_rows(count, limit, seed)
    assembled = {
        name: _assemble(column, ARRAYS[name].dtype, rows)
        for name, column in columns.items()
        if name in ARRAYS  # latents of mirrored images are only checked
    }
    class_names = tuple(names) or stored.class_names
    num_images = count if rows is None else len(rows)
    provenance: dict[str, Any] = {
        "run": "arrays" if out is None else run_name(Path(out)),
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
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise UserError(f"{name} has masked values. Leave out these images.")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor on a GPU
        raise UserError(f"{name} cannot be converted to a numpy array: {error}") from None
    if array.dtype.hasobject:
        raise UserError(f"{name} must be an array of numbers, got {type(value).__name__}.")
    return array


def _image_arrays(arrays: Mapping[str, Parts]) -> dict[str, Parts]:
    return {name: parts for name, parts in arrays.items() if name in COLUMNS}


def _drawn_rows(count: int, limit: int | None, seed: int) -> np.ndarray | None:
    """Return the images to use, ascending; None for all."""
    if limit is None or limit >= count:
        return None
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _assemble(column: Column, dtype: npt.DTypeLike, rows: np.ndarray | None) -> np.ndarray:
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
            yield from chunks(array)
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
