"""Image tables of Hugging Face, as parquet files or from the hub, read with `datasets`."""

import glob
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.errors import UserError
from workbench.data.encoded import index_hash
from workbench.data.images import ImageSet, SourceLayout
from workbench.data.lazy import Decoding, read_pixels
from workbench.data.regular import check_regular
from workbench.data.split import TEST_NAMES, Selection, held_out_mask
from workbench.data.table_columns import (
    Tables,
    content,
    image_column,
    image_folder,
    label_notes,
    read_labels,
)

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class TableSource:
    """Tables by split, and how to name their rows.

    Attributes
    ----------
    name : str
        Name of the source for errors.
    tables : dict of str to datasets.Dataset
        "train" and "test"; only "train" if the rows are still to be split.
    row_name : callable
        Returns the name of a row for errors, from the split and the index of the row.
    folder : Path
        The folder that the files of cells must be in.
    files : sequence of Path
        The files that the tables are read from.
    """

    name: str
    tables: Tables
    row_name: Callable[[str, int], str]
    folder: Path
    files: Sequence[Path] = ()


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Return the parquet files of each split.

    Files of a folder (its own, or those of its subfolder `data`) belong to a split by the start of
    their names. A single file with the name of a split has the other split next to it.

    Parameters
    ----------
    path : Path
        A folder or a file.

    Returns
    -------
    dict of str to list of Path
        Files of "train" and "test"; of "train" alone if the rows are still to be split; empty if
        there are none.

    Raises
    ------
    UserError
        If one is not a regular file.
    """
    files = _files_of_folder(path) if path.is_dir() else _files_next_to(path)
    for split_files in files.values():
        check_regular(split_files)
    return files


def _files_of_folder(folder: Path) -> dict[str, list[Path]]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        return {}
    train = [file for file in files if file.name.startswith("train")]
    for name in TEST_NAMES:
        test = [file for file in files if file.name.startswith(name)]
        if train and test:
            return {"train": train, "test": test}
    return {"train": train or files}


def _files_next_to(file: Path) -> dict[str, list[Path]]:
    if file.stem in TEST_NAMES:
        train = file.with_stem("train")
        if train.exists():
            return {"train": [train], "test": [file]}
    if file.stem == "train":
        for name in TEST_NAMES:
            test = file.with_stem(name)
            if test.exists():
                return {"train": [file], "test": [test]}
    return {"train": [file]}


def read_parquet(
    files: dict[str, list[Path]],
    split: str,
    selection: Selection,
    source: str,
    decoding: Decoding,
) -> ImageSet:
    """Read the images of parquet files.

    Parameters
    ----------
    files : dict of str to list of Path
        The files of each split, see `parquet_files`.
    split : {"train", "test", "all"}
        The split; "all" is every image of files without splits, otherwise the test images.
    selection : Selection
        The images to read.
    source : str
        Name of the files for errors.
    decoding : Decoding
        The conversion of the images to one size.

    Raises
    ------
    UserError
        If the files cannot be read, or have no usable images.
    """
    import datasets

    row_ends = {
        name: list(accumulate(count_rows(file) for file in split_files))
        for name, split_files in files.items()
    }
    patterns = {
        name: [glob.escape(str(file)) for file in split_files]
        for name, split_files in files.items()
    }
    if not any(ends[-1] for ends in row_ends.values()):
        raise UserError(f"{source} has no rows. Use a file with images.")
    try:
        cache = Path(datasets.config.HF_DATASETS_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{source} cannot be copied into the cache {cache} ({error.strerror}). Set the "
            "environment variable HF_HOME to a folder that can be written."
        ) from None
    try:
        tables = dict(datasets.load_dataset("parquet", data_files=patterns))
    except Exception as error:  # of pyarrow, the operating system and the library itself
        raise UserError(f"{source} cannot be read as one table ({first_line(error)}).") from None

    def row_name(part: str, row: int) -> str:
        index = bisect_right(row_ends[part], row)
        start = row_ends[part][index - 1] if index else 0
        return f"row {row - start} of {files[part][index].name}"

    every_file = [file for split_files in files.values() for file in split_files]
    return _read_images(
        TableSource(
            name=source,
            tables=tables,
            row_name=row_name,
            folder=image_folder(Path(source).expanduser()),
            files=every_file,
        ),
        split,
        selection,
        decoding,
    )


def is_saved_dataset(path: Path) -> bool:
    """Return True for a folder that `datasets.Dataset.save_to_disk` has written."""
    is_table = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return is_table or (path / "dataset_dict.json").is_file()


def read_saved_dataset(
    path: Path,
    split: str,
    selection: Selection,
    source: str,
    decoding: Decoding,
) -> ImageSet:
    """Read the images of a dataset or a dictionary of datasets that `save_to_disk` has written.

    Parameters
    ----------
    path : Path
        The folder, whose tables are memory-mapped.
    split : {"train", "test", "all"}
        The split; "all" is every image of a dataset without splits, otherwise the test images.
    selection : Selection
        The images to read.
    source : str
        Name of the folder for errors.
    decoding : Decoding
        The conversion of the images to one size.

    Raises
    ------
    UserError
        If the folder is damaged, or has no usable images.
    """
    import datasets

    _check_saved_files(path)
    try:
        saved = datasets.load_from_disk(str(path))
        parts = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
        tables = _train_and_test(parts)
    except Exception as error:  # of pyarrow, the operating system and the library itself
        raise UserError(
            f"{source} cannot be read as a saved dataset ({first_line(error)})."
        ) from None
    return _read_images(
        TableSource(
            name=source,
            tables=tables,
            row_name=lambda part, row: f"row {row} of {part} of {source}",
            folder=path,
            files=sorted(path.rglob("*.arrow")),
        ),
        split,
        selection,
        decoding,
    )


def _check_saved_files(path: Path) -> None:
    """Refuse files that are not regular, and names of tables outside of the folder."""
    check_regular(file for file in path.rglob("*") if not file.is_dir())
    for state in path.rglob("state.json"):
        try:
            names = [
                str(file["filename"]) for file in json.loads(state.read_bytes())["_data_files"]
            ]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{state} is damaged: it does not list the files of tables.") from None
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise UserError(f"{state} names {outside[0]}, which is not a file of its folder.")


def read_hub(
    name: str,
    split: str,
    selection: Selection,
    decoding: Decoding,
) -> ImageSet:
    """Read the images of a dataset on the Hugging Face hub.

    Parameters
    ----------
    name : str
        `owner/name`.
    split : {"train", "test", "all"}
        The split; "all" is every image of a dataset without splits, otherwise the test images.
    selection : Selection
        The images to read.
    decoding : Decoding
        The conversion of the images to one size.

    Raises
    ------
    UserError
        If the dataset cannot be loaded, or has no usable images.
    """
    import datasets

    source = f"hub:{name}"
    try:
        parts = dict(datasets.load_dataset(name))
    except Exception as error:  # no network, no such dataset, no permission: each has its own
        raise UserError(
            f"{source} cannot be loaded ({first_line(error)}). Use a local folder or parquet file,"
            " or a dataset that is in the cache, with HF_HUB_OFFLINE=1."
        ) from None
    return _read_images(
        TableSource(
            name=source,
            tables=_train_and_test(parts),
            row_name=lambda part, row: f"row {row} of {source}",
            folder=image_folder(None),
        ),
        split,
        selection,
        decoding,
    )


def _train_and_test(parts: Tables) -> Tables:
    """Return the train and test tables; the train table alone if there is no other one."""
    train = parts.get("train", next(iter(parts.values())))
    test = next((parts[name] for name in TEST_NAMES if name in parts), train)
    return {"train": train} if test is train else {"train": train, "test": test}


class TableCells:
    """Images in the cells of a table, which is memory-mapped.

    Parameters
    ----------
    cells : datasets.Dataset
        The column of the images, not decoded.
    column : str
        Its name.
    rows : ndarray of int
        The rows to use.
    source : TableSource
        The tables.
    part : str
        The split of `source` that the cells are of.
    """

    def __init__(
        self,
        cells: "datasets.Dataset",
        column: str,
        rows: np.ndarray,
        source: TableSource,
        part: str,
    ) -> None:
        self.cells = cells
        self.column = column
        self.rows = rows
        self.source = source
        self.part = part

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """Return the row of an image in words."""
        return self.source.row_name(self.part, int(self.rows[index]))

    def content(self, index: int) -> bytes | Path | None:
        """Return the content of a cell, or the file that it names."""
        cell = self.cells[int(self.rows[index])][self.column]
        return content(cell, self.source.folder)

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield the names and sizes of the files of the table, and the rows."""
        for file in self.source.files:
            yield f"{file.name} {file.stat().st_size}"
        yield f"{self.part} {len(self.cells)} {index_hash(self.rows[indices])}"


def _read_images(
    source: TableSource, split: str, selection: Selection, decoding: Decoding
) -> ImageSet:
    if split == "all" and "test" in source.tables:
        split = "test"
    part = split if split in source.tables else "train"
    table = source.tables[part]
    rows = _rows_of_split(len(table), split, has_test="test" in source.tables)
    total = selection.total(len(rows))
    rows = rows[selection.indices(len(rows))]
    cells, column, are_embedded = _image_cells(table, source.name)
    decoded = read_pixels(
        TableCells(cells, column, rows, source, part),
        decoding,
        source.name,
        # Files outside the table may change without any change of the table.
        files=source.files if are_embedded else (),
        key=(part, split, selection),
    )
    labels, names = read_labels(source.tables, part)
    return ImageSet(
        pixels=decoded.pixels,
        labels=None if labels is None else labels[rows[decoded.indices]],
        names=names,
        source=source.name,
        split=split,
        skipped=decoded.skipped,
        total=total,
        layout=_layout(source.tables, (*decoded.notes, *label_notes(table, labels, names))),
        originals=decoded.originals,
    )


def _layout(tables: Tables, notes: tuple[str, ...]) -> SourceLayout:
    counts = {name: len(table) for name, table in tables.items()}
    if "test" in counts:
        return SourceLayout("tables of two splits", counts, {}, notes)
    count = counts["train"]
    num_held_out = len(_rows_of_split(count, "test", has_test=False))
    splits = {"train": count - num_held_out, "test": num_held_out}
    return SourceLayout("one table", splits, {}, notes)


def _rows_of_split(count: int, split: str, *, has_test: bool) -> np.ndarray:
    rows = np.arange(count)
    if has_test or split == "all":
        return rows
    is_test = held_out_mask(str(row) for row in rows)
    return rows[is_test == (split == "test")]


def _image_cells(table: "datasets.Dataset", source: str) -> "tuple[datasets.Dataset, str, bool]":
    """Return the column of the images, its name, and whether all cells contain their bytes."""
    import datasets

    column = image_column(table.features, source)
    undecoded = table.select_columns(column).cast_column(column, datasets.Image(decode=False))
    chunks = undecoded.data.column(column).chunks
    are_embedded = not any(chunk.field("bytes").null_count for chunk in chunks)
    return undecoded, column, are_embedded


def count_rows(file: Path) -> int:
    """Return the number of rows of a parquet file, from its end.

    Parameters
    ----------
    file : Path
        The parquet file, of which only the footer is read.

    Raises
    ------
    UserError
        If it is truncated, or is not a parquet file.
    """
    from pyarrow.parquet import read_metadata

    try:
        return read_metadata(file).num_rows
    except Exception as error:  # of pyarrow and the operating system
        raise UserError(f"{file} cannot be read as parquet ({first_line(error)}).") from None


def first_line(error: Exception) -> str:
    """Return the first line of the message of an error, without its full stop."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
