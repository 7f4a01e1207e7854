"""Settings in their declared types, from Python or from a command line's text, and back to what JSON keeps."""

import math
import types
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError


def coerce(kind: Any, name: str, value: Any) -> Any:
    """A setting in its declared type, from Python or from a command line's text."""
    parts, origin = typing.get_args(kind), typing.get_origin(kind)
    try:
        if origin is types.UnionType:
            (kind,) = (part for part in parts if part is not types.NoneType)
            return None if str(value).lower() == "none" else coerce(kind, name, value)
        if origin is typing.Literal:
            return next(part for part in parts if str(part) == str(value))
        if origin is tuple:
            given = value.split(",") if isinstance(value, str) else list(value)
            kinds = parts[:1] * len(given) if Ellipsis in parts else parts
            return tuple(coerce(kind, name, one) for kind, one in zip(kinds, given, strict=True))
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                str(value).lower()
            ]
        if kind is int:
            return _whole(value)
        if kind is float and not math.isfinite(float(value)):
            raise ValueError
        return kind(value)
    except (ValueError, KeyError, TypeError, OverflowError, StopIteration):
        expected = {int: "a whole number", float: "a number", bool: "true or false"}.get(
            kind, str(kind)
        )
        if origin is typing.Literal:
            expected = f"one of {', '.join(map(str, parts))}"
        if origin is tuple:
            expected = (
                "numbers with commas between them"
                if Ellipsis in parts
                else f"{len(parts)} numbers, as in 0.9,0.95"
            )
        raise UserError(f"{name} takes {expected}; got `{to_json(value)}`.") from None


def _whole(value: Any) -> int:
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
        value = float(value)  # 1e4
    if value != int(value):
        raise ValueError
    return int(value)


def to_json(value: Any) -> Any:
    """A value as JSON keeps it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
