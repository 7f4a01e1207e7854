"""A run of arrays in files, with the images and labels of a dataset."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.coerce import coerce
from workbench.core.counted import counted
from workbench.core.errors import UserError, unknown
from workbench.core.image_size import Side
from workbench.launch.setup import absolute_source, layout_fields
from workbench.storage.array_evidence import ARRAYS_FAMILY, evidence, save_array_run
from workbench.storage.array_files import IMAGE_ARRAYS, Parts, read_array_files
from workbench.storage.run import Run
from workbench.storage.run_config import DataConfig
from workbench.storage.run_folders import run_name

if TYPE_CHECKING:
    from workbench.data import ImageSet

OPTIONS: dict[str, Any] = {"codebook": int, "grid": tuple[int, int]}
ARRAYS_PREFIX = f"{ARRAYS_FAMILY}:"


def evaluate_arrays(
    location: str,
    out: Path,
    *,
    data: str | Path | None = None,
    side: Side | None = None,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Save the arrays of files as a run without a model.

    Parameters
    ----------
    location : str
        A file or a folder, as `wb.evidence` takes it.
    out : Path
        The folder of the run. An existing folder is replaced.
    data : str or Path, optional
        The images that the arrays describe, in the same order. Their labels and the names of their
        classes are used, too.
    side : int or ImageSize, optional
        Height and width of the images in pixels; None if all have the same size.
    limit : int, optional
        Use at most this many images, drawn at random.
    seed : int
        Seed of the choice of images.
    **options
        `codebook`, the number of codes, and `grid`, the rows and columns of the tokens, for files
        that do not have them.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    UserError
        If the arrays are not valid, or do not fit each other or the images.
    """
    if not location:
        raise UserError(f"Give a file or a folder with arrays, as in {ARRAYS_PREFIX}latents.")
    path = Path(location).expanduser()
    arguments = {name: _option(name, value) for name, value in options.items()}
    section: DataConfig | None = None
    origin: dict[str, Any] = {"run": run_name(out)}
    if data is not None:
        from workbench.data import load

        # All images, because a choice of them would not be that of the arrays.
        images = load(str(data), split="all", side=side)
        arguments |= _described_images(images, read_array_files(path).arrays)
        origin |= {"data": images.source, "split": images.split}
        section = DataConfig(
            source=absolute_source(str(data)),
            side=images.side,
            channels=images.pixels.shape[3],
            names=images.names,
            skipped=images.skipped,
            split=images.split,
            **layout_fields(images),
        )
    elif side is not None:
        raise UserError("side is the size of the images of data; give data as well.")
    result = evidence(path, limit=limit, seed=seed, **arguments)
    named = replace(result, provenance=result.provenance | origin)
    return save_array_run(named, out, files=path, data=section)


def _option(name: str, value: Any) -> Any:
    """Convert an option, which is text on the command line."""
    if name not in OPTIONS:
        raise unknown("option of arrays", name, OPTIONS)
    return coerce(OPTIONS[name], name, value)


def _described_images(images: "ImageSet", arrays: dict[str, Parts]) -> dict[str, Any]:
    """Return the images, and their labels unless the arrays have equal ones."""
    if "images" in arrays:
        raise UserError(
            f"data and {arrays['images'].source} both contain images. Give one of them."
        )
    if images.skipped:
        raise UserError(
            f"{counted(len(images.skipped), 'image')} of {images.source} cannot be read, so "
            f"that the others are not those of the arrays: {images.skipped[0]}"
        )
    lengths = {name: len(parts) for name, parts in arrays.items() if name in IMAGE_ARRAYS}
    for name, length in lengths.items():
        if length != len(images):
            raise UserError(
                f"{arrays[name].source} has {name} of {length:,} images, and {images.source} has "
                f"{len(images):,} images. Both must have the same images in the same order."
            )
    arguments: dict[str, Any] = {"images": images.pixels, "names": images.names}
    if images.labels is None:
        return arguments
    if "labels" not in arrays:
        return arguments | {"labels": images.labels}
    if any(part.ndim != 1 for part in arrays["labels"].arrays):
        return arguments  # `evidence` refuses the labels
    stored = np.concatenate(arrays["labels"].arrays)
    is_different = len(stored) == len(images) and (stored != images.labels)
    if np.any(is_different):
        raise UserError(
            f"The labels in {arrays['labels'].source} and those of {images.source} differ for "
            f"{int(np.sum(is_different)):,} of {len(images):,} images. Both must be in the same "
            "order."
        )
    return arguments
