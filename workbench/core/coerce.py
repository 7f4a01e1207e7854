"""Convert settings to their declared types, from Python or from text, and to JSON.

This is the one place where text becomes a value. pydantic converts; this module adds the notations
of a command line (`8,5,5` for a tuple, `none` for a missing value, `1e4` for an integer) and
one-sentence errors.
"""

import functools
import math
import types
import typing
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError, unknown
from workbench.core.image_size import ImageSize, as_side


def coerce(
    kind: Any, name: str, value: Any, *, low: float = -math.inf, high: float = math.inf
) -> Any:
    """Convert a value to a declared type.

    Parameters
    ----------
    kind : type
        The declared type: bool, int, float, str, a Literal, a tuple or list of these, a `Side` of
        images, or one of these `| None`. Annotations of an `Annotated` type are ignored.
    name : str
        The name of the setting, for the error.
    value : object
        The value: text, or a Python object that fits the type.
    low, high : float
        The allowed range of a number, both ends included.

    Returns
    -------
    object
        The value in the declared type.

    Raises
    ------
    UserError
        If the value does not fit the type, is out of range, or is not finite.

    Examples
    --------
    >>> coerce(int, "steps", "1e4")
    10000
    >>> coerce(tuple[int, ...], "levels", "8,5,5")
    (8, 5, 5)
    >>> coerce(float | None, "lr", "none") is None
    True
    """
    import pydantic

    kind = _without_annotations(kind)
    if ImageSize in typing.get_args(kind):
        return None if _is_none(value) and _is_optional(kind) else as_side(value, name)
    try:
        converted = _adapter(kind).validate_python(_from_text(kind, value))
    except (pydantic.ValidationError, ValueError, TypeError, OverflowError, RecursionError):
        choices = _choices(kind)
        if choices and isinstance(value, str):
            raise unknown(name, value, map(str, choices)) from None
        raise UserError(_message(kind, name, value, low, high)) from None
    if isinstance(converted, int | float) and not low <= converted <= high:
        raise UserError(_message(kind, name, value, low, high))
    return converted


def to_json(value: Any) -> Any:
    """Return a value as JSON stores it: tuples as lists, paths and sizes of images as text."""
    if isinstance(value, Path | ImageSize):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


@functools.lru_cache(maxsize=256)
def _adapter(kind: Any) -> Any:
    import pydantic

    config = pydantic.ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)
    return pydantic.TypeAdapter(kind, config=config)


def _from_text(kind: Any, value: Any) -> Any:
    """Translate the notations that pydantic does not accept."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if _is_none(value):
            return None
        return _from_text(_without_none(kind), value)
    if origin is typing.Literal:
        return next((choice for choice in parts if str(choice) == str(value)), value)
    if origin in (tuple, list) or kind in (tuple, list):
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if not parts:
            return items
        kinds = parts[:1] * len(items) if origin is list or Ellipsis in parts else parts
        if len(kinds) != len(items):
            return items
        return [_from_text(part, item) for part, item in zip(kinds, items, strict=True)]
    if kind is int and isinstance(value, str):
        return _integer(value)
    if kind is str and isinstance(value, Path):
        return str(value)
    return value


def _is_none(value: Any) -> bool:
    return value is None or str(value).lower() == "none"


def _is_optional(kind: Any) -> bool:
    return types.NoneType in typing.get_args(kind)


def _integer(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        number = float(text)  # such as 1e4
    return int(number) if number == int(number) else number


def _without_annotations(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _without_none(kind: Any) -> Any:
    (part,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return part


def _choices(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = _without_none(kind)
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def _message(kind: Any, name: str, value: Any, low: float, high: float) -> str:
    expected = _expected(kind)
    if low > -math.inf and high < math.inf:
        expected += f" from {low:g} to {high:g}"
    return f"{name} must be {expected}, got `{to_json(value)}`."


def _expected(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return f"{_expected(_without_none(kind))} or none"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and Ellipsis not in parts:
        return f"{len(parts)} numbers separated by commas, as in 0.9,0.95"
    if origin in (tuple, list) or kind in (tuple, list):
        return "numbers separated by commas" if parts else "values separated by commas"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, str(kind))
