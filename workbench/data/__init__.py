"""Real images, bundled or the user's own, behind one function and one type."""

import warnings
from dataclasses import replace
from math import isfinite
from pathlib import Path

from workbench.core.errors import UserError, missing_extra, unknown
from workbench.core.image_size import AnySide, ImageSize
from workbench.data.channels import with_channels
from workbench.data.decode import ValueRange
from workbench.data.images import ImageSet, Pixels, warn_skipped
from workbench.data.lazy import Decoding
from workbench.data.resize import DEFAULT_RESIZE
from workbench.data.split import Selection

__all__ = ["BUNDLED", "ImageSet", "Pixels", "load"]

SPLITS = ("train", "test", "all")
BUNDLED = ("digits", "photos", "shapes")
ACCEPTED_SOURCES = (
    "Use a folder of images, a parquet file, a folder of parquet files, a .zip, .tar, .npz or .npy"
    " file, or hub:owner/name."
)
MIN_SIDE = 4  # pixels


def load(
    source: str,
    *,
    split: str = "train",
    side: AnySide | None = None,
    channels: int | None = None,
    limit: int | None = None,
    resize: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    value_range: ValueRange | None = None,
) -> ImageSet:
    """Load images.

    They are decoded into memory if they fit into 512 MiB. Otherwise only their positions are held
    in memory, and they are decoded whenever they are read.

    Files that cannot be read are skipped: one warning counts them, and `skipped` of the result has
    the reasons. If an image that is decoded when it is read is damaged, the batch
    contains another of its images instead, with a warning, unless `ImageSet.readable` has left it
    out.

    Parameters
    ----------
    source : str
        The name of a bundled set (digits, photos, shapes), the path of a folder, a parquet, zip,
        tar, npz or npy file, hub:owner/name, or stream:PATH for the first images of a stream.
    split : {"train", "test", "all"}
        The split. A source without splits has a tenth of its images held out; "all" is every image
        of such a source, and the test images of any other.
    side : int, str or pair of int, optional
        Height and width in pixels, at least 4: one number for squares, "128x256" or (128, 256) for
        a height and a width. None uses the bundled set's own, or the size that all files share.
    channels : {1, 3}, optional
        Channels of the images; None keeps the source's own.
    limit : int, optional
        Load at most this many images, drawn at random.
    resize : {"lanczos", "bicubic", "adm"}, optional
        How image files are brought to this size; see `workbench.data.resize`. lanczos by default.
        The bundled sets ignore it.
    sample : int, optional
        Draw at most this many of the images, in random order. Only these are decoded.
    seed : int
        Seed of `sample`.
    value_range : tuple of float, optional
        The values of black and white of image files with more than 8 bits per channel, such as
        (0, 4095) for 12 bits in files of 16. Values outside are clipped. None: the whole range of
        16 bits, unless the files declare another one.

    Returns
    -------
    ImageSet
        The images.

    Raises
    ------
    UserError
        If the source or the split does not exist, its layout is ambiguous, a number is out of
        range, or no image can be read.

    Examples
    --------
    >>> load("digits", split="test").pixels.shape
    (360, 8, 8, 1)
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 or 3, got {channels}.")
    size = None if side is None else ImageSize.of(side, low=MIN_SIDE)
    for name, number in (("limit", limit), ("sample", sample)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be at least 1, got {number}.")
    if value_range is not None:
        _check_value_range(value_range, str(source))
    selection = Selection(limit=limit, sample=sample, seed=seed)
    decoding = Decoding(
        size=size,
        channels=channels,
        resize=resize or DEFAULT_RESIZE,
        value_range=value_range,
    )
    try:
        images = _read(str(source), split, selection, decoding)
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train", f"Reading {source}") from None
    if images.skipped:
        warn_skipped(images.skipped, source)
    for note in images.layout.notes if images.layout else ():
        warnings.warn(note, stacklevel=2)
    return images


def _check_value_range(value_range: ValueRange, source: str) -> None:
    low, high = value_range
    if not (isfinite(low) and isfinite(high) and low < high):
        raise UserError(f"value_range must be two numbers, the lower one first, got {low}, {high}.")
    if source in BUNDLED:
        raise UserError(f"{source} has 8 bits per channel, so that value_range does not apply.")


def _read(source: str, split: str, selection: Selection, decoding: Decoding) -> ImageSet:
    has_splits = source in BUNDLED or source.startswith("stream:")
    if has_splits and split == "all":
        split = "test"
    if source in BUNDLED:
        images = _read_bundled(source, split, decoding.size, selection)
        return replace(images, pixels=with_channels(images.read(), decoding.channels))
    if source.startswith("stream:"):
        from workbench.data.stream import first_images

        name = source.removeprefix("stream:")
        counts = [n for n in (selection.sample, selection.limit) if n is not None]
        return first_images(name, split, min(counts, default=None), decoding)
    if source.startswith("hub:"):
        from workbench.data.parquet import read_hub

        return read_hub(source.removeprefix("hub:"), split, selection, decoding)
    return _read_path(source, split, selection, decoding)


def _read_path(source: str, split: str, selection: Selection, decoding: Decoding) -> ImageSet:
    path = Path(source).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}).") from None
    if not (is_folder or is_file):
        if "/" in source or "\\" in source or path.suffix:
            raise UserError(f"{source} does not exist. {ACCEPTED_SOURCES}")
        raise UserError(f"{unknown('dataset', source, BUNDLED)} {ACCEPTED_SOURCES}")
    from workbench.data.files import FolderImages, ImageFiles, read_files
    from workbench.data.parquet import (
        is_saved_dataset,
        parquet_files,
        read_parquet,
        read_saved_dataset,
    )

    suffix = path.suffix.lower() if is_file else ""
    if suffix in (".npy", ".npz"):
        from workbench.data.array_images import read_array_images

        return read_array_images(path, split, selection, source, decoding)
    if is_file and suffix not in (".parquet", ".zip", ".tar"):
        raise UserError(f"{source} is not of a supported type. {ACCEPTED_SOURCES}")
    if is_folder and is_saved_dataset(path):
        return read_saved_dataset(path, split, selection, source, decoding)
    tables = {} if suffix in (".zip", ".tar") else parquet_files(path)
    if tables:
        return read_parquet(tables, split, selection, source, decoding)
    from workbench.data.archives import TarImages, ZipImages, tar_files

    images: ImageFiles = FolderImages(path)
    shards = [] if suffix == ".zip" else tar_files(path)
    if suffix == ".zip":
        images = ZipImages(path)
    elif shards:
        images = TarImages(shards)
    return read_files(images, split, selection, source, decoding)


def _read_bundled(
    source: str, split: str, size: ImageSize | None, selection: Selection
) -> ImageSet:
    from workbench.data.bundled import digits, photos
    from workbench.data.shapes import shapes

    if source == "photos":
        images = photos(split, size)
    elif size is not None and not size.is_square:
        raise UserError(f"The bundled set {source} has square images only, got side={size}.")
    else:
        read = {"digits": digits, "shapes": shapes}[source]
        images = read(split, None if size is None else size.height)
    if selection.limit is not None:
        images = images.take(selection.limit)
    images = replace(images, total=len(images))
    return images if selection.sample is None else images.take(selection.sample, selection.seed)
