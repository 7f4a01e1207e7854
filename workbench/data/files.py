"""A folder of images: subfolders are classes, and the splits are its own or drawn by a hash of each file's path."""

import os
from itertools import compress
from pathlib import Path

import numpy as np

from workbench.core.errors import UserError
from workbench.data.decode import decode_all
from workbench.data.decode_cache import cached_decode
from workbench.data.images import ImageSet
from workbench.data.split import TEST_NAMES, held_out_mask, subsample_indices

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
Entry = tuple[Path, str | None]  # a file, and its class


def read_folder(
    folder: Path, split: str, side: int | None, limit: int | None, source: str
) -> ImageSet:
    """The images under a folder and its subfolders; files of other types and hidden ones are ignored.

    The first subfolder below the split's own names the class; where any image lies directly in it, none has a label.
    Raises UserError where there is no usable image.
    """
    splits, problems = _splits(folder)
    names = tuple(
        sorted({name for entries in splits.values() for _, name in entries if name is not None})
    )
    entries = [splits[split][i] for i in subsample_indices(len(splits[split]), limit)]
    if not entries:
        known = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(
            " ".join(
                [f"{source} holds no image for the {split} split (of type {known}).", *problems[:3]]
            )
        )
    contents = ((file.relative_to(folder).as_posix(), file) for file, _ in entries)
    pixels, kept, skipped = cached_decode(
        (file for file, _ in entries),
        (side,),
        lambda: decode_all(contents, count=len(entries), side=side, source=source),
    )
    problems += skipped
    if entries[0][1] is None:
        return ImageSet(pixels, None, (), source, split, skipped=tuple(problems))
    labels = np.array([names.index(entries[i][1]) for i in kept], np.int64)
    return ImageSet(pixels, labels, names, source, split, skipped=tuple(problems))


def _splits(folder: Path) -> tuple[dict[str, list[Entry]], list[str]]:
    """The files of each split, and a sentence for each subfolder that cannot be listed."""
    problems: list[str] = []
    train = folder / "train"
    test = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if test is not None and train.is_dir():
        return {"train": _entries(train, problems), "test": _entries(test, problems)}, problems
    entries = _entries(folder, problems)
    out = held_out_mask(file.relative_to(folder).as_posix() for file, _ in entries)
    return {"train": list(compress(entries, ~out)), "test": list(compress(entries, out))}, problems


def _entries(root: Path, problems: list[str]) -> list[Entry]:
    files = sorted(_image_files(root, problems))
    classes = [file.relative_to(root).parts[0] for file in files if file.parent != root]
    return list(
        zip(files, classes if len(classes) == len(files) else [None] * len(files), strict=True)
    )


def _image_files(root: Path, problems: list[str]) -> list[Path]:
    def note(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be listed ({error.strerror}).")

    seen, found = set(), []
    for here, folders, files in os.walk(root, onerror=note, followlinks=True):
        real = Path(here).resolve()
        if real in seen:  # a link to a folder above would lead around for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (Path(here) / name for name in files if not name.startswith("."))
        found += [file for file in shown if file.suffix.lower() in EXTENSIONS]
    return found
