"""Hugging Face image tables, as parquet files or from the hub, read with the `datasets` library."""

import glob
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.errors import UserError
from workbench.data.decode import decode_all
from workbench.data.decode_cache import cached_decode
from workbench.data.images import ImageSet
from workbench.data.split import TEST_NAMES, held_out_mask, subsample_indices

if TYPE_CHECKING:
    import datasets

LABELS = ("label", "labels", "fine_label", "cls", "class")


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """The parquet files of each split, by "train" and "test"; only "train" where the rows are still to be split.

    A folder's files (its own, or those in its `data`) belong to a split by the start of their names; a single file
    called after a split has the other one as its sibling. Empty where there is none.
    """
    if path.is_dir():
        every = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
        train = [file for file in every if file.name.startswith("train")]
        tests = ([file for file in every if file.name.startswith(name)] for name in TEST_NAMES)
        test = next(filter(None, tests), [])
        if train and test:
            return {"train": train, "test": test}
        return {"train": train or every} if every else {}
    if path.stem in TEST_NAMES and (train := path.with_stem("train")).exists():
        return {"train": [train], "test": [path]}
    siblings = (path.with_stem(name) for name in TEST_NAMES) if path.stem == "train" else ()
    test = [file for file in siblings if file.exists()][:1]
    return {"train": [path], "test": test} if test else {"train": [path]}


def read_parquet(
    files: dict[str, list[Path]], split: str, side: int | None, limit: int | None, source: str
) -> ImageSet:
    """The images of parquet files that belong to splits as `parquet_files` says. Raises UserError."""
    import datasets

    ends = {
        name: list(accumulate(_count_rows(file) for file in some)) for name, some in files.items()
    }
    paths = {name: [glob.escape(str(file)) for file in some] for name, some in files.items()}
    try:
        tables = datasets.load_dataset("parquet", data_files=paths)
    except Exception as error:  # pyarrow's, the operating system's and the library's own
        raise UserError(f"{source} cannot be read as one table ({_first_line(error)}).") from None

    def row_name(part: str, row: int) -> str:
        nth = bisect_right(ends[part], row)
        return f"row {row - (ends[part][nth - 1] if nth else 0)} of {files[part][nth].name}"

    every = [file for some in files.values() for file in some]
    return _image_set(
        dict(tables), row_name, split=split, side=side, limit=limit, source=source, files=every
    )


def _count_rows(file: Path) -> int:
    from pyarrow.parquet import read_metadata

    try:
        return read_metadata(file).num_rows
    except Exception as error:  # pyarrow's and the operating system's
        raise UserError(f"{file} cannot be read as parquet ({_first_line(error)}).") from None


def read_hub(name: str, split: str, side: int | None, limit: int | None) -> ImageSet:
    """The images of a data set on the Hugging Face hub, `owner/name`. Raises UserError."""
    import datasets

    source = f"hub:{name}"
    try:
        tables = dict(datasets.load_dataset(name))
    except (
        Exception
    ) as error:  # no network, no such data set, no permission: each version has its own
        raise UserError(
            f"{source} could not be loaded ({_first_line(error)}). "
            "A local folder or parquet file works without a network, and so does a data set already in the cache, "
            "with HF_HUB_OFFLINE=1."
        ) from None
    train = tables.get("train", next(iter(tables.values())))
    test = next((tables[part] for part in TEST_NAMES if part in tables), train)
    parts = {"train": train} if test is train else {"train": train, "test": test}
    return _image_set(
        parts,
        lambda part, row: f"row {row} of {source}",
        split=split,
        side=side,
        limit=limit,
        source=source,
    )


def _image_set(
    tables: "dict[str, datasets.Dataset]",
    row_name: Callable[[str, int], str],
    *,
    split: str,
    side: int | None,
    limit: int | None,
    source: str,
    files: Sequence[Path] = (),
) -> ImageSet:
    import datasets

    part = split if split in tables else "train"
    table, rows = tables[part], np.arange(len(tables[part]))
    if "test" not in tables:
        rows = rows[held_out_mask(map(str, rows)) == (split == "test")]
    rows = rows[subsample_indices(len(rows), limit)]
    column = image_column(table, source)
    cells = (
        table.select_columns(column).cast_column(column, datasets.Image(decode=False)).select(rows)
    )
    contents = (
        (row_name(part, row), content(cell[column]))
        for row, cell in zip(rows.tolist(), cells, strict=True)
    )
    inside = not any(chunk.field("bytes").null_count for chunk in cells.data.column(column).chunks)
    pixels, kept, skipped = cached_decode(
        files if inside else (),  # elsewhere they may change without the table's knowing
        (part, split, side, limit),
        lambda: decode_all(contents, count=len(rows), side=side, source=source),
    )
    labels, names = _labels(tables, part)
    labels = None if labels is None else labels[rows[kept]]
    return ImageSet(pixels, labels, names, source, split, skipped=skipped)


def image_column(table: "datasets.Dataset | datasets.IterableDataset", source: str) -> str:
    """The name of the first column of images. Raises UserError where there is none."""
    import datasets

    for name, feature in table.features.items():
        struct = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
        if (
            struct
            or isinstance(feature, datasets.Image)
            or getattr(feature, "dtype", "") in ("binary", "large_binary")
        ):
            return name
    raise UserError(
        f"{source} has no column of images (bytes, or bytes and path); it has {', '.join(table.features)}."
    )


def content(cell: dict[str, bytes | str | None] | None) -> bytes | Path | None:
    """An image cell's bytes, or where they are."""
    cell = cell or {}
    return cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else None)


def _labels(
    tables: "dict[str, datasets.Dataset]", part: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels of one part's rows, and names that all parts share; none where a row lacks its label."""
    import datasets

    features = tables[part].features
    classes = [
        name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)
    ]
    plain = [
        name
        for name, feature in features.items()
        if getattr(feature, "dtype", "").startswith(("int", "string"))
    ]
    column = next((name for name in (*LABELS, *classes) if name in (*classes, *plain)), None)
    if column is None:
        return None, ()
    having = {
        name: table for name, table in tables.items() if column in table.features
    }  # read whole: rows are slow
    values = {
        name: table.with_format("arrow")[:][column].to_pylist() for name, table in having.items()
    }
    if column in classes:
        names, known = tuple(features[column].names), range(features[column].num_classes)
    else:
        known = sorted({value for some in values.values() for value in some if value is not None})
        names = tuple(map(str, known))
    label = {value: i for i, value in enumerate(known)}
    if any(
        value not in label for value in values[part]
    ):  # -1 and null are how test sets hide their labels
        return None, ()
    return np.array([label[value] for value in values[part]], np.int64), names


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
