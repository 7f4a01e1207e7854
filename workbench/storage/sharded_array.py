"""An array in parts along its first axis, of which only the requested rows are read."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@runtime_checkable
class RowArray(Protocol):
    """An array with one row per item, of which only the requested rows are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the number of rows, and the shape of a row."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Return the rows of a slice, or at an array of indices."""
        ...


class ShardedArray:
    """Rows of several arrays, one after another, such as memory-mapped files.

    Parameters
    ----------
    parts : sequence of ndarray
        At least one array; all have the same shape but for the first axis.
    dtype : dtype, optional
        The type of the rows that are returned; by default that of the first part.

    Examples
    --------
    >>> array = ShardedArray([np.array([[1], [2]]), np.array([[3]])])
    >>> array.shape, array[np.array([2, 0])].tolist(), array[1:].tolist()
    ((3, 1), [[3], [1]], [[2], [3]])
    """

    def __init__(self, parts: Sequence[np.ndarray], dtype: npt.DTypeLike | None = None) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.dtype = self._parts[0].dtype if dtype is None else np.dtype(dtype)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all rows together."""
        return (len(self), *self._parts[0].shape[1:])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return a copy of the rows of a slice, or at an array of indices from 0."""
        indices = np.arange(len(self))[rows]
        selected = np.empty((len(indices), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self._ends, indices, side="right")
        for owner in np.unique(owners):
            is_owned = owners == owner
            part = self._parts[owner]
            start = self._ends[owner] - len(part)
            selected[is_owned] = part[indices[is_owned] - start]
        return selected
