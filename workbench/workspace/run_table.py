"""The list of runs as a table: how each stands, the settings in which they differ, and which ones a filter keeps."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from workbench.core.errors import UserError, unknown
from workbench.storage.run import Run

# How a run stands is told by a symbol and a word; colour only repeats it.
STATES = {
    "new": ("○", "#7f7f7f"),
    "running": ("●", "#0072b2"),
    "paused": ("‖", "#e69f00"),
    "finished": ("✔", "#009e73"),
    "stopped": ("■", "#7f7f7f"),
    "interrupted": ("▲", "#d55e00"),
    "failed": ("✖", "#d55e00"),
}
FACTS = ("run", "state", "PSNR (dB)", "kind", "data", "step", "evidence at step")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip
PREDICATE = re.compile(r"\s*(\w[\w .()-]*?)\s*(<=|>=|!=|<|>|=)\s*(.+?)\s*")


def setting_columns(run: Run) -> dict[str, Any]:
    """What a run was made with: its settings, then its training settings, and its recipe; no moments of every channel of latents."""
    settings = run.config["settings"]
    training = {
        name: value for name, value in run.config.get("training", {}).items() if name not in settings
    }
    told = {
        name: settings[name]
        for name in settings
        if not (name in ("mean", "std") and settings.get("by_channel"))
    }
    return {**told, **training, "recipe": run.config.get("recipe")}


def with_settings(
    table: pd.DataFrame, runs: Iterable[Run], *, differing: bool = True
) -> pd.DataFrame:
    """The table of runs with a column for every setting, or only for those in which runs that have it differ.

    Facts come first. A run that has no such setting has None.
    """
    told = pd.DataFrame([setting_columns(run) for run in runs], index=table.index, dtype=object)
    told = told.where(told.notna(), None)
    facts = table[[name for name in FACTS if name in table]]
    shown = [
        name
        for name in told
        if name not in facts and (not differing or len(set(map(str, told[name].dropna()))) > 1)
    ]
    # Column by column: a whole number beside a gap would become a broken one.
    columns = {
        name: pd.Series(map(_plain, told[name]), index=table.index, dtype=object) for name in shown
    }
    return pd.concat([facts, pd.DataFrame(columns, index=table.index)], axis=1)


def matching(table: pd.DataFrame, text: str) -> pd.Series:
    """Which rows a filter keeps, by the table's index: `lr<0.001 & kind=VQVAE`, or a part of any fact's text.

    A row without such a value is not kept. Raises UserError for a column that is not there.
    """
    kept = pd.Series(True, index=table.index)
    for part in filter(None, (part.strip() for part in text.split("&"))):
        predicate = PREDICATE.fullmatch(part)
        if predicate is None:
            facts = table[[name for name in FACTS if name in table]].itertuples(index=False)
            kept &= np.array(
                [part.lower() in " ".join(map(str, row)).lower() for row in facts], bool
            )
        else:
            name, sign, value = predicate.groups()
            kept &= (
                table[_column(table, name)]
                .map(lambda one, s=sign, v=value: _holds(one, s, v))
                .astype(bool)
            )
    return kept


def highlighted(colour: str) -> str:
    """A colour as CSS that can be read as text, on white and on black: mixed with the text's own."""
    return f"color: color-mix(in srgb, currentColor 40%, {colour})"


def _column(table: pd.DataFrame, name: str) -> str:
    """A column by its name, or by what stands before its unit, in any case."""
    known = {str(column).lower(): column for column in table}
    known |= {str(column).lower().partition(" (")[0]: column for column in table}
    if name.lower() not in known:
        raise unknown(
            "column", name, difflib.get_close_matches(name, map(str, table), 5, 0.4) or FACTS
        )
    return known[name.lower()]


def _holds(value: Any, sign: str, asked: str) -> bool:
    if value is None or value != value:
        return False
    compare = OPERATORS[sign]
    try:
        return compare(float(value), float(asked))
    except ValueError:
        if sign not in ("=", "!="):
            raise UserError(
                f"`{asked}` cannot be compared with {value}; after {sign} comes a number."
            ) from None
    return compare(str(value).lower(), asked.lower())


def _plain(value: Any) -> Any:
    """A value that a table can sort: numbers stay, all else is text."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
