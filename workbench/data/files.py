"""Image files in folders and archives: subfolders are classes, and splits are folders or hashes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from workbench.core.errors import UserError
from workbench.data.encoded import EncodedImages, FileImages
from workbench.data.images import ImageSet, SourceLayout
from workbench.data.layout import EXTENSIONS, Layout, Listing, find_layout
from workbench.data.lazy import MAX_REASONS, Decoding, read_pixels
from workbench.data.regular import check_regular
from workbench.data.split import Selection


class ImageFiles(Protocol):
    """A folder or an archive of image files."""

    def layout(self, source: str) -> Layout:
        """Return the layout of the images."""
        ...

    def encoded(self, names: Sequence[str]) -> EncodedImages:
        """Return the images of these names."""
        ...

    def files_of(self, names: Sequence[str]) -> Sequence[Path]:
        """Return the files that contain these images."""
        ...


class FolderImages:
    """The images of a folder and its subfolders.

    Parameters
    ----------
    folder : Path
        The folder that is searched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def layout(self, source: str) -> Layout:
        """Return the layout of the files."""
        listing = list_folder(self.folder)
        return find_layout(listing, source, lambda name: _read_text(self.folder / name))

    def encoded(self, names: Sequence[str]) -> FileImages:
        """Return the images of these names."""
        return FileImages(self.folder, names)

    def files_of(self, names: Sequence[str]) -> list[Path]:
        """Return the paths of images."""
        return [self.folder / name for name in names]


def read_files(
    images: ImageFiles,
    split: str,
    selection: Selection,
    source: str,
    decoding: Decoding,
) -> ImageSet:
    """Read the images of a folder with its subfolders, or of an archive.

    The first subfolder (below a folder with the name of a split) names the class. If an image is
    directly in the folder, no image has a label. Hidden files and other types are ignored. See
    `workbench.data.layout`.

    Parameters
    ----------
    images : ImageFiles
        The folder or archive.
    split : {"train", "test", "all"}
        The split; "all" is every image of a folder without splits, otherwise the test images.
    selection : Selection
        The images to read.
    source : str
        Name of the folder or archive for errors.
    decoding : Decoding
        The conversion of the files to one size.

    Raises
    ------
    UserError
        If the layout is ambiguous, or there is no usable image.
    """
    layout = images.layout(source)
    names = layout.class_names
    split = chosen_split(layout, split, source)
    splits = layout.splits
    problems = layout.problems
    files = [splits[split][i] for i in selection.indices(len(splits[split]))]
    if not files:
        types = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        message = f"{source} has no image for the {split} split (of type {types})."
        raise UserError(" ".join([message, *problems[:MAX_REASONS]]))
    file_names = [file.name for file in files]
    decoded = read_pixels(
        images.encoded(file_names),
        decoding,
        source,
        files=images.files_of(file_names),
        key=tuple(file_names),
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
        layout=SourceLayout(
            name=layout.name,
            splits={name: len(part) for name, part in splits.items() if name != "all"},
            ignored=layout.ignored,
            notes=(*layout.notes, *decoded.notes),
        ),
        originals=decoded.originals,
    )


def chosen_split(layout: Layout, split: str, source: str) -> str:
    """Return the split of a layout to read: "all" is the test split of a source with splits.

    Raises
    ------
    UserError
        If the source has only held-out images, and training images are requested.
    """
    if split == "train" and "train" not in layout.splits:
        raise UserError(
            f"{source} has held-out images ({layout.name}) and no train/; to train on these images,"
            " give their own folder."
        )
    return split if split in layout.splits else "test"


def list_folder(root: Path) -> Listing:
    """Return the visible files of a folder and its subfolders.

    Raises
    ------
    UserError
        If it is the root of the file system, or its subfolders are nested too deeply.
    """
    top = root.resolve()
    if top == Path(top.anchor):
        raise UserError(f"{root} is the whole file system; name the folder that has the images.")
    try:
        return _walk(root, above={*top.parents})
    except RecursionError:
        raise UserError(f"The folders in {root} are nested too deeply to be read.") from None


def _walk(root: Path, above: set[Path]) -> Listing:
    """List a folder, without folders that were visited and links to folders above it."""
    problems: list[str] = []

    def add_problem(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be listed ({error.strerror}).")

    visited = above
    files: list[str] = []
    every_folder: list[str] = []
    for current, folders, names in os.walk(root, onerror=add_problem, followlinks=True):
        resolved = Path(current).resolve()
        if resolved in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(current).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        if prefix:
            every_folder.append(relative)
        files += [prefix + name for name in names if not name.startswith(".")]
    return Listing.from_names(files, every_folder, problems)


def _read_text(path: Path) -> str:
    check_regular([path])
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason}).") from None
