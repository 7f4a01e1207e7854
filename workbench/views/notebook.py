"""In JupyterLab: `workbench.open("runs/")` as a bare expression shows every run, every analysis, with its controls.

What is on the screen can be had in code: `.state`, `.result`, `.figure`, `.table`, `.selected`, `.code()`.
"""

import html
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display

from workbench import analysis
from workbench.analysis.result import Result
from workbench.errors import UserError
from workbench.runs import Run
from workbench.views.bench import Bench
from workbench.views.controls import Control, controls
from workbench.views.state import ViewState

SHORT = ("run", "kind", "data", "tokens", "step", "state", "PSNR (dB)")


def open(folder: str | Path = "runs") -> "Explorer":
    """Open a folder of runs. Raises RunError if it does not exist."""
    return Explorer(Bench(folder))


class Explorer:
    """The runs of a folder and the analysis being looked at; controls in a row, then figure, summary and table."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.state = bench, bench.first_look()
        self._view: widgets.VBox | None = None

    @property
    def result(self) -> Result:
        """The analysis on the screen. Raises UserError where the screen shows a sentence instead."""
        return self.bench.result(self.state)

    @property
    def figure(self) -> go.Figure:
        """The figure on the screen."""
        return self.result.figure()

    @property
    def table(self) -> pd.DataFrame:
        """The numbers behind the figure."""
        return self.result.table()

    @property
    def runs(self) -> pd.DataFrame:
        """All runs of the folder, a row each."""
        return self.bench.table()

    @property
    def selected(self) -> list[Run]:
        """The selected runs, the leading one first."""
        return [self.bench.run(name) for name in self.state.runs]

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        state, folder = self.state, self.bench.folder
        given = "".join(f", {name}={value!r}" for name, value in state.controls.items())
        module = analysis.get(state.analysis).__module__
        evidences = ", ".join(f"Run({str(folder / name)!r}).evidence()" for name in state.runs)
        return (
            f"from {module} import {state.analysis}\nfrom workbench.evidence import arguments\n"
            f"from workbench.runs import Run\n\nevidences = [{evidences}]\n"
            f"{state.analysis}(**arguments({state.analysis}, evidences){given})"
        )

    def show(self, analysis: str, **controls: Any) -> "Explorer":
        """Look at another analysis, with some controls set. Raises UserError for an unknown name or value."""
        self.state = self.state.change(analysis=analysis, controls=controls)
        return self

    def _repr_html_(self) -> str:
        """Without a kernel: the runs, and what the analysis says."""
        try:
            said = self.result._repr_html_()
        except UserError as error:
            said = f"<p><em>{html.escape(str(error))}</em></p>"
        return self.runs[list(SHORT)].to_html(index=False, border=0, float_format="%.1f", na_rep="") + said

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        self._view = _Screen(self).box
        return {**self._view._repr_mimebundle_(), "text/html": self._repr_html_()}


class _Screen:
    """The widgets of one cell, bound to an Explorer."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        names, state = list(explorer.bench.runs), explorer.state
        self.leading = widgets.Dropdown(options=names, value=state.runs[0] if state.runs else None, description="run")
        others = [name for name in state.runs[1:] if name in names]
        self.others = widgets.SelectMultiple(options=names, value=others, description="beside", rows=min(5, len(names)))
        known = [(name.replace("_", " "), name) for name in analysis.analyses()]
        self.analysis = widgets.ToggleButtons(options=known, value=state.analysis, style={"button_width": "auto"})
        self.row = widgets.HBox([], layout={"flex_flow": "row wrap"})
        self.busy = widgets.HTML()
        self.output = widgets.Output(layout={"width": "100%", "max_width": "960px"})
        top = widgets.HBox([self.leading, self.others], layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox([top, self.analysis, self.row, self.busy, self.output])
        for widget in (self.leading, self.others):
            widget.observe(self._changed, "value")
        self.analysis.observe(self._turned, "value")
        self._turned()

    def _turned(self, _: Any = None) -> None:
        """Another analysis: its own controls."""
        name, told = self.analysis.value, self.explorer.state
        values = told.controls if told.analysis == name else {}
        self.controls = {c.name: _widget(c, values.get(c.name, c.default)) for c in controls(analysis.get(name))}
        for widget in self.controls.values():
            widget.observe(self._changed, "value")
        self.row.children = tuple(self.controls.values())
        self._changed()

    def _changed(self, _: Any = None) -> None:
        """The state follows the widgets, and the figure the state."""
        if self.leading.value is None:
            self.busy.value = f"<em>No runs in {html.escape(str(self.explorer.bench.folder))} yet.</em>"
            return
        runs = (self.leading.value, *(name for name in self.others.value if name != self.leading.value))
        values = {name: widget.value for name, widget in self.controls.items()}
        self.explorer.state = ViewState(runs, self.explorer.state.step, self.analysis.value, values)
        self.busy.value = "<em>computing …</em>"
        self.output.clear_output(wait=True)
        with self.output:
            try:
                display(self.explorer.result)
            except UserError as error:
                display(HTML(f"<p><em>{html.escape(str(error))}</em></p>"))
        self.busy.value = ""


def _widget(control: Control, value: Any) -> widgets.Widget:
    look = {"description": control.label, "style": {"description_width": "initial"}}
    if control.kind == "flag":
        return widgets.Checkbox(value=value, indent=False, **look)
    if control.kind == "choice":
        return widgets.Dropdown(options=control.choices, value=value, **look)
    slider = widgets.IntSlider if control.kind == "integer" else widgets.FloatSlider
    kind = int if control.kind == "integer" else float
    bounds = {"min": kind(control.low), "max": kind(control.high), "step": kind(control.step)}
    return slider(value=value, continuous_update=False, **bounds, **look)
