"""Layouts of folders and archives of images: splits, classes, and files with labels.

A layout is detected from the names of the files alone, so that folders and archives follow the same
rules.
"""

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.data.split import TEST_NAMES, TRAIN_NAMES, held_out_mask

EXTENSIONS = {
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jp2", ".j2k", ".avif"),  # the last only if Pillow was built with it
}
LABEL_EXTENSIONS = (".txt", ".csv", ".tsv")
MAX_LISTED = 3  # names in a sentence
# Folder names of one meaning; two of them next to each other are ambiguous.
SYNONYMS = (TRAIN_NAMES, ("test", "testing"), ("val", "validation", "valid"))
# Names such as train2017 and val_set, which are probably splits.
SPLIT_LIKE = re.compile(rf"({'|'.join((*TRAIN_NAMES, *TEST_NAMES))})([^a-z].*|set|images|data)")
WRAPPER = "images"


@dataclass(frozen=True)
class ImageFile:
    """The name of an image file below its source, and of its class (None without classes)."""

    name: str
    class_name: str | None


@dataclass(frozen=True)
class Listing:
    """The visible files of a folder or an archive, by names relative to it with slashes.

    Attributes
    ----------
    images : sequence of str
        Files with an extension of an image, sorted by the parts of their names.
    others : sequence of str
        All other files.
    folders : sequence of str
        All folders, also those without files.
    problems : sequence of str
        One sentence per folder that cannot be listed.
    """

    images: Sequence[str]
    other_files: Sequence[str]
    folders: Sequence[str]
    problems: Sequence[str] = ()

    @classmethod
    def from_names(
        cls, names: Iterable[str], folders: Iterable[str] = (), problems: Sequence[str] = ()
    ) -> "Listing":
        """Return a listing of files, whose parents are folders as well.

        Parameters
        ----------
        names : iterable of str
            The names of all files.
        folders : iterable of str
            The names of folders, for those without files.
        problems : sequence of str
            One sentence per folder that cannot be listed.
        """
        ordered = sorted(names, key=lambda name: name.split("/"))
        every_folder = set(folders)
        for name in ordered:
            parent = name.rpartition("/")[0]
            while parent and parent not in every_folder:
                every_folder.add(parent)
                parent = parent.rpartition("/")[0]
        images = [name for name in ordered if _extension(name) in EXTENSIONS]
        other_files = [name for name in ordered if _extension(name) not in EXTENSIONS]
        return cls(images, other_files, sorted(every_folder), problems)


@dataclass(frozen=True)
class Layout:
    """The splits and classes of a folder or an archive.

    Attributes
    ----------
    name : str
        The pattern of the names, such as `train/CLASS and val/CLASS`.
    splits : dict of str to list of ImageFile
        "train" and "test", and "all" if a tenth of the images is held out; only "test" if there are
        no training images.
    ignored : dict of str to int
        The number of files that are not used, by their extension.
    notes : tuple of str
        Sentences about parts of the source that are probably not as intended.
    problems : tuple of str
        One sentence per folder that cannot be listed.
    is_numbered : bool
        Whether names of classes that are numbers are in numerical order.
    """

    name: str
    splits: dict[str, list[ImageFile]]
    ignored: dict[str, int]
    notes: tuple[str, ...]
    problems: tuple[str, ...] = ()
    is_numbered: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of all splits, in order."""
        files = [file for split_files in self.splits.values() for file in split_files]
        names = sorted({file.class_name for file in files if file.class_name is not None})
        if self.is_numbered and all(name.isdecimal() for name in names):
            names.sort(key=int)
        return tuple(names)


@dataclass
class _Part:
    """The images below one folder, which is a split or the whole source."""

    pattern: str
    files: list[ImageFile]
    notes: list[str]

    @property
    def has_classes(self) -> bool:
        return bool(self.files) and self.files[0].class_name is not None


def find_layout(listing: Listing, source: str, read_text: Callable[[str], str]) -> Layout:
    """Detect the layout of a folder or an archive.

    Parameters
    ----------
    listing : Listing
        The names of the files.
    source : str
        Name of the folder or archive for errors.
    read_text : callable
        Returns the content of a text file, by its name.

    Raises
    ------
    UserError
        If the layout is ambiguous, or a file with labels does not fit its images.
    """
    return _LayoutFinder(listing, source, read_text).find()


class _LayoutFinder:
    """The detection of one layout."""

    def __init__(self, listing: Listing, source: str, read_text: Callable[[str], str]) -> None:
        self.listing = listing
        self.source = source
        self.read_text = read_text
        self.labels_files: set[str] = set()
        self.children: dict[str, list[str]] = {}
        for folder in listing.folders:
            parent, _, name = folder.rpartition("/")
            self.children.setdefault(f"{parent}/" if parent else "", []).append(name)
        self.direct_images: dict[str, list[str]] = {}
        for image in listing.images:
            parent = image.rpartition("/")[0]
            self.direct_images.setdefault(f"{parent}/" if parent else "", []).append(image)
        self.occupied = {""}
        for folder in self.direct_images:
            parent = folder
            while parent not in self.occupied:
                self.occupied.add(parent)
                parent = parent[: parent.rstrip("/").rfind("/") + 1]
        self.parts: dict[str, _Part] = {}

    def find(self, prefix: str = "") -> Layout:
        """Return the layout below a folder, whose name ends with a slash or is empty."""
        train, held_out, unused = self._split_folders(prefix)
        occupied = self._occupied_subfolders(prefix)
        siblings = [name for name in occupied if name not in (train, held_out, *unused)]
        has_direct_images = bool(self._images_directly_in(prefix))
        is_split = train is not None or held_out is not None
        if is_split and not (train and held_out) and (siblings or has_direct_images):
            self._check_are_classes(train or held_out or "", siblings, prefix)
            is_split = False
        if is_split:
            return self._with_splits(prefix, train, held_out, [*unused, *siblings])
        wrappers = [name for name in occupied if name.lower() == WRAPPER]
        if wrappers and not has_direct_images:
            if len(occupied) > 1:
                listing = _listed(f"{name}/" for name in occupied if name != wrappers[0])
                raise UserError(
                    f"{self.source} has {wrappers[0]}/ next to {listing}, so that it is ambiguous"
                    f" which folders are classes; give {self.source}/{prefix}{wrappers[0]}."
                )
            return self.find(f"{prefix}{wrappers[0]}/")
        return self._without_splits(prefix, occupied)

    def _split_folders(self, prefix: str) -> tuple[str | None, str | None, list[str]]:
        """Return the training folder, the held-out folder, and held-out folders without use."""
        folders = self._subfolders(prefix)
        groups = [[name for name in folders if name.lower() in names] for names in SYNONYMS]
        for group in groups:
            if len(group) > 1:
                listed = " and ".join(f"{prefix}{name}/" for name in group)
                raise UserError(
                    f"{self.source} has {listed}, which have the same meaning; keep one of them."
                )
        train, *held_out = (group[0] if group else None for group in groups)
        candidates = [name for name in held_out if name is not None]
        if train is not None and self._part(f"{prefix}{train}/").has_classes:
            # A test set often has no public labels, and then the validation set is of more use.
            candidates.sort(key=lambda name: not self._part(f"{prefix}{name}/").has_classes)
        return train, next(iter(candidates), None), candidates[1:]

    def _check_are_classes(self, name: str, siblings: Sequence[str], prefix: str) -> None:
        """Refuse a folder with the name of a split next to others, unless all are alike."""
        is_flat = [
            not self._occupied_subfolders(f"{prefix}{folder}/") for folder in (name, *siblings)
        ]
        if siblings and all(is_flat) and not self._images_directly_in(prefix):
            return
        listing = _listed(f"{prefix}{sibling}/" for sibling in siblings) or "images"
        raise UserError(
            f"{self.source} has {prefix}{name}/ next to {listing}, so that it is ambiguous whether"
            f" {name}/ is a split or a class; give {self.source}/{prefix}{name}, or move the others"
            " away."
        )

    def _with_splits(
        self, prefix: str, train: str | None, held_out: str | None, unused: Sequence[str]
    ) -> Layout:
        names = [name for name in (train, held_out) if name is not None]
        parts = {name: self._part(f"{prefix}{name}/") for name in names}
        train_part = None if train is None else parts[train]
        if held_out is not None:
            is_labelled = train_part is None or train_part.has_classes
            if is_labelled and parts[held_out].files and not parts[held_out].has_classes:
                parts[held_out] = self._with_labels_file(
                    prefix, held_out, parts[held_out], train_part
                )
        notes = [note for part in parts.values() for note in part.notes]
        splits: dict[str, list[ImageFile]]
        if train is None:
            assert held_out is not None  # one of the folders exists
            splits = {"test": parts[held_out].files}
        elif held_out is None:
            splits = hold_out(parts[train].files)
        else:
            splits = {"train": parts[train].files, "test": parts[held_out].files}
        pattern = " and ".join(part.pattern for part in parts.values())
        if unused:
            pattern += f" (not used: {_listed(f'{prefix}{name}/' for name in unused)})"
        not_used = [name for folder in unused for name in self._images_below(f"{prefix}{folder}/")]
        not_used += self._images_directly_in(prefix)
        return self._layout(pattern, splits, notes, not_used)

    def _without_splits(self, prefix: str, occupied: Sequence[str]) -> Layout:
        part = self._part(prefix)
        if part.has_classes:
            self._check_no_hidden_splits(prefix, occupied)
        elif part.files:
            part = self._with_labels_file(prefix, "", part, None)
        return self._layout(part.pattern, hold_out(part.files), part.notes, [])

    def _check_no_hidden_splits(self, prefix: str, classes: Sequence[str]) -> None:
        """Refuse folders of classes that are probably splits, or that contain splits."""
        if all(SPLIT_LIKE.fullmatch(name.lower()) for name in classes):
            raise UserError(
                f"{self.source} has {_listed(f'{prefix}{name}/' for name in classes)}, which look"
                " like splits and not like classes; rename them to train/ and val/, or give one of"
                " them."
            )
        for name in classes:
            inner = {folder.lower() for folder in self._occupied_subfolders(f"{prefix}{name}/")}
            if inner & set(TRAIN_NAMES) and inner & set(TEST_NAMES):
                raise UserError(
                    f"{self.source} has splits inside of {prefix}{name}/; give"
                    f" {self.source}/{prefix}{name}, or put the classes inside of the splits, as in"
                    " train/CLASS."
                )

    def _layout(
        self,
        pattern: str,
        splits: dict[str, list[ImageFile]],
        notes: Sequence[str],
        not_used: Sequence[str],
    ) -> Layout:
        other_files = [name for name in self.listing.other_files if name not in self.labels_files]
        return Layout(
            name=pattern,
            splits=splits,
            ignored=ignored_types((*other_files, *not_used)),
            notes=tuple(notes),
            problems=tuple(self.listing.problems),
        )

    def _part(self, prefix: str) -> _Part:
        """Return the images below a folder; its subfolders are classes if all images are in one."""
        if prefix not in self.parts:
            self.parts[prefix] = self._find_part(prefix)
        return self.parts[prefix]

    def _find_part(self, prefix: str) -> _Part:
        direct = self._images_directly_in(prefix)
        occupied = self._occupied_subfolders(prefix)
        if not direct and len(occupied) == 1 and occupied[0].lower() == WRAPPER:
            return self._part(f"{prefix}{occupied[0]}/")
        names = self._images_below(prefix)
        if direct or not names:
            part = _Part(prefix or "a plain folder", [ImageFile(name, None) for name in names], [])
            if occupied:
                part.notes.append(
                    f"{counted(len(direct), 'image is', 'images are')} directly in"
                    f" {self.source}/{prefix}, so that its subfolders ({_listed(occupied)}) are not"
                    " classes and no image has a label."
                )
            return part
        depth = prefix.count("/")
        files = [ImageFile(name, name.split("/")[depth]) for name in names]
        part = _Part(f"{prefix}CLASS", files, [])
        empty = [f"{prefix}{name}/" for name in self._subfolders(prefix) if name not in occupied]
        if empty:
            part.notes.append(f"{self.source} has no images in {_listed(empty)}.")
        return part

    def _with_labels_file(
        self, prefix: str, folder: str, part: _Part, train: _Part | None
    ) -> _Part:
        """Return a flat part with the classes of a file with labels, if there is one.

        The folder is that of a split, or empty if the images are those of the whole source.
        """
        label_files = [
            name
            for name in self.listing.other_files
            if _is_labels_file(name, prefix, folder, is_only_split=train is None)
        ]
        if len(label_files) > 1:
            raise UserError(
                f"{self.source} has {_listed(label_files)}, which may all contain the labels of"
                f" {f'{prefix}{folder}/' if folder else 'its images'}; keep one of them."
            )
        if not label_files:
            if train is not None:
                part.notes.append(
                    f"The images in {self.source}/{prefix}{folder} have no labels, because they are"
                    " not in folders of classes; sort them into such folders, or write"
                    f" {prefix}{folder}/labels.txt with a file name and a class per line."
                )
            return part
        class_names = () if train is None else {file.class_name or "" for file in train.files}
        classes = read_labels(
            self.read_text(label_files[0]),
            [file.name for file in part.files],
            f"{self.source}/{label_files[0]}",
            class_names,
        )
        for class_name in dict.fromkeys(classes):
            if class_names and class_name not in class_names:
                raise UserError(
                    f"{self.source}/{label_files[0]} has the class {class_name}, which is not a"
                    " folder of the training images; write the names of these folders."
                )
        self.labels_files.add(label_files[0])
        files = [
            ImageFile(file.name, class_name)
            for file, class_name in zip(part.files, classes, strict=True)
        ]
        return _Part(f"{part.pattern} with {label_files[0]}", files, part.notes)

    def _subfolders(self, prefix: str) -> list[str]:
        return self.children.get(prefix, [])

    def _occupied_subfolders(self, prefix: str) -> list[str]:
        """Return the subfolders with images at any depth."""
        return [name for name in self._subfolders(prefix) if f"{prefix}{name}/" in self.occupied]

    def _images_below(self, prefix: str) -> list[str]:
        return [name for name in self.listing.images if name.startswith(prefix)]

    def _images_directly_in(self, prefix: str) -> list[str]:
        return self.direct_images.get(prefix, [])


def read_labels(
    text: str, names: Sequence[str], source: str, class_names: Container[str] = ()
) -> list[str]:
    """Return the class of each image from the content of a file with labels.

    A line is a class, in the order of the file names, or a file name and a class, separated by a
    comma, tab or space. What follows the class is ignored, and so is a first line without the name
    of an image. The extension of a file name may be missing. These are the formats of ImageNet's
    `imagenet_2012_validation_synset_labels.txt` and `LOC_val_solution.csv`, and of Tiny ImageNet's
    `val_annotations.txt`.

    Parameters
    ----------
    text : str
        The content of the file.
    names : sequence of str
        The names of the images, in order.
    source : str
        Name of the file for errors.
    class_names : container of str
        Names of classes, which may contain spaces.

    Raises
    ------
    UserError
        If the file has another number of images, or not all of them.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [_split_line(line) for line in lines]
    if all(len(row) == 1 for row in rows) or all(line in class_names for line in lines):
        if len(lines) != len(names):
            raise UserError(
                f"{source} has {len(lines):,} labels for {len(names):,} images; write one per"
                " image."
            )
        return lines
    class_of = {
        PurePosixPath(row[0]).stem: row[1] if row[1] in class_names else row[1].split()[0]
        for row in rows
        if len(row) > 1
    }
    stems = [PurePosixPath(name).stem for name in names]
    missing = [name for name, stem in zip(names, stems, strict=True) if stem not in class_of]
    if missing:
        raise UserError(
            f"{source} has no label for {len(missing):,} of {len(names):,} images, such as"
            f" {missing[0]}; write one per image."
        )
    surplus = len(class_of.keys() - set(stems))
    if surplus > 1:  # one may be a header
        raise UserError(
            f"{source} has labels for {surplus:,} files that do not exist; write one per image."
        )
    return [class_of[stem] for stem in stems]


def _split_line(line: str) -> list[str]:
    """Return the fields of a line of a file with labels, without empty ones."""
    separator = next((character for character in "\t," if character in line), None)
    fields = [field.strip() for field in line.split(separator)]
    return [field for field in fields if field]


def _is_labels_file(name: str, prefix: str, folder: str, *, is_only_split: bool) -> bool:
    """Return True for names of files that contain the labels of a split."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in LABEL_EXTENSIONS:
        return False
    stem = path.stem.lower()
    # A source without splits may be the validation folder itself.
    split = folder.lower() or "val"
    parent = f"{path.parent}/" if str(path.parent) != "." else ""
    own_name = folder.lower() or "labels"
    stems = {f"{split}_labels", f"{split}_annotations", f"loc_{split}_solution", own_name}
    if split.startswith("val"):
        stems.add("imagenet_2012_validation_synset_labels")
    if parent == f"{prefix}{folder}/" or (parent == prefix and is_only_split):
        return stem in stems | {"labels"}
    return parent == prefix and stem in stems


def hold_out(files: list[ImageFile]) -> dict[str, list[ImageFile]]:
    """Return the splits of images of which a tenth is held out, by a hash of their names.

    Parameters
    ----------
    files : list of ImageFile
        All images.
    """
    is_test = held_out_mask(file.name for file in files)
    return {
        "train": [file for file, test in zip(files, is_test, strict=True) if not test],
        "test": [file for file, test in zip(files, is_test, strict=True) if test],
        "all": files,
    }


def ignored_types(names: Iterable[str]) -> dict[str, int]:
    """Return the number of files by their extension.

    Parameters
    ----------
    names : iterable of str
        The names of the files.
    """
    counts = Counter(_extension(name) or "no extension" for name in names)
    return dict(sorted(counts.items()))


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _listed(names: Iterable[str]) -> str:
    """Return the first names, and the number of others."""
    every_name = list(names)
    text = ", ".join(every_name[:MAX_LISTED])
    rest = len(every_name) - MAX_LISTED
    return f"{text} and {rest:,} more" if rest > 0 else text
