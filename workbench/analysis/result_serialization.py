"""A result as files: one JSON for what it says, one `.npy` for each of its arrays, and a digest of all of them.

Classes are looked up by name among the dataclasses of this package: nothing that a file names is imported or run.
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

PLAIN = (str, int, float, bool, type(None))
KINDS = "biufU"  # of numbers: no dtype that could hold an object
Tree = Any  # what JSON holds


def write(result: Result, folder: Path) -> None:
    """Write into an existing, empty folder. Raises TypeError for what these files cannot hold, and OSError."""
    arrays: list[np.ndarray] = []
    tree = _tree(result, arrays)
    digests = []
    for i, array in enumerate(arrays):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        (folder / f"{i}.npy").write_bytes(buffer.getbuffer())
        digests.append(_digest(buffer.getbuffer()))
    told = {"result": tree, "arrays": digests}
    (folder / "result.json").write_text(
        json.dumps(told | {"digest": _of_text(told)}), encoding="utf-8"
    )


def read(folder: Path) -> Result | None:
    """What `write` wrote, with equal fields; None where it is not there, or anything differs from what was written."""
    try:
        told = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        raw = [(folder / f"{i}.npy").read_bytes() for i in range(len(told["arrays"]))]
        if told.pop("digest") != _of_text(told) or told["arrays"] != [_digest(x) for x in raw]:
            return None
        result = _value(told["result"], [np.load(io.BytesIO(x), allow_pickle=False) for x in raw])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return result if isinstance(result, Result) else None


def _tree(value: Any, arrays: list[np.ndarray]) -> Tree:
    """A value as JSON, its arrays put aside. What is no dataclass, number or text is an object with one key: its kind.

    Raises TypeError where nothing fits.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if (
        isinstance(value, np.generic) and value.dtype.kind in KINDS
    ):  # before PLAIN: some are Python's floats too
        return {"number": [value.dtype.str, value.item()]}
    if type(value) in PLAIN:
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [_tree(x, arrays) for x in value]}
    if type(value) is dict:
        return {"dict": [[_tree(key, arrays), _tree(x, arrays)] for key, x in value.items()]}
    if _name(type(value)) in _classes():
        return {
            "fields": {f.name: _tree(getattr(value, f.name), arrays) for f in fields(value)},
            "of": _name(type(value)),
        }
    raise TypeError(f"A result that is kept holds no {type(value).__name__}.")


def _value(tree: Tree, arrays: list[np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "of" in tree:
        return _classes()[tree["of"]](
            **{name: _value(x, arrays) for name, x in tree["fields"].items()}
        )
    ((kind, held),) = tree.items()
    if kind == "array":
        return arrays[held]
    if kind == "number":
        return np.dtype(held[0]).type(held[1])
    if kind == "dict":
        return {_value(key, arrays): _value(x, arrays) for key, x in held}
    return {"tuple": tuple, "list": list}[kind](_value(x, arrays) for x in held)


@cache
def _classes() -> dict[str, type]:
    """The dataclasses of this package by module and name."""
    found = {}
    for module in pkgutil.walk_packages(analysis.__path__, f"{analysis.__name__}."):
        own = vars(importlib.import_module(module.name)).values()
        found |= {
            _name(x): x
            for x in own
            if isinstance(x, type) and is_dataclass(x) and x.__module__ == module.name
        }
    return found


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _digest(raw: bytes | memoryview) -> str:
    return blake2b(raw, digest_size=16).hexdigest()


def _of_text(told: dict[str, Tree]) -> str:
    return _digest(json.dumps(told).encode())
