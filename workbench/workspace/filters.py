"""One grammar of filters, for the list of runs and for selections of images.

A filter is one or more conditions with ``&`` between them; all of them must hold::

    filter    = condition { "&" condition }
    condition = column operator value { "," value }  |  text
    operator  = "<"  |  "<="  |  ">"  |  ">="  |  "="  |  "!="

``=`` with several values means any of them, and ``!=`` none of them; the other operators take one
number. A column is named in any case, with or without its unit: ``psnr >= 25`` reads the column
``PSNR (dB)``. Text without an operator is searched in the facts of a run; selections of images do
not accept it. A row without a value meets no condition on it.

Examples: ``lr < 0.001 & kind = VQVAE``, ``error > 0.05 & class = 3``, ``code = 17, 23``.

A filter may come from the address of a page, so parsing takes time linear in its length, and length
and number of conditions are limited.
"""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from workbench.core.errors import UserError, unknown

MAX_FILTER_CHARS = 10_000
MAX_CONDITIONS = 32
MAX_QUOTED_CHARS = 60
MAX_LISTED_NAMES = 12
MAX_NEAREST = 5
EXAMPLE = "error > 0.05 & class = 3"
OPERATOR = re.compile(r"<=|>=|!=|<|>|=")
ORDERINGS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """One condition of a filter.

    Attributes
    ----------
    text : str
        The condition as it was written.
    column : str
        Name of the column; empty if the condition is text to search for.
    operator : str
        One of ``< <= > >= = !=``; empty for text.
    values : tuple of str
        What the column is compared with.
    """

    text: str
    column: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


def parse_filter(text: str, *, allow_text: bool = False) -> tuple[Condition, ...]:
    """Split a filter into its conditions.

    Parameters
    ----------
    text : str
        A filter in the grammar of this module; empty without conditions.
    allow_text : bool
        Whether a condition may be text without an operator.

    Returns
    -------
    tuple of Condition

    Raises
    ------
    UserError
        If the text is not a filter, or is too long.

    Examples
    --------
    >>> [(c.column, c.operator, c.values) for c in parse_filter("error > 0.05 & code = 17, 23")]
    [('error', '>', ('0.05',)), ('code', '=', ('17', '23'))]
    """
    if len(text) > MAX_FILTER_CHARS:
        raise UserError(f"A filter has at most {MAX_FILTER_CHARS:,} characters, got {len(text):,}.")
    parts = text.split("&") if text.strip() else []
    if len(parts) > MAX_CONDITIONS:
        raise UserError(f"A filter has at most {MAX_CONDITIONS} conditions, got {len(parts):,}.")
    # An empty condition is one that is still being typed.
    stripped = (part.strip() for part in parts)
    return tuple(_parse_condition(part, allow_text) for part in stripped if part or not allow_text)


def _parse_condition(text: str, allow_text: bool) -> Condition:
    match = OPERATOR.search(text)
    if match is None:
        if allow_text:
            return Condition(text)
        raise UserError(f"`{shorten(text)}` is not a condition; an example is `{EXAMPLE}`.")
    column, symbol = text[: match.start()].strip(), match[0]
    values = tuple(value.strip() for value in text[match.end() :].split(","))
    if not column:
        raise UserError(f"`{shorten(text)}` has no column before `{symbol}`.")
    if "" in values:
        raise UserError(f"`{shorten(text)}` lacks a value after `{symbol}`.")
    if symbol in ORDERINGS:
        if len(values) > 1:
            raise UserError(f"`{symbol}` takes one number, got `{shorten(', '.join(values))}`.")
        _parse_number(values[0])
    return Condition(text, column, symbol, values)


def apply_filter(columns: Mapping[str, np.ndarray], conditions: Iterable[Condition]) -> np.ndarray:
    """Find the rows that meet all conditions.

    Parameters
    ----------
    columns : Mapping of str to ndarray, shape (n,) or (n, m)
        Numbers, text or objects. With several values per row, `=` means that any of them is
        equal, and `!=` that none is.
    conditions : iterable of Condition
        From `parse_filter`, without text to search for.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    UserError
        If a column does not exist, or a value cannot be compared with it.
    """
    count = len(next(iter(columns.values())))
    is_met = np.ones(count, bool)
    for condition in conditions:
        column = np.asarray(columns[find_column(columns, condition.column)])
        is_met &= _meets(column.reshape(count, -1), condition)
    return is_met


def check_values(column: np.ndarray, name: str, conditions: Iterable[Condition]) -> None:
    """Raise UserError if a condition compares a column of names with one that is not in it.

    Parameters
    ----------
    column : ndarray of str
        Names, such as those of classes.
    name : str
        The name of the column.
    conditions : iterable of Condition
        Conditions on this column and on others.
    """
    values = [
        value
        for condition in conditions
        if condition.column.lower() == name and condition.operator in ("=", "!=")
        for value in condition.values
    ]
    names = {str(text).lower(): str(text) for text in np.unique(column)}
    for value in values:
        if value.lower() not in names:
            raise _unknown(name, value, list(names.values()))


def find_column(names: Iterable[str], name: str) -> str:
    """Return the column of this name, in any case and with or without its unit.

    Raises
    ------
    UserError
        With the nearest name, if there is no such column.
    """
    columns = list(names)
    column_by_name = {column.lower().partition(" (")[0]: column for column in columns}
    column_by_name |= {column.lower(): column for column in columns}
    if name.lower() not in column_by_name:
        raise _unknown("column", name, columns)
    return column_by_name[name.lower()]


def _unknown(kind: str, name: str, names: list[str]) -> UserError:
    """Return the error for an unknown name. Of many names, it lists the nearest and the first."""
    unlisted = len(names) - MAX_LISTED_NAMES
    if unlisted <= 0:
        return unknown(kind, shorten(name), names)
    nearest = difflib.get_close_matches(shorten(name), names, MAX_NEAREST, 0.4)
    listed = list(dict.fromkeys([*nearest, *names]))[:MAX_LISTED_NAMES]
    message = str(unknown(kind, shorten(name), listed))
    return UserError(f"{message.removesuffix('.')} and {unlisted} more.")


def shorten(text: str) -> str:
    """Cut a quotation for an error message."""
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}…"


def _meets(column: np.ndarray, condition: Condition) -> np.ndarray:
    """Return which rows (n, m) meet a condition, bool (n,)."""
    if condition.operator in ORDERINGS:
        compare = ORDERINGS[condition.operator]
        is_true = compare(_numbers(column, condition), float(condition.values[0]))
        return np.asarray(is_true.any(axis=1))
    is_known = _is_known(column)
    is_equal = (_is_equal(column, condition) & is_known).any(axis=1)
    if condition.operator == "=":
        return is_equal
    return ~is_equal & is_known.any(axis=1)


def _is_equal(column: np.ndarray, condition: Condition) -> np.ndarray:
    """Return where a column equals any of the values: as numbers if possible, otherwise as text."""
    values = condition.values
    if column.dtype.kind in "biuf":
        return np.isin(column, [_parse_number(value) for value in values])
    # A cell may itself be a list: "0.9, 0.95".
    texts = {value.lower() for value in (*values, ", ".join(values))}
    if column.dtype.kind == "U":
        return np.isin(np.char.lower(column), sorted(texts))
    numbers = {number for value in values if (number := _to_number(value)) is not None}
    cells = column.ravel().tolist()
    is_equal = [str(cell).lower() in texts or _to_number(cell) in numbers for cell in cells]
    return np.array(is_equal, bool).reshape(column.shape)


def _numbers(column: np.ndarray, condition: Condition) -> np.ndarray:
    """Return a column as floats, NaN where it has no value."""
    if column.dtype.kind in "biuf":
        return column
    numbers = np.full(column.size, np.nan)
    is_known = _is_known(column).ravel()
    for i, cell in enumerate(column.ravel().tolist()):
        number = _to_number(cell)
        if number is not None:
            numbers[i] = number
        elif is_known[i]:
            example = f"{condition.column} = {cell}"
            raise UserError(
                f"{condition.column} is not a number, so `{condition.operator}` does not apply; "
                f"an example is `{shorten(example)}`."
            )
    return numbers.reshape(column.shape)


def _is_known(column: np.ndarray) -> np.ndarray:
    """Return where a column has a value: neither None nor NaN."""
    if column.dtype.kind in "biuU":
        return np.ones(column.shape, bool)
    if column.dtype.kind == "f":
        return ~np.isnan(column)
    is_known = [cell is not None and cell == cell for cell in column.ravel().tolist()]
    return np.array(is_known, bool).reshape(column.shape)


def _to_number(value: object) -> float | None:
    """Return a number or a text as a number; None if it is not one."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _parse_number(text: str) -> float:
    number = _to_number(text)
    if number is None:
        raise UserError(f"`{shorten(text)}` is not a number.")
    return number
