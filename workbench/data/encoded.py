"""Encoded images by index: files, members of archives, cells of tables, rows of arrays."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, overload

import numpy as np

Content = Path | bytes | np.ndarray | None


class EncodedImages(Protocol):
    """Images that are read one at a time and are not decoded yet.

    Only what locates them is held in memory. Several processes may read at the same time.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of an image for errors."""
        ...

    def content(self, index: int) -> Content:
        """Return an image: its file, its encoded bytes, or its uint8 pixels (h, w, 1 or 3).

        Raises
        ------
        UserError
            If the container of the images is damaged.
        """
        ...

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield texts that differ if the images do, without decoding, such as names and sizes."""
        ...


class NameTable(Sequence[str]):
    """Many names in little memory: one block of bytes, and where each name ends.

    Parameters
    ----------
    names : iterable of str
        Names in the order in which they are indexed.

    Examples
    --------
    >>> names = NameTable(["a.png", "folder/b.png"])
    >>> len(names), names[1]
    (2, 'folder/b.png')
    """

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "list[str]": ...

    def __getitem__(self, index: int | slice) -> "str | list[str]":
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._text[start : int(self._ends[index])])


class FileImages:
    """Image files of a folder.

    Parameters
    ----------
    folder : Path
        The folder that contains the files, directly or in subfolders.
    names : sequence of str
        The names of the files, relative to the folder.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = NameTable(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the name of a file."""
        return self.names[index]

    def content(self, index: int) -> Path:
        """Return the path of a file."""
        return self.folder / self.names[index]

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield the name and the size of each file."""
        for index in indices.tolist():
            name = self.names[index]
            try:
                size = (self.folder / name).stat().st_size
            except OSError:  # reading the image reports the error
                size = 0
            yield f"{name} {size}"


class ArrayImages:
    """Images of a uint8 array.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, h, w, 1 or 3)
        The images, for example memory-mapped.
    rows : ndarray of int
        The rows of the array to use.
    source : str
        Name of the array for errors.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray, source: str) -> None:
        self.pixels = pixels
        self.rows = rows
        self.source = source

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """Return the row of an image in words."""
        return f"row {self.rows[index]} of {self.source}"

    def content(self, index: int) -> np.ndarray:
        """Return the pixels of an image."""
        return np.asarray(self.pixels[self.rows[index]])

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield the shape of the array and the rows."""
        yield f"array {self.pixels.shape} {index_hash(self.rows[indices])}"


def index_hash(indices: np.ndarray) -> str:
    """Return a hash of indices."""
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
