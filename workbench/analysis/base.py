"""The interface of an analysis: its `Result`, and the `Range` of its numeric controls.

An analysis is a public function in this package that returns a `Result`. Its signature is its
interface:

- Positional parameters are evidence, selected by name (`latents`, `codes`, ...; see
  `workbench.storage.evidence`). Optional ones default to None. The parameter `evidences` receives
  the evidence of all selected runs.
- Keyword-only parameters are controls, declared by their annotation: `bool`, `Literal[...]`, or
  `Annotated[int | float, Range(low, high)]`.

Hosts read the signature, so an analysis needs no registration.
"""

import copy
import importlib
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from types import MappingProxyType
from typing import Any, ClassVar, Self

import pandas as pd
import plotly.graph_objects as go

from workbench.analysis.stats.sampling import Subset
from workbench.core.counted import counted
from workbench.core.html_templates import marked
from workbench.core.result_columns import column_tooltip, decimals_of_columns, number_text


@dataclass(frozen=True)
class Range:
    """Bounds of a numeric control.

    Attributes
    ----------
    low : float
        Smallest allowed value.
    high : float
        Largest allowed value.
    step : float, optional
        Step of the slider. By default 1 for int and a hundredth of the range for float.
    """

    low: float
    high: float
    step: float | None = None


@dataclass(frozen=True)
class LeftOutRun:
    """A run that was selected for a comparison, and is missing in its result.

    Attributes
    ----------
    run : str
        Name of the run.
    reason : str
        One sentence.
    """

    run: str
    reason: str


class Result(ABC):
    """The immutable result of an analysis, with a figure, a table and a summary.

    Subclasses are frozen dataclasses. Everything is computed before the result is constructed;
    drawing only formats the fields.

    Attributes
    ----------
    left_out : tuple of LeftOutRun
        Selected runs whose evidence could not be read, so that they are missing in the result. It
        is not a field: it describes the call and not the analysis.
    run_colors : mapping of str to str
        The color of each run of the folder, as all hosts show it. It is not a field either.
    replaces_figure : bool
        True if `_repr_html_` shows all that the figure shows, so that hosts omit the figure.
    """

    left_out: tuple[LeftOutRun, ...] = ()
    run_colors: Mapping[str, str] = MappingProxyType({})
    replaces_figure: ClassVar[bool] = False

    def with_run_colors(self, colors: Mapping[str, str]) -> Self:
        """Return a copy of the result whose figure has these colors of runs."""
        result = copy.copy(self)
        object.__setattr__(result, "run_colors", dict(colors))  # subclasses are frozen
        return result

    def with_left_out(self, left_out: Sequence[LeftOutRun]) -> Self:
        """Return a copy of the result that names the runs missing in it."""
        result = copy.copy(self)
        object.__setattr__(result, "left_out", tuple(left_out))  # subclasses are frozen
        return result

    def left_out_note(self) -> str:
        """Return a sentence that names the runs missing in the result; empty if none is."""
        if not self.left_out:
            return ""
        count = len(self.left_out)
        runs = counted(count, "selected run is", "selected runs are")
        reasons = " ".join(f"{item.run}: {item.reason}" for item in self.left_out)
        return f"Incomplete: {runs} missing here. {reasons}"

    def full_summary(self) -> str:
        """Return the note about missing runs, if there is one, and the summary."""
        note = self.left_out_note()
        return f"{note} {self.summary()}" if note else self.summary()

    @property
    def subset(self) -> Subset | None:
        """The subsample that the result was computed on; None if it is not a subsample.

        An analysis that does not use all images of large evidence overrides this property, and its
        summary contains the text of the subset.
        """
        return None

    def subset_note(self) -> str:
        """Return a sentence, after a space, that names the subsample; empty if there is none."""
        return "" if self.subset is None else f" Computed on {self.subset}."

    def sample_text(self, count: int) -> str:
        """Return the subsample in words, or the number of images if there is none."""
        return f"{count:,} images" if self.subset is None else str(self.subset)

    def figure(self) -> go.Figure:
        """Draw the result, labeled with units and sample sizes.

        The default implementation calls `draw(result)` of the module named after the module that
        defines the class, with the suffix `_figure`. For example, the results of
        `workbench.analysis.latents.modes` are drawn by
        `workbench.analysis.latents.modes_figure.draw`. The figure module imports the result class
        for type checking only, so imports stay one-way. A result with a short figure may override
        this method.

        Returns
        -------
        plotly.graph_objects.Figure
        """
        return importlib.import_module(f"{type(self).__module__}_figure").draw(self)

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return the numbers behind the figure as a tidy table.

        Returns
        -------
        pandas.DataFrame
            One row per item and one column per property.
        """

    @abstractmethod
    def summary(self) -> str:
        """Summarize the result in one to three sentences: first the answer, then the evidence.

        Returns
        -------
        str
            Every number in the text is a field of the result.
        """

    def figure_html(self) -> str:
        """Return the figure as HTML without scripts; empty if only plotly draws the figure."""
        return ""

    def control_limits(self) -> Mapping[str, int]:
        """Return the largest useful value of controls whose range depends on the data.

        Returns
        -------
        mapping of str to int
            By the name of the control. Hosts shorten its slider.
        """
        return {}

    def _repr_html_(self) -> str:
        """Return summary, figure and table as HTML. Figures that need plotly.js are left out."""
        summary = f"<p>{marked(self.full_summary())}</p>"
        return f"{summary}{self.figure_html()}{self.table_html()}"

    def table_html(self) -> str:
        """Return the table as HTML that is folded at first, with definitions as tooltips."""
        name, table = self.analysis_name(), self.table()
        places = decimals_of_columns(table)
        texts = {column: partial(number_text, places[column]) for column in places}
        text = table.to_html(index=False, max_rows=12, formatters=texts, na_rep="–", border=0)
        titles = (escape(column_tooltip(name, str(column))) for column in table)
        text = re.sub("<th>", lambda _: f'<th title="{next(titles)}">', text)
        return f"<details><summary>table</summary>{text}</details>"

    def analysis_name(self) -> str:
        """Return the name of the analysis that returns such a result; empty if none does."""
        functions = inspect.getmembers(sys.modules[type(self).__module__], inspect.isfunction)
        names = (
            name
            for name, function in functions
            if function.__module__ == type(self).__module__
            and not name.startswith("_")
            and inspect.signature(function).return_annotation is type(self)
        )
        return next(names, "")

    def _ipython_display_(self) -> None:
        """Display the figure, the summary and the table in a notebook."""
        from IPython.display import HTML, display

        if not self.replaces_figure:
            display(mime_bundle(self.figure()), raw=True)
        display(HTML(self._repr_html_()))


def mime_bundle(figure: go.Figure) -> dict[str, Any]:
    """Convert a figure to a Jupyter mime bundle.

    The bundle contains the toolbar settings of this project. `responsive` is off because the
    figure would otherwise take its height from an output cell that has no height of its own.

    Parameters
    ----------
    figure : plotly.graph_objects.Figure
        The figure to encode.

    Returns
    -------
    dict
        One entry, with the mime type of Plotly figures as its key.
    """
    from workbench.analysis.plotting.style import TOOLBAR_CONFIG

    return {
        "application/vnd.plotly.v1+json": {
            **figure.to_plotly_json(),
            "config": {**TOOLBAR_CONFIG, "responsive": False},
        }
    }
