"""Serialization of results: one JSON file, one `.npy` file per array, and a digest of both.

Classes are selected by name from the dataclasses of this package. A file cannot cause any other
code to be imported or executed. A file whose classes or fields no longer exist cannot be read.
"""

import importlib
import io
import json
import pkgutil
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from workbench import analysis
from workbench.analysis.base import Result
from workbench.storage.files import parse_json, read_bytes

JSON_FILE = "result.json"
SCALAR_TYPES = (str, int, float, bool, type(None))
DTYPE_KINDS = "biufU"  # numbers and text; no dtype that can contain objects
Tree = Any  # JSON


def write(result: Result, folder: Path) -> None:
    """Write a result into an existing, empty folder.

    Parameters
    ----------
    result : Result
        The result to store.
    folder : Path
        A new folder.

    Raises
    ------
    TypeError
        If a field has a type that cannot be serialized.
    OSError
        If a file cannot be written.
    """
    arrays: list[np.ndarray] = []
    tree = _to_tree(result, arrays)
    digests = []
    for i, array in enumerate(arrays):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        (folder / f"{i}.npy").write_bytes(buffer.getbuffer())
        digests.append(_digest(buffer.getbuffer()))
    content = {"result": tree, "arrays": digests}
    content["digest"] = _json_digest(content)
    (folder / JSON_FILE).write_text(json.dumps(content), encoding="utf-8")


def read(folder: Path) -> Result | None:
    """Read a result that was written by `write`.

    Parameters
    ----------
    folder : Path
        Folder of the stored result.

    Returns
    -------
    Result or None
        None if the files are missing or damaged, or were written by another version of the code.
    """
    try:
        content = parse_json(read_bytes(folder / JSON_FILE))
        raw = [read_bytes(folder / f"{i}.npy") for i in range(len(content["arrays"]))]
        digest = content.pop("digest")
        if digest != _json_digest(content) or content["arrays"] != [_digest(x) for x in raw]:
            return None
        arrays = [np.load(io.BytesIO(x), allow_pickle=False) for x in raw]
        result = _from_tree(content["result"], arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return result if isinstance(result, Result) else None


def _to_tree(value: Any, arrays: list[np.ndarray]) -> Tree:
    """Convert a value to JSON and append its arrays to a list.

    Everything except dataclasses, scalars and text becomes an object with one key, which names
    its type.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in DTYPE_KINDS:
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    # Before the scalars, because np.float64 is a float too.
    if isinstance(value, np.generic) and value.dtype.kind in DTYPE_KINDS:
        return {"number": [value.dtype.str, value.item()]}
    if type(value) in SCALAR_TYPES:
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [_to_tree(x, arrays) for x in value]}
    if type(value) is dict:
        return {"dict": [[_to_tree(key, arrays), _to_tree(x, arrays)] for key, x in value.items()]}
    name = _class_name(type(value))
    if name in _result_classes():
        values = {f.name: _to_tree(getattr(value, f.name), arrays) for f in fields(value)}
        return {"class": name, "fields": values}
    raise TypeError(f"A value of type {type(value).__name__} cannot be stored in a result file.")


def _from_tree(tree: Tree, arrays: list[np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "class" in tree:
        values = {name: _from_tree(x, arrays) for name, x in tree["fields"].items()}
        return _result_classes()[tree["class"]](**values)
    ((kind, content),) = tree.items()
    if kind == "array":
        return arrays[content]
    if kind == "number":
        dtype, number = content
        return np.dtype(dtype).type(number)
    if kind == "dict":
        return {_from_tree(key, arrays): _from_tree(x, arrays) for key, x in content}
    return {"tuple": tuple, "list": list}[kind](_from_tree(x, arrays) for x in content)


@cache
def _result_classes() -> dict[str, type]:
    """Return the dataclasses of this package by module and name."""
    classes = {}
    for module in pkgutil.walk_packages(analysis.__path__, f"{analysis.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            is_class = isinstance(value, type) and is_dataclass(value)
            if is_class and value.__module__ == module.name:
                classes[_class_name(value)] = value
    return classes


def _class_name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _digest(raw: bytes | memoryview) -> str:
    return blake2b(raw, digest_size=16).hexdigest()


def _json_digest(content: dict[str, Tree]) -> str:
    return _digest(json.dumps(content).encode())
