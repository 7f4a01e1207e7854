"""Folders of images: subfolders are classes; splits are folders, or chosen by hashes of paths."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.core.errors import UserError
from workbench.data.decode import MAX_REASONS, decode_all
from workbench.data.decode_cache import cached_decode
from workbench.data.images import ImageSet
from workbench.data.resize import DEFAULT_RESIZE
from workbench.data.split import TEST_NAMES, Selection, held_out_mask

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
EXTENSIONS |= {".jp2", ".j2k", ".avif"}  # the last only if Pillow was built with it


@dataclass(frozen=True)
class ImageFile:
    """A file, and the name of its class (None without classes)."""

    path: Path
    class_name: str | None


def read_folder(
    folder: Path,
    split: str,
    side: int | None,
    selection: Selection,
    source: str,
    resize: str = DEFAULT_RESIZE,
) -> ImageSet:
    """Read the images of a folder and its subfolders.

    The first subfolder (below a folder with the name of a split) names the class. If an image is
    directly in the folder, no image has a label. Hidden files and other types are ignored.

    Parameters
    ----------
    folder : Path
        The folder.
    split : {"train", "test", "all"}
        The split; "all" is every image of a folder without splits, otherwise the test images.
    side : int, optional
        Height and width in pixels; None if all images share one size.
    selection : Selection
        The images to read.
    source : str
        Name of the folder for errors.
    resize : {"lanczos", "bicubic", "adm"}
        How images are brought to this side.

    Raises
    ------
    UserError
        If there is no usable image.
    """
    splits, problems = _find_splits(folder)
    names = _class_names(splits)
    split = split if split in splits else "test"
    files = [splits[split][i] for i in selection.indices(len(splits[split]))]
    if not files:
        types = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        message = f"{source} has no image for the {split} split (of type {types})."
        raise UserError(" ".join([message, *problems[:MAX_REASONS]]))
    decoded = cached_decode(
        [file.path for file in files],
        (side, resize),
        lambda: decode_all(
            ((file.path.relative_to(folder).as_posix(), file.path) for file in files),
            count=len(files),
            side=side,
            source=source,
            resize=resize,
        ),
    )
    labels = None
    if files[0].class_name is None:
        names = ()
    else:
        label_of: dict[str | None, int] = {name: label for label, name in enumerate(names)}
        labels = np.array([label_of[files[i].class_name] for i in decoded.indices], np.int64)
    return ImageSet(
        pixels=decoded.pixels,
        labels=labels,
        names=names,
        source=source,
        split=split,
        skipped=(*problems, *decoded.skipped),
        total=selection.total(len(splits[split])),
    )


def _find_splits(folder: Path) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """Return the files of each split, and a sentence per subfolder that cannot be listed."""
    problems: list[str] = []
    train_folder = folder / "train"
    test_folders = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    if test_folders and train_folder.is_dir():
        train = _list_images(train_folder, problems)
        test = _list_images(test_folders[0], problems)
        return {"train": train, "test": test}, problems
    files = _list_images(folder, problems)
    is_test = held_out_mask(file.path.relative_to(folder).as_posix() for file in files)
    splits = {
        "train": [file for file, test in zip(files, is_test, strict=True) if not test],
        "test": [file for file, test in zip(files, is_test, strict=True) if test],
        "all": files,
    }
    return splits, problems


def _class_names(splits: dict[str, list[ImageFile]]) -> tuple[str, ...]:
    files = [file for split_files in splits.values() for file in split_files]
    return tuple(sorted({file.class_name for file in files if file.class_name is not None}))


def _list_images(root: Path, problems: list[str]) -> list[ImageFile]:
    paths = sorted(_image_paths(root, problems))
    has_classes = all(path.parent != root for path in paths)
    return [
        ImageFile(path=path, class_name=path.relative_to(root).parts[0] if has_classes else None)
        for path in paths
    ]


def _image_paths(root: Path, problems: list[str]) -> list[Path]:
    def add_problem(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be listed ({error.strerror}).")

    visited: set[Path] = set()
    paths: list[Path] = []
    for current, folders, names in os.walk(root, onerror=add_problem, followlinks=True):
        resolved = Path(current).resolve()
        if resolved in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = [Path(current) / name for name in names if not name.startswith(".")]
        paths += [path for path in visible if path.suffix.lower() in EXTENSIONS]
    return paths
