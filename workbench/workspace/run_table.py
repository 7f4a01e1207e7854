"""The list of runs as a table: state, metrics and the settings in which the runs differ."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from workbench.storage.run import Run
from workbench.workspace.filters import apply_filter, parse_filter

# A symbol and a word show the state of a run; the color only repeats them.
STATES = {
    "new": ("○", "#7f7f7f"),
    "running": ("●", "#0072b2"),
    "paused": ("‖", "#e69f00"),
    "finished": ("✔", "#009e73"),
    "stopped": ("■", "#7f7f7f"),
    "interrupted": ("▲", "#d55e00"),
    "failed": ("✖", "#d55e00"),
    "imported": ("↓", "#7f7f7f"),
}
FACTS = ("run", "PSNR (dB)", "state", "kind", "data", "step", "evidence at step")
SEARCHED = (*FACTS, "tags", "note")  # columns in which text without an operator is searched


def setting_columns(run: Run) -> dict[str, Any]:
    """Return the settings of a run, those of its training, and its recipe, by name.

    The mean and standard deviation of every latent channel are omitted: they are long lists.
    """
    settings = dict(run.config.settings)
    if settings.get("by_channel"):
        settings = {k: v for k, v in settings.items() if k not in ("mean", "std")}
    training = run.config.training
    training = {name: training[name] for name in training if name not in run.config.settings}
    return {**settings, **training, "recipe": run.config.recipe}


def with_settings(
    table: pd.DataFrame, runs: Iterable[Run], *, differing: bool = True
) -> pd.DataFrame:
    """Add columns of settings to the table of runs.

    Parameters
    ----------
    table : DataFrame
        One row per run, from `Workspace.table`.
    runs : iterable of Run
        The runs in the order of the rows.
    differing : bool
        Add only the settings in which runs that have them differ.

    Returns
    -------
    DataFrame
        The facts first, then the settings; None if a run does not have a setting.
    """
    settings = pd.DataFrame([setting_columns(run) for run in runs], index=table.index, dtype=object)
    settings = settings.where(settings.notna(), None)
    facts = table[[name for name in FACTS if name in table]]
    names = [str(name) for name in settings if name not in facts]
    if differing:
        names = [name for name in names if settings[name].dropna().map(str).nunique() > 1]
    # Each column is an object column: otherwise a gap would turn whole numbers into floats.
    columns = {
        name: pd.Series(map(_to_cell, settings[name]), index=table.index, dtype=object)
        for name in names
    }
    return pd.concat([facts, pd.DataFrame(columns, index=table.index)], axis=1)


def filter_runs(table: pd.DataFrame, text: str) -> pd.Series:
    """Find the rows that meet a filter.

    Parameters
    ----------
    table : DataFrame
        From `with_settings`.
    text : str
        A filter such as ``lr < 0.001 & kind = VQVAE``; see `workbench.workspace.filters`. Text
        without an operator is searched in the facts of a run, in any case.

    Returns
    -------
    Series of bool
        With the index of the table.

    Raises
    ------
    UserError
        If a column does not exist or the text is not a filter.
    """
    conditions = parse_filter(text, allow_text=True)
    is_met = np.ones(len(table), bool)
    if len(table):
        columns = {str(name): table[name].to_numpy() for name in table}
        is_met &= apply_filter(columns, [c for c in conditions if c.operator])
    facts = table[[name for name in SEARCHED if name in table]]
    texts = [" ".join(map(str, row)).lower() for row in facts.itertuples(index=False)]
    for condition in conditions:
        if not condition.operator:
            is_met &= np.array([condition.text.lower() in text for text in texts], bool)
    return pd.Series(is_met, index=table.index)


def readable_color(color: str) -> str:
    """Return CSS for text in a color that can be read on white and on black."""
    return f"color: color-mix(in srgb, currentColor 40%, {color})"


def _to_cell(value: Any) -> Any:
    """Return a value that a table can sort: numbers as they are, everything else as text."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
