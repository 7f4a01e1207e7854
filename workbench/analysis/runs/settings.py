"""Comparison of the settings of runs, as recorded in the provenance of their evidence."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.plotting import table
from workbench.storage.evidence import Evidence

MISSING_VALUE = "–"
MAX_VALUE_CHARACTERS = 60
MAX_NAMED_SETTINGS = 10
FIXED_COLUMN_WIDTHS = (10, 34)  # of the columns "part" and "setting"
RUN_COLUMN_WIDTH = 24
# Entries of a provenance that follow from other entries, or from the time of collection.
CLASS_PATH = re.compile(r"^workbench(\.\w+)+:(?=\w+$)")  # of a class of this package
DERIVED_PARTS = ("versions", "not_collected", "generator")
CHOSEN_OF_IMPORTED = ("address", "revision", "options")  # the rest follows from the model
DERIVED_NAMES = ("fingerprint", "of", "protocol", "feature_extractor_reason", "step", "grid")


@dataclass(frozen=True)
class Setting:
    """One setting, and its value in each run as text."""

    part: str  # settings, data, versions, ...
    name: str
    values: tuple[str, ...]

    @property
    def known_values(self) -> tuple[str, ...]:
        """The values of the runs that have this setting."""
        return tuple(value for value in self.values if value != MISSING_VALUE)

    @property
    def is_comparable(self) -> bool:
        """True if a person chose it, and at least two runs have it."""
        if self.part == "imported":
            is_chosen = self.name in CHOSEN_OF_IMPORTED
        elif self.part == "run":
            is_chosen = self.name not in DERIVED_NAMES
        else:
            is_chosen = self.part not in DERIVED_PARTS
        return is_chosen and len(self.known_values) > 1

    @property
    def differs(self) -> bool:
        """True if it is comparable, and not all runs that have it have the same value."""
        return self.is_comparable and len(set(self.known_values)) > 1


@dataclass(frozen=True, kw_only=True)
class SettingsComparison(Result):
    """The settings of runs side by side."""

    runs: tuple[str, ...]
    settings: tuple[Setting, ...]  # of all runs, including those that are not displayed
    show: Literal["differing", "all"]

    @property
    def differing(self) -> tuple[Setting, ...]:
        """The settings that at least two runs have, with values that differ."""
        return tuple(setting for setting in self.settings if setting.differs)

    @property
    def num_comparable(self) -> int:
        """The number of settings that at least two runs have."""
        return sum(setting.is_comparable for setting in self.settings)

    @property
    def displayed(self) -> tuple[Setting, ...]:
        """The rows of the table: the differences, or all settings on request or if none differ."""
        if self.show == "all" or not self.differing:
            return self.settings
        return self.differing

    def figure(self) -> go.Figure:
        """Draw the table, one column per run; differences are marked if all settings are shown."""
        has_marks = len(self.displayed) > len(self.differing) > 0
        labels = []
        for setting in self.displayed:
            is_marked = has_marks and setting.differs
            labels.append(f"{setting.name} ≠" if is_marked else setting.name)
        columns = {"part": [setting.part for setting in self.displayed], "setting": labels}
        for i, run in enumerate(self.runs):
            columns[run] = [_shorten(setting.values[i]) for setting in self.displayed]
        subtitle = f"{len(self.differing)} of {self.num_comparable} settings differ"
        subtitle += " · only settings that at least two runs have are compared"
        if has_marks:
            subtitle += " (≠)"
        widths = [*FIXED_COLUMN_WIDTHS, *[RUN_COLUMN_WIDTH] * len(self.runs)]
        return table.draw(columns, widths, title="Settings", subtitle=subtitle)

    def table(self) -> pd.DataFrame:
        """Return one row per setting and one column per run, with values as text."""
        rows = [(s.part, s.name, s.differs, *map(_shorten, s.values)) for s in self.displayed]
        return pd.DataFrame(rows, columns=["part", "setting", "differs", *self.runs])

    def summary(self) -> str:
        """State how many settings differ, and which."""
        num_settings = len(self.settings)
        num_runs = len(self.runs)
        if num_runs < 2:
            return f"{self.runs[0]} has {num_settings} settings; select a second run to compare."
        if not self.differing:
            return f"The settings that {num_runs} runs have in common are the same."
        names = ", ".join(setting.name for setting in self.differing[:MAX_NAMED_SETTINGS])
        if len(self.differing) > MAX_NAMED_SETTINGS:
            names += f", and {len(self.differing) - MAX_NAMED_SETTINGS} more"
        return (
            f"{len(self.differing)} of {self.num_comparable} shared settings differ between"
            f" {num_runs} runs: {names}."
        )


def settings_comparison(
    evidences: Sequence[Evidence], *, show: Literal["differing", "all"] = "differing"
) -> SettingsComparison:
    """Compare the settings of runs.

    Parameters
    ----------
    evidences : sequence of Evidence
        Evidence of the runs, whose provenance records their settings.
    show : {"differing", "all"}, default "differing"
        Display only the settings that at least two runs have and that differ, or the whole
        provenance of all runs.

    Returns
    -------
    SettingsComparison
        The value of each setting in each run, as text.

    Examples
    --------
    >>> from workbench.storage.evidence import Evidence
    >>> runs = [
    ...     Evidence({"run": "a", "step": 1, "settings": {"dim": 8}}),
    ...     Evidence({"run": "b", "step": 1, "settings": {"dim": 16}}),
    ... ]
    >>> settings_comparison(runs).summary()
    '1 of 1 shared settings differ between 2 runs: dim.'
    """
    values_by_run = [dict(_flatten(evidence.provenance)) for evidence in evidences]
    # The keys of all runs without repetition, in the order of their first occurrence.
    keys = list(dict.fromkeys(key for values in values_by_run for key in values))
    keys.sort(key=lambda key: (key[0] != "settings", key[0] == "versions"))
    settings = tuple(
        Setting(
            part=part,
            name=name,
            values=tuple(values.get((part, name), MISSING_VALUE) for values in values_by_run),
        )
        for part, name in keys
    )
    return SettingsComparison(runs=run_names(evidences), settings=settings, show=show)


def run_names(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """Return a distinct name for each run.

    The name is that of the folder. Repeated names are followed by the step of the checkpoint, and
    if that is not enough, by a number.
    """
    folder_names = [evidence.run_name for evidence in evidences]
    names = [
        f"{evidence.run_name} @ {evidence.step}"
        if folder_names.count(evidence.run_name) > 1
        else evidence.run_name
        for evidence in evidences
    ]
    return tuple(
        f"{name} #{names[:i].count(name) + 1}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    )


def _flatten(provenance: dict[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the entries of a provenance as ((part, name), text)."""
    for name, value in provenance.items():
        if name == "changes":  # they are contained in the settings
            continue
        if isinstance(value, dict):
            for key, inner in value.items():
                yield (name, key), _text(inner)
        elif name != "run":
            yield ("run", name), _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(inner)}" for name, inner in value.items())
    values = value if isinstance(value, (list, tuple)) else (value,)
    text = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return CLASS_PATH.sub("", text)


def _shorten(text: str) -> str:
    """Leave out the middle of a long text; paths differ at their end."""
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    half = (MAX_VALUE_CHARACTERS - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
