"""Real images, bundled or your own, behind one function and one noun."""

import warnings
from dataclasses import replace
from pathlib import Path

from workbench.core.errors import UserError, missing_extra, unknown
from workbench.data.images import ImageSet, with_channels

__all__ = ["BUNDLED", "ImageSet", "load"]

BUNDLED = ("digits", "photos", "shapes")
OTHERS = "A folder of images, a parquet file, a folder of them, or hub:owner/name will do."


def load(
    source: str,
    *,
    split: str = "train",  # or "test"
    side: int
    | None = None,  # pixels; None: the bundled set's own, or the one size that all files share
    channels: int | None = None,  # 1 or 3; None: the source's own
    limit: int | None = None,  # read at most this many images, drawn at random; None: all
) -> ImageSet:
    """Images by the name of a bundled set, the path of a folder or parquet file, hub:owner/name, or the first of
    stream:PATH (see stream.py), which training reads as it goes.

    Files that cannot be read are skipped: one warning counts them, and `skipped` says why, file by file. Raises
    UserError for a source, a split or a number that is none, and where no image can be read.
    """
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    if channels not in (None, 1, 3):
        raise UserError(f"Images have 1 or 3 channels, not {channels}.")
    for name, value, least in (("side", side, 4), ("limit", limit, 1)):
        if value is not None and value < least:
            raise UserError(f"The {name} must be at least {least}, not {value}.")
    try:
        images = _read(str(source), split, side, limit)
    except ModuleNotFoundError as error:
        raise missing_extra(str(error.name), "train", f"Reading {source}") from None
    if images.skipped:
        several = f"{len(images.skipped)} files were" if len(images.skipped) > 1 else "1 file was"
        warnings.warn(
            f"{several} skipped in {source}: {' '.join(images.skipped[:3])}", stacklevel=2
        )
    return replace(images, pixels=with_channels(images.pixels, channels))


def _read(source: str, split: str, side: int | None, limit: int | None) -> ImageSet:
    if source in BUNDLED:
        return _read_bundled(source, split, side, limit)
    if source.startswith("stream:"):
        from workbench.data.stream import first_images

        return first_images(source.removeprefix("stream:"), split, side, None, limit)
    if source.startswith("hub:"):
        from workbench.data.parquet import read_hub

        return read_hub(source.removeprefix("hub:"), split, side, limit)
    path = Path(source).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}).") from None
    if not (is_folder or is_file):
        if "/" in source or "\\" in source or path.suffix:
            raise UserError(f"{source} does not exist. {OTHERS}")
        raise UserError(f"{unknown('data set', source, BUNDLED)} {OTHERS}")
    from workbench.data.files import read_folder
    from workbench.data.parquet import parquet_files, read_parquet

    if is_file and path.suffix != ".parquet":
        raise UserError(f"{source} is not a parquet file. {OTHERS}")
    if tables := parquet_files(path):
        return read_parquet(tables, split, side, limit, source)
    return read_folder(path, split, side, limit, source)


def _read_bundled(source: str, split: str, side: int | None, limit: int | None) -> ImageSet:
    from workbench.data.bundled import digits, photos
    from workbench.data.shapes import shapes

    draw = {"digits": digits, "photos": photos, "shapes": shapes}[source]
    images = draw(split, side)
    return images.take(limit) if limit else images
