"""Images in zip and tar archives, read one member at a time without unpacking."""

import tarfile
import zipfile
from collections.abc import Sequence
from functools import cached_property
from os import SEEK_END
from pathlib import Path, PurePosixPath

from workbench.core.errors import UserError
from workbench.data.decode import MAX_FILE_BYTES
from workbench.data.layout import (
    EXTENSIONS,
    ImageFile,
    Layout,
    Listing,
    find_layout,
    hold_out,
    ignored_types,
)
from workbench.data.split import TEST_NAMES

CLASS_EXTENSION = ".cls"  # of webdataset


class ZipImages:
    """The images of a zip file, which has the layouts of a folder.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} cannot be read as a zip file ({error}).") from None

    def layout(self, source: str) -> Layout:
        """Return the layout of the members."""
        names = [info.filename for info in self._archive.infolist() if not info.is_dir()]
        listing = Listing.from_names(name for name in names if _is_visible(name))
        return find_layout(listing, source, self._text)

    def content(self, name: str) -> bytes:
        """Return the content of a member.

        Raises
        ------
        UserError
            If it is damaged, encrypted or too large.
        """
        try:
            _check_bytes(self._archive.getinfo(name).file_size, name)
            return self._archive.read(name)
        except (OSError, RuntimeError, zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"{name} in {self.path} cannot be read ({error}).") from None

    def files_of(self, names: Sequence[str]) -> list[Path]:
        """Return the zip file."""
        return [self.path]

    def _text(self, name: str) -> str:
        try:
            return self.content(name).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{name} in {self.path} is not UTF-8 text.") from None


class TarImages:
    """The images of tar files: shards of webdataset, or one file with the layout of a folder.

    Only the positions of the members are held in memory.

    Parameters
    ----------
    paths : sequence of Path
        The files, which must not be compressed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = tuple(paths)

    @cached_property
    def _members(self) -> dict[str, tuple[Path, int, int]]:
        """The file, offset and size of each visible member, by its name."""
        members: dict[str, tuple[Path, int, int]] = {}
        for path in self.files:
            prefix = f"{path.name}/" if len(self.files) > 1 else ""
            try:
                with tarfile.open(path, "r:") as archive:
                    for info in archive:
                        name = PurePosixPath(info.name).as_posix()
                        if info.isreg() and _is_visible(name):
                            members[prefix + name] = (path, info.offset_data, info.size)
            except (OSError, tarfile.TarError) as error:
                raise UserError(
                    f"{path} cannot be read as an uncompressed tar file ({error}); copy it again,"
                    " or decompress it."
                ) from None
            _check_end(path)
        return members

    def layout(self, source: str) -> Layout:
        """Return the layout of the members."""
        has_classes = any(name.endswith(CLASS_EXTENSION) for name in self._members)
        if len(self.files) == 1 and not has_classes:
            return find_layout(Listing.from_names(self._members), source, self._text)
        listing = Listing.from_names(self._members)
        images = [self._sample(name, source, has_classes) for name in listing.images]
        train = [file for file in images if self._shard(file).startswith("train")]
        test: list[ImageFile] = []
        for split in TEST_NAMES:
            test = test or [file for file in images if self._shard(file).startswith(split)]
        splits = {"train": train, "test": test} if train and test else hold_out(train or images)
        name = "webdataset shards" if has_classes else "webdataset shards without classes"
        other_files = [
            other for other in listing.other_files if not other.endswith(CLASS_EXTENSION)
        ]
        return Layout(name, splits, ignored_types(other_files), (), is_numbered=True)

    def content(self, name: str) -> bytes:
        """Return the content of a member.

        Raises
        ------
        UserError
            If it is too large or the file cannot be read.
        """
        path, offset, size = self._members[name]
        _check_bytes(size, name)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from None

    def files_of(self, names: Sequence[str]) -> list[Path]:
        """Return the tar files."""
        return list(self.files)

    def _shard(self, file: ImageFile) -> str:
        return self._members[file.name][0].name.lower()

    def _sample(self, name: str, source: str, has_classes: bool) -> ImageFile:
        """Return an image with the class of its sample, whose files differ in their extensions."""
        if not has_classes:
            return ImageFile(name, None)
        folder, slash, base = name.rpartition("/")
        class_file = f"{folder}{slash}{base.partition('.')[0]}{CLASS_EXTENSION}"
        if class_file not in self._members:
            raise UserError(
                f"{name} in {source} has no class; every sample must have a {CLASS_EXTENSION} file,"
                " or none."
            )
        return ImageFile(name, self._text(class_file).strip())

    def _text(self, name: str) -> str:
        try:
            return self.content(name).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{name} in {self._members[name][0]} is not UTF-8 text.") from None


def tar_files(path: Path) -> list[Path]:
    """Return the tar files of a folder without image files of its own, or the tar file itself."""
    if path.is_file():
        return [path]
    names = sorted(path.iterdir())
    if any(name.suffix.lower() in EXTENSIONS or name.is_dir() for name in names):
        return []
    return [name for name in names if name.suffix.lower() == ".tar"]


def _check_end(path: Path) -> None:
    """Refuse a tar file without its end mark, a block of zeros: tarfile ignores truncation."""
    with path.open("rb") as file:
        size = file.seek(0, SEEK_END)
        file.seek(max(size - tarfile.BLOCKSIZE, 0))
        if size % tarfile.BLOCKSIZE or any(file.read()):
            raise UserError(f"{path} is truncated; copy it again.")


def _is_visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_FILE_BYTES:
        raise UserError(f"{name} has {size:,} bytes; an image may have at most {MAX_FILE_BYTES:,}.")
