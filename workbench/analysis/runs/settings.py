"""Runs held against each other by what they were made with: the settings in which they differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.base import Result
from workbench.analysis.plotting import table
from workbench.storage.evidence import Evidence

ABSENT = "–"  # a run has no such setting
LONGEST = 60  # letters of a value
TOLD = 10  # settings that a sentence names


@dataclass(frozen=True)
class Setting:
    """One thing runs were made with, and its value in each as text."""

    part: str  # settings, data, versions, ...
    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether two runs have two values."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class SettingsCompared(Result):
    """The settings of runs side by side."""

    runs: tuple[str, ...]
    settings: tuple[Setting, ...]  # of all runs, shown or not
    show: Literal["differing", "all"]

    @property
    def differing(self) -> tuple[Setting, ...]:
        """Those that not all runs share."""
        return tuple(setting for setting in self.settings if setting.differs)

    @property
    def shown(self) -> tuple[Setting, ...]:
        """What the table holds: the differences, or everything where that is asked for or there are none."""
        return self.settings if self.show == "all" or not self.differing else self.differing

    def figure(self) -> go.Figure:
        """The table, a column a run; where all is shown, what differs is marked."""
        mark = len(self.shown) > len(self.differing) > 0
        columns = {
            "part": [s.part for s in self.shown],
            "setting": [f"{s.name} ≠" if mark and s.differs else s.name for s in self.shown],
        }
        columns |= {run: [s.values[i] for s in self.shown] for i, run in enumerate(self.runs)}
        said = (
            f"{len(self.differing)} of {len(self.settings)} settings differ{' (≠)' if mark else ''}"
        )
        widths = [10, 34, *[24] * len(self.runs)]
        return table.draw(columns, widths, title="Settings", subtitle=said)

    def table(self) -> pd.DataFrame:
        """One row a setting, one column a run; values are text, and – where a run has no such setting."""
        rows = [(s.part, s.name, s.differs, *s.values) for s in self.shown]
        return pd.DataFrame(rows, columns=["part", "setting", "differs", *self.runs])

    def summary(self) -> str:
        """How many settings differ, and which."""
        if len(self.runs) < 2:
            return f"{self.runs[0]} alone has {len(self.settings)} settings; select a second run to compare."
        if not self.differing:
            return f"All {len(self.settings)} settings of {len(self.runs)} runs are the same."
        names = ", ".join(s.name for s in self.differing[:TOLD])
        names += f", and {len(self.differing) - TOLD} more" if len(self.differing) > TOLD else ""
        return f"{len(self.differing)} of {len(self.settings)} settings differ among {len(self.runs)} runs: {names}."


def settings_comparison(
    evidences: Sequence[Evidence], *, show: Literal["differing", "all"] = "differing"
) -> SettingsCompared:
    """Lay out what runs were made with, as their evidence's provenance tells it: only what differs, or all."""
    told = [dict(_flat(e.provenance)) for e in evidences]
    names = dict.fromkeys(
        name for run in told for name in run
    )  # each once, in the order they are told
    in_order = sorted(names, key=lambda name: (name[0] != "settings", name[0] == "versions"))
    settings = tuple(
        Setting(*name, tuple(run.get(name, ABSENT) for run in told)) for name in in_order
    )
    return SettingsCompared(run_names(evidences), settings, show)


def run_names(evidences: Sequence[Evidence]) -> tuple[str, ...]:
    """A name for each run, none twice: the folder's, with the step where that is there twice, then with a number."""
    names = [e.run_name for e in evidences]
    names = [f"{e.run_name} @ {e.step}" if names.count(e.run_name) > 1 else e.run_name for e in evidences]
    return tuple(
        f"{x} #{names[:i].count(x) + 1}" if names.count(x) > 1 else x for i, x in enumerate(names)
    )


def _flat(provenance: dict[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """What a provenance tells, as ((part, name), text)."""
    for name, value in provenance.items():
        if isinstance(value, dict):
            yield from (((name, key), _text(inner)) for key, inner in value.items())
        elif name != "run":
            yield ("run", name), _text(value)


def _text(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = text.removeprefix("workbench.")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
