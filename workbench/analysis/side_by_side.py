"""One analysis of several runs in one figure: a panel per run, with common axes and run colors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd

from workbench.analysis.base import Result
from workbench.core.html_templates import render_text

MAX_RUNS = 4  # panels that can be compared without much scrolling
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
PARAGRAPHS = (
    "{% for run, text in paragraphs %}<p><b>{{ run }}</b>: {{ text }}</p>{% endfor %}"
    "{% for note in notes %}<p>{{ note }}</p>{% endfor %}"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class SideBySide(Result):
    """The results of one analysis for several runs.

    Attributes
    ----------
    runs : tuple of str
        Name of each run; the first is the primary run.
    results : tuple of Result
        The result of each run, under the same controls.
    not_applicable : tuple of str
        Selected runs to which the analysis does not apply.
    not_shown : tuple of str
        Selected runs beyond the fourth.
    """

    replaces_figure: ClassVar[bool] = False

    runs: tuple[str, ...]
    results: tuple[Result, ...] = field(repr=False)
    not_applicable: tuple[str, ...] = ()
    not_shown: tuple[str, ...] = ()

    def control_limits(self) -> Mapping[str, int]:
        """Return the largest useful value of each control in any of the runs."""
        limits: dict[str, int] = {}
        for result in self.results:
            for name, end in result.control_limits().items():
                limits[name] = max(end, limits.get(name, end))
        return limits

    def table(self) -> pd.DataFrame:
        """Return the tables of all runs, with the name of the run in the first column."""
        tables = [result.table() for result in self.results]
        columns = [
            table.assign(run=run)[["run", *(c for c in table.columns if c != "run")]]
            for run, table in zip(self.runs, tables, strict=True)
        ]
        return pd.concat(columns, ignore_index=True)

    def summary(self) -> str:
        """Return one line per run with the answer for it, and the runs that are missing."""
        return "\n".join([*map(": ".join, self._paragraphs()), *self._notes()])

    def analysis_name(self) -> str:
        """Return the name of the analysis of the results."""
        return self.results[0].analysis_name()

    def _repr_html_(self) -> str:
        """Return the paragraphs with the name of each run in bold, and the folded table."""
        notes = [note for note in (self.left_out_note(), *self._notes()) if note]
        text = render_text(PARAGRAPHS, paragraphs=self._paragraphs(), notes=notes)
        return text + self.table_html()

    def _paragraphs(self) -> list[tuple[str, str]]:
        return [
            (run, _first_sentence(result.summary()))
            for run, result in zip(self.runs, self.results, strict=True)
        ]

    def _notes(self) -> list[str]:
        notes = []
        if self.not_applicable:
            notes.append(f"Does not apply to {', '.join(self.not_applicable)}.")
        if self.not_shown:
            notes.append(f"Only {MAX_RUNS} runs are shown, without {', '.join(self.not_shown)}.")
        return notes


def _first_sentence(text: str) -> str:
    """Return the answer; the evidence for it is in the summary of the run alone."""
    return SENTENCE_END.split(text, maxsplit=1)[0]
