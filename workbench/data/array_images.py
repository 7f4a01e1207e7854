"""Images in .npy and .npz files, such as the sample batches of ADM."""

from pathlib import Path
from shutil import copyfileobj, disk_usage
from tempfile import TemporaryFile, gettempdir
from typing import Literal
from zipfile import ZipFile

import numpy as np

from workbench.core.errors import UserError
from workbench.data.encoded import ArrayImages
from workbench.data.images import ImageSet, SourceLayout
from workbench.data.lazy import Decoding, read_pixels
from workbench.data.split import Selection, held_out_mask

# Names of arrays, in the order in which they are tried; ADM has arr_0 and arr_1.
IMAGE_NAMES = ("arr_0", "images", "image", "x", "data")
LABEL_NAMES = ("arr_1", "labels", "label", "y")
COPY_BYTES = 2**20  # at a time


def read_array_images(
    path: Path,
    split: str,
    selection: Selection,
    source: str,
    decoding: Decoding,
) -> ImageSet:
    """Read the images of a .npy or .npz file, of which a tenth is held out.

    An .npy file is memory-mapped; the images of an .npz file are memory-mapped from a temporary
    file.

    Parameters
    ----------
    path : Path
        The file, with uint8 images (n, h, w, 1 or 3) and optionally integer labels.
    split : {"train", "test", "all"}
        Part of the images: the training images, the held-out tenth, or all.
    selection : Selection
        The images to read.
    source : str
        Name of the file for errors.
    decoding : Decoding
        The conversion of the images to one size.

    Raises
    ------
    UserError
        If the file is damaged, contains Python objects, or has no such images.
    """
    images, labels = _load(path, source)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"{source} must have uint8 images (n, h, w, 1 or 3), got {images.dtype} {images.shape}."
        )
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "ui"):
        raise UserError(
            f"{source} must have one integer label per image ({len(images):,}), got"
            f" {labels.dtype} {labels.shape}."
        )
    is_test = held_out_mask(str(row) for row in range(len(images)))
    rows = (
        np.arange(len(images)) if split == "all" else np.flatnonzero(is_test == (split == "test"))
    )
    total = selection.total(len(rows))
    rows = rows[selection.indices(len(rows))]
    if not len(rows):
        raise UserError(f"{source} has no image for the {split} split.")
    classes = np.array([], np.int64) if labels is None else np.unique(labels)
    decoded = read_pixels(ArrayImages(images, rows, source), decoding, source)
    rows = rows[decoded.indices]
    return ImageSet(
        pixels=decoded.pixels,
        labels=None if labels is None else np.searchsorted(classes, labels[rows]).astype(np.int64),
        names=tuple(str(value) for value in classes),
        source=source,
        split=split,
        total=total,
        layout=SourceLayout(
            name="an array of images",
            splits={"train": int((~is_test).sum()), "test": int(is_test.sum())},
            ignored={},
            notes=decoded.notes,
        ),
        skipped=decoded.skipped,
        originals=decoded.originals,
    )


def _load(path: Path, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        with np.load(path, allow_pickle=False) as archive:
            image_name = next((name for name in IMAGE_NAMES if name in archive.files), None)
            label_name = next((name for name in LABEL_NAMES if name in archive.files), None)
            if image_name is None:
                raise UserError(
                    f"{source} must have an array {', '.join(IMAGE_NAMES[:-1])} or"
                    f" {IMAGE_NAMES[-1]}, got {', '.join(archive.files) or 'none'}."
                )
            labels = None if label_name is None else archive[label_name]
            return _map_member(archive.zip, image_name), labels
    except UserError:
        raise
    except Exception as error:  # of numpy, zipfile and the operating system
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{source} cannot be read as an array ({reason}).") from None


def _map_member(archive: ZipFile, name: str) -> np.ndarray:
    """Memory-map an array of an .npz file, through a temporary file that is already deleted."""
    member = name if name in archive.namelist() else f"{name}.npy"
    num_bytes = archive.getinfo(member).file_size
    if num_bytes > disk_usage(gettempdir()).free:
        raise ValueError(f"{name} has {num_bytes:,} bytes, more than {gettempdir()} has space for")
    with archive.open(member) as stored, TemporaryFile() as copy:
        version = np.lib.format.read_magic(stored)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read_header(stored)
        if dtype.hasobject:
            raise ValueError("it contains Python objects")
        copyfileobj(stored, copy, COPY_BYTES)
        copy.flush()
        if not copy.tell():
            return np.empty(shape, dtype)
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        return np.memmap(copy, dtype, "r", 0, shape, order)
