"""Evidence that is being collected: arrays on disk that are written batch by batch, resumably.

The arrays are `.npy` files of their final size in a folder next to the evidence. Each process
records there which rows of which pass over the images it has completed. Rows of a batch that was
not recorded are computed again, so a process may be killed at any moment.
"""

import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.errors import RunError
from workbench.storage.atomic import read_json, replace_folder, replaced_file, write_text
from workbench.storage.evidence_arrays import ARRAYS
from workbench.storage.files import load_array
from workbench.storage.leftovers import remove_leftovers, temporary_path
from workbench.storage.mapped_array import create_mapped_array
from workbench.storage.provenance_file import write_provenance

KEY_FILE = "key.json"
RECORD_INTERVAL_S = 5.0  # at most this much work of a killed process is done again
RECORD_NAME = "complete-{rank}.json"
ROW_AXES = ("image", "picture", "sample")  # axes that are written in batches


class EvidenceWriter:
    """The arrays of one collection, and the record of what is complete.

    Several processes may write different rows of the same arrays. They must run on one machine,
    because they share the files through its page cache.

    Parameters
    ----------
    folder : Path
        The folder of the unfinished arrays, which `start` has created.
    lengths : mapping of str to int
        The lengths of the axes `image`, `picture` and `sample`.
    rank : int
        The index of this process.
    """

    def __init__(self, folder: Path, lengths: Mapping[str, int], rank: int = 0) -> None:
        self.folder = folder
        self.lengths = dict(lengths)
        self.dropped: dict[str, str] = {}
        self._record = folder / RECORD_NAME.format(rank=rank)
        self._complete: dict[str, list[tuple[int, int]]] = {}
        self._recorded_at = time.monotonic()
        for path in sorted(folder.glob(RECORD_NAME.format(rank="*"))):
            stored: dict[str, Any] = read_json(path, {})
            self.dropped |= stored.get("dropped", {})
            for name, ranges in stored.get("complete", {}).items():
                self._complete.setdefault(name, []).extend((a, b) for a, b in ranges)
        for name, ranges in self._complete.items():
            self._complete[name] = _merged(ranges)

    @staticmethod
    def start(folder: Path, key: Mapping[str, Any]) -> bool:
        """Create the folder, or keep it if it is of an earlier collection of the same arrays.

        Parameters
        ----------
        folder : Path
            The folder of the unfinished arrays.
        key : mapping
            Everything that decides the values of the arrays. Unfinished arrays of another key are
            removed.

        Returns
        -------
        bool
            True if an earlier collection is resumed.

        Raises
        ------
        RunError
            If the folder cannot be written.
        """
        text = json.dumps(key, indent=1, sort_keys=True, default=str)
        with _written(folder):
            is_same = read_json(folder / KEY_FILE, {}) == json.loads(text)
            if is_same and (folder / KEY_FILE).exists():
                remove_leftovers(folder)
                return True
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_text(folder / KEY_FILE, text)
        return False

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def names(self) -> list[str]:
        """Return the names of the arrays that exist, in the order of their declaration."""
        return [name for name in ARRAYS if name in self]

    def write(self, arrays: Mapping[str, np.ndarray], rows: slice | None = None) -> None:
        """Write arrays, or some rows of them.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Values by the names of `ARRAYS`. An array without an axis of images or samples is
            written once, and ignored from then on.
        rows : slice, optional
            The images or samples of the values. Of the axis `picture`, rows beyond its length are
            ignored. By default the arrays are complete.

        Raises
        ------
        RunError
            If the disk is full, or a file cannot be written. What is complete is kept.
        ValueError
            If a value does not have its declared axes and type.
        """
        with _written(self.folder):
            for name, values in arrays.items():
                fault = ARRAYS[name].fault(values)
                if fault:
                    raise ValueError(f"The array {name} does not fit: {fault}.")
                axis = _row_axis(name)
                if axis is None or rows is None:
                    self._write_whole(name, values)
                else:
                    self._write_rows(name, values, axis, rows)

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Return a copy of some rows of an array; the first axis must be that of the rows."""
        return np.array(load_array(self._path(name))[rows])

    def discard(self, names: Collection[str]) -> None:
        """Remove arrays, such as those of a collector that turned out not to apply."""
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def drop(self, collector: str, reason: str) -> None:
        """Record that a collector does not apply, and why."""
        self.dropped[collector] = reason
        self._save_record()

    def missing(self, work: str, parts: Collection[slice]) -> list[slice]:
        """Return the parts of a pass that are not complete."""
        ranges = self._complete.get(work, [])
        return [p for p in parts if not any(a <= p.start and p.stop <= b for a, b in ranges)]

    def complete(self, work: str, part: slice) -> None:
        """Declare a part of a pass complete; it is recorded within a few seconds."""
        self._complete[work] = _merged([*self._complete.get(work, []), (part.start, part.stop)])
        if time.monotonic() - self._recorded_at > RECORD_INTERVAL_S:
            self.record()

    def record(self) -> None:
        """Write the arrays to the disk, and then the record of what is complete."""
        with _written(self.folder):
            for name in self.names():
                _synchronize(self._path(name))
        self._save_record()

    def publish(self, target: Path, provenance: Mapping[str, Any]) -> None:
        """Add the provenance with digests, and move the folder to its final path.

        Parameters
        ----------
        target : Path
            The folder of the evidence, which is replaced as a whole.
        provenance : mapping
            The origin of the arrays.

        Raises
        ------
        RunError
            If the folder cannot be written.
        """
        with _written(target):
            remove_leftovers(self.folder)
            write_provenance(self.folder, provenance, self.names())
            for path in [*self.folder.glob(RECORD_NAME.format(rank="*")), self.folder / KEY_FILE]:
                path.unlink()
            replace_folder(self.folder, target)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _save_record(self) -> None:
        content = {"complete": self._complete, "dropped": self.dropped}
        write_text(self._record, json.dumps(content))
        self._recorded_at = time.monotonic()

    def _write_whole(self, name: str, values: np.ndarray) -> None:
        if name in self:
            return
        with replaced_file(self._path(name)) as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)

    def _write_rows(self, name: str, values: np.ndarray, axis: int, rows: slice) -> None:
        length = self.lengths[ARRAYS[name].axes[axis]]
        stop = min(rows.stop, length)
        if rows.start >= stop:
            return
        if name not in self:
            shape = [*values.shape]
            shape[axis] = length
            self._create(name, values.dtype, tuple(shape))
        leading = (slice(None),) * axis
        # A map that stays open would count as resident memory, page after page.
        array = np.load(self._path(name), mmap_mode="r+", allow_pickle=False)
        array[(*leading, slice(rows.start, stop))] = values[(*leading, slice(stop - rows.start))]

    def _create(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Create an array, unless another process creates it at the same time."""
        temporary = temporary_path(self._path(name))
        try:
            create_mapped_array(temporary, dtype, shape)
            with suppress(FileExistsError):
                os.link(temporary, self._path(name))
        finally:
            temporary.unlink(missing_ok=True)


def _row_axis(name: str) -> int | None:
    """Return the position of the axis of images or samples; None if an array has none."""
    axes = ARRAYS[name].axes
    return next((i for i, axis in enumerate(axes) if axis in ROW_AXES), None)


def _merged(ranges: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort ranges, and join those that touch or overlap.

    Examples
    --------
    >>> _merged([(4, 8), (0, 2), (2, 4), (10, 12)])
    [(0, 8), (10, 12)]
    """
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _synchronize(path: Path) -> None:
    """Write what the system holds of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Raise RunError instead of OSError in the block."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"The evidence in {folder} could not be written: {error.strerror or error}. What is "
            "complete was kept; the same command resumes."
        ) from None
