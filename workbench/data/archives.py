"""Images in zip and tar archives, read one member at a time without unpacking."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import SEEK_CUR, SEEK_END
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from workbench.core.archive_errors import TAR_ERRORS, ZIP_ERRORS
from workbench.core.errors import UserError
from workbench.data.decode import MAX_FILE_BYTES
from workbench.data.encoded import NameTable
from workbench.data.layout import (
    EXTENSIONS,
    ImageFile,
    Layout,
    Listing,
    find_layout,
    hold_out,
    ignored_types,
)
from workbench.data.regular import check_regular
from workbench.data.split import TEST_NAMES

CLASS_EXTENSION = ".cls"  # of webdataset
ZIP_ENCRYPTED = 1  # flag bit of a member
ZIP_HEADER_MARK = b"PK\x03\x04"  # begins the header of a member
ZIP_HEADER_BYTES = 30  # before its name
TarPosition = tuple[Path, int, int]  # file, offset and size of a member


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
        except (OSError, *ZIP_ERRORS) as error:
            raise UserError(f"{self.path} cannot be read as a zip file ({error}).") from None

    def layout(self, source: str) -> Layout:
        """Return the layout of the members."""
        names = [name for name in self._archive.namelist() if name and not name.endswith("/")]
        listing = Listing.from_names(name for name in names if _is_visible(name))
        return find_layout(listing, source, self._text)

    def encoded(self, names: Sequence[str]) -> "ZipMembers":
        """Return the members of these names."""
        return ZipMembers(self.path, [self._archive.getinfo(name) for name in names])

    def files_of(self, names: Sequence[str]) -> list[Path]:
        """Return the zip file."""
        return [self.path]

    def _text(self, name: str) -> str:
        try:
            return self.encoded([name]).content(0).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{name} in {self.path} is not UTF-8 text.") from None


class ZipMembers:
    """Members of a zip file, of which only the positions are held in memory.

    Parameters
    ----------
    path : Path
        The file.
    members : sequence of ZipInfo
        Entries of the archive's directory that are images.
    """

    def __init__(self, path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
        self.path = path
        self.names = NameTable(member.filename for member in members)
        fields = [
            (
                member.header_offset,
                member.compress_size,
                member.file_size,
                member.CRC,
                member.compress_type,
                member.flag_bits,
            )
            for member in members
        ]
        self.fields = np.array(fields, np.int64).reshape(-1, 6)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the name of a member."""
        return self.names[index]

    def content(self, index: int) -> bytes:
        """Return the content of a member.

        Raises
        ------
        UserError
            If it is damaged, encrypted or too large.
        """
        name = self.names[index]
        member = zipfile.ZipInfo(name or "_")
        offset, compressed, size, crc, method, flags = self.fields[index].tolist()
        check_bytes(size, name)
        member.header_offset = offset
        member.compress_size = compressed
        member.file_size = size
        member.CRC = crc
        member.compress_type = method
        member.flag_bits = flags
        try:
            with self.path.open("rb") as file:
                return _read_member(file, member)
        except (OSError, *ZIP_ERRORS) as error:
            raise UserError(f"{name} in {self.path} cannot be read ({error}).") from None

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield the name, the size and the checksum of each member."""
        for index in indices.tolist():
            yield f"{self.names[index]} {self.fields[index, 2]} {self.fields[index, 3]}"


def _read_member(file: IO[bytes], member: zipfile.ZipInfo) -> bytes:
    """Read a member at its position, without reading the directory of the archive again."""
    if member.flag_bits & ZIP_ENCRYPTED:
        raise RuntimeError("it is encrypted")
    file.seek(member.header_offset)
    header = file.read(ZIP_HEADER_BYTES)
    if len(header) != ZIP_HEADER_BYTES or not header.startswith(ZIP_HEADER_MARK):
        raise zipfile.BadZipFile("its header is damaged")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    file.seek(name_bytes + extra_bytes, SEEK_CUR)
    data = file.read(member.compress_size)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.file_size + 1)
    elif member.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile("its compression is neither none nor deflate")
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile("its checksum is wrong")
    return data


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
    def _members(self) -> dict[str, TarPosition]:
        """The file, offset and size of each visible member, by its name."""
        members: dict[str, TarPosition] = {}
        for path in self.files:
            prefix = f"{path.name}/" if len(self.files) > 1 else ""
            try:
                with tarfile.open(path, "r:") as archive:
                    for info in members_of(archive):
                        name = PurePosixPath(info.name).as_posix()
                        if info.isreg() and _is_visible(name):
                            members[prefix + name] = (path, info.offset_data, info.size)
            except (OSError, *TAR_ERRORS) as error:
                raise UserError(
                    f"{path} cannot be read as an uncompressed tar file ({error}); copy it again,"
                    " or decompress it."
                ) from None
            check_end(path)
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

    def encoded(self, names: Sequence[str]) -> "TarMembers":
        """Return the members of these names."""
        return TarMembers(self.files, names, [self._members[name] for name in names])

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
            return self.encoded([name]).content(0).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{name} in {self._members[name][0]} is not UTF-8 text.") from None


class TarMembers:
    """Members of tar files, of which only the positions are held in memory.

    Parameters
    ----------
    files : sequence of Path
        The tar files.
    names : sequence of str
        The names of the members.
    positions : sequence of (Path, int, int)
        The file, offset and size of each member.
    """

    def __init__(
        self, files: Sequence[Path], names: Sequence[str], positions: Sequence[TarPosition]
    ) -> None:
        self.files = tuple(files)
        self.names = NameTable(names)
        index_of = {file: index for index, file in enumerate(self.files)}
        rows = [(index_of[file], offset, size) for file, offset, size in positions]
        self.positions = np.array(rows, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the name of a member."""
        return self.names[index]

    def content(self, index: int) -> bytes:
        """Return the content of a member.

        Raises
        ------
        UserError
            If it is too large or the file cannot be read.
        """
        file_index, offset, size = self.positions[index].tolist()
        path = self.files[file_index]
        check_bytes(size, self.names[index])
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from None

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield the name and the size of each member."""
        for index in indices.tolist():
            yield f"{self.names[index]} {self.positions[index, 2]}"


def members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar file.

    Raises
    ------
    TarError
        If a header is damaged. Some versions of tarfile accept members of negative size, with which
        an archive has no end.
    """
    for member in archive:
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes")
        yield member


def tar_files(path: Path) -> list[Path]:
    """Return the tar files of a folder without image files of its own, or the tar file itself.

    Raises
    ------
    UserError
        If one is not a regular file.
    """
    if path.is_file():
        return [path]
    names = sorted(path.iterdir())
    if any(name.suffix.lower() in EXTENSIONS or name.is_dir() for name in names):
        return []
    files = [name for name in names if name.suffix.lower() == ".tar"]
    check_regular(files)
    return files


def check_end(path: Path) -> None:
    """Refuse a tar file without its end mark, a block of zeros: tarfile ignores truncation.

    Raises
    ------
    UserError
        If the file is truncated.
    """
    with path.open("rb") as file:
        size = file.seek(0, SEEK_END)
        file.seek(max(size - tarfile.BLOCKSIZE, 0))
        if size % tarfile.BLOCKSIZE or any(file.read()):
            raise UserError(f"{path} is truncated; copy it again.")


def _is_visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def check_bytes(size: int, name: str) -> None:
    """Raise UserError if an encoded image is too large."""
    if size > MAX_FILE_BYTES:
        raise UserError(f"{name} has {size:,} bytes; an image may have at most {MAX_FILE_BYTES:,}.")
