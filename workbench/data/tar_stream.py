"""Webdataset shards that are read in order, without an index."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.archive_errors import TAR_ERRORS
from workbench.core.errors import UserError
from workbench.data.archives import (
    CLASS_EXTENSION,
    check_bytes,
    check_end,
    members_of,
    tar_files,
)
from workbench.data.layout import EXTENSIONS
from workbench.data.split import TEST_NAMES

if TYPE_CHECKING:
    import datasets


def shard_files(path: Path) -> dict[str, list[Path]]:
    """Return the tar files of each split, which begin with its name.

    Parameters
    ----------
    path : Path
        A folder of tar files, or one tar file.

    Returns
    -------
    dict of str to list of Path
        Files of "train" and "test"; of "train" alone if no name begins with that of a split; empty
        if there are no tar files.
    """
    if path.is_file() and path.suffix.lower() != ".tar":
        return {}
    files = tar_files(path)
    train = [file for file in files if file.name.lower().startswith("train")]
    for name in TEST_NAMES:
        test = [file for file in files if file.name.lower().startswith(name)]
        if test:
            return {"train": train, "test": test} if train else {"test": test}
    return {"train": files} if files else {}


def open_shards(files: Sequence[Path]) -> "datasets.IterableDataset":
    """Open tar files as a stream with the columns `image` and, if there are classes, `label`.

    Parameters
    ----------
    files : sequence of Path
        The tar files, which must not be compressed.

    Raises
    ------
    UserError
        If a file is damaged.
    """
    import datasets

    for file in files:
        check_end(file)
    columns: dict[str, Any] = {"image": datasets.Image(decode=False)}
    has_classes = _has_classes(files[0])
    if has_classes:
        columns["label"] = datasets.Value("int64")
    return datasets.IterableDataset.from_generator(
        samples,
        features=datasets.Features(columns),
        # The list is what processes and the shuffling of files divide.
        gen_kwargs={"files": [str(file) for file in files], "has_classes": has_classes},
    )


def samples(files: Sequence[str], has_classes: bool) -> Iterator[dict[str, Any]]:
    """Yield the images of tar files, and their classes.

    The files of a sample follow each other, and their names differ in the extensions only.

    Parameters
    ----------
    files : sequence of str
        The tar files.
    has_classes : bool
        Whether every sample must have a class.

    Yields
    ------
    dict
        `image`, with its `bytes`, and `label`.

    Raises
    ------
    UserError
        If a file is damaged, or a sample has no class or one that is not a number.
    """
    for file in files:
        sample = _Sample(file, has_classes)
        try:
            with tarfile.open(file, "r:") as archive:
                for member in members_of(archive):
                    if not member.isreg():
                        continue
                    key, extension = _split_name(member.name)
                    if key != sample.key:
                        yield from sample.rows()
                        sample = _Sample(file, has_classes, key)
                    if extension in EXTENSIONS or extension == CLASS_EXTENSION:
                        check_bytes(member.size, member.name)
                        content = archive.extractfile(member)
                        assert content is not None  # it is a regular file
                        sample.add(extension, content.read())
        except UserError:
            raise
        except (OSError, *TAR_ERRORS) as error:
            raise UserError(f"{file} cannot be read ({error}); copy it again.") from None
        yield from sample.rows()


class _Sample:
    """The image and the class of one sample of a tar file."""

    def __init__(self, file: str, has_classes: bool, key: str = "") -> None:
        self.file = file
        self.has_classes = has_classes
        self.key = key
        self.image: bytes | None = None
        self.class_text: bytes | None = None

    def add(self, extension: str, content: bytes) -> None:
        if extension == CLASS_EXTENSION:
            self.class_text = content
        else:
            self.image = content

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the row of the sample, if it has an image."""
        if self.image is None:
            return
        row: dict[str, Any] = {"image": {"bytes": self.image, "path": None}}
        if self.has_classes:
            row["label"] = self._label()
        yield row

    def _label(self) -> int:
        try:
            return int(self.class_text or b"")
        except ValueError:
            raise UserError(
                f"{self.key} in {self.file} must have a {CLASS_EXTENSION} file with an integer, as"
                " the first sample has one."
            ) from None


def _split_name(name: str) -> tuple[str, str]:
    """Return the key of a member and its extension, as webdataset does.

    Examples
    --------
    >>> _split_name("a.b/0001.JPG")
    ('a.b/0001', '.jpg')
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{extension}".lower()


def _has_classes(file: Path) -> bool:
    """Return True if the first sample of a tar file has a class."""
    first_key = ""
    try:
        with tarfile.open(file, "r:") as archive:
            for member in members_of(archive):
                key, extension = _split_name(member.name)
                if not member.isreg() or extension not in (*EXTENSIONS, CLASS_EXTENSION):
                    continue
                first_key = first_key or key
                if key != first_key:
                    return False
                if extension == CLASS_EXTENSION:
                    return True
    except (OSError, *TAR_ERRORS) as error:
        raise UserError(f"{file} cannot be read as an uncompressed tar file ({error}).") from None
    return False
