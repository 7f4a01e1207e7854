"""Columns of image tables: the cells of images, and the labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import UserError

if TYPE_CHECKING:
    import datasets

# Names of a column of labels, in the order in which they are tried.
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class")
Tables = dict[str, "datasets.Dataset"]


def image_column(features: "Mapping[str, Any]", source: str) -> str:
    """Return the name of the first column of images.

    Parameters
    ----------
    features : mapping of str to datasets feature
        The columns of a table.
    source : str
        Name of the table for errors.

    Raises
    ------
    UserError
        If there is no such column.
    """
    for name, feature in features.items():
        if _is_image(feature):
            return name
    raise UserError(
        f"{source} must have a column of images (bytes, or bytes and path), got"
        f" {', '.join(features)}."
    )


def _is_image(feature: Any) -> bool:
    import datasets

    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def content(cell: Mapping[str, Any] | None, folder: Path) -> bytes | Path | None:
    """Return the bytes of an image cell, or the path of its file; None if it is empty.

    Parameters
    ----------
    cell : mapping or None
        The `bytes` and the `path` of an image.
    folder : Path
        The folder that the file must be in; relative paths begin there.

    Raises
    ------
    UserError
        If the file is somewhere else. A table must not choose any file of the machine.
    """
    if cell is None:
        return None
    if cell.get("bytes"):
        return cell["bytes"]
    if not cell.get("path"):
        return None
    try:
        path = (folder / cell["path"]).resolve()
    except (ValueError, OSError) as error:  # a character of value zero, or a loop of links
        raise UserError(f"A cell names an image by a path that is not valid ({error}).") from None
    if not path.is_relative_to(folder.resolve()):
        raise UserError(
            f"A cell names the image {path}, which is not in {folder}. Store the bytes of images in"
            " the table, or move the files into that folder."
        )
    return path


def image_folder(path: Path | None) -> Path:
    """Return the folder in which the files of a table's cells must be.

    Parameters
    ----------
    path : Path or None
        The table or a folder of tables; None for one of the hub, whose files are in its cache.
    """
    if path is None:
        import datasets

        return Path(datasets.config.HF_CACHE_HOME).expanduser()
    return path if path.is_dir() else path.parent


def read_labels(tables: Tables, part: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the labels of one part, and the class names that all parts share.

    There are no labels if a row has none; -1 and null hide the labels of some test sets.

    Parameters
    ----------
    tables : dict of str to datasets.Dataset
        The tables by part.
    part : str
        The part whose labels are read.

    Returns
    -------
    tuple of (ndarray of int64, shape (n,), or None) and (tuple of str)
        The labels, and the names of the classes.
    """
    import datasets

    features = tables[part].features
    column = _label_column(features)
    if column is None:
        return None, ()
    # A column is read at once, because reading row by row is slow.
    values = {
        name: table.with_format("arrow")[:][column].to_pylist()
        for name, table in tables.items()
        if column in table.features
    }
    feature = features[column]
    classes: list[Any]
    if isinstance(feature, datasets.ClassLabel):
        classes = list(range(feature.num_classes))
        names = tuple(feature.names)
    else:
        every_value = {value for part_values in values.values() for value in part_values}
        classes = sorted(every_value - {None})
        names = tuple(str(value) for value in classes)
    label_of = {value: label for label, value in enumerate(classes)}
    if any(value not in label_of for value in values[part]):
        return None, ()
    return np.array([label_of[value] for value in values[part]], np.int64), names


def label_notes(
    table: "datasets.Dataset", labels: np.ndarray | None, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return a sentence if a column with the name of labels is not used as might be expected.

    Parameters
    ----------
    table : datasets.Dataset
        The table of images that is read.
    labels : ndarray of int64, shape (n,), or None
        The labels that were read.
    names : tuple of str
        The names of the classes.

    Returns
    -------
    tuple of str
        One sentence, or none.
    """
    features = table.features
    column = _label_column(features)
    if column is None:
        unused = [name for name in LABEL_COLUMNS if name in features]
        if not unused:
            return ()
        kind = getattr(features[unused[0]], "dtype", "list")
        return (
            f"The column {unused[0]} has values of type {kind}, which are not classes, so that no "
            "image has a label. Store whole numbers or text.",
        )
    if labels is None:
        return (f"Rows of the column {column} have no class, so that no image has a label.",)
    if "-1" in names:
        return (f"-1 is a class of the column {column}. Store null where a label is missing.",)
    return ()


def _label_column(features: "Mapping[str, Any]") -> str | None:
    """Return a column with the name of labels, or else the first one of a class type."""
    import datasets

    class_columns = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
    plain_columns = [
        name
        for name, feature in features.items()
        if isinstance(feature, datasets.Value)
        and feature.dtype.startswith(("int", "uint", "string"))
    ]
    for name in (*LABEL_COLUMNS, *class_columns):
        if name in class_columns or name in plain_columns:
            return name
    return None
