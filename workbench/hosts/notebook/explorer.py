"""In JupyterLab: `workbench.open("runs/")` as a bare expression shows every run, every analysis, with its controls.

What is on the screen can be had in code: `.state`, `.result`, `.figure`, `.table`, `.selected`, `.code()`. What can be
selected in it are runs; images are on a map, in a lens or in a codebook, which have the same names.
"""

import html
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench import analysis
from workbench.analysis.base import Result, mime_bundle
from workbench.core.errors import UserError
from workbench.hosts.js.jupyter import Theme
from workbench.hosts.notebook.background_task import BackgroundTask
from workbench.hosts.notebook.live import watch
from workbench.hosts.notebook.static_fallback import display_with_fallback
from workbench.storage.run import Run
from workbench.workspace.controls import Control, controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

__all__ = ["Explorer", "Screen", "open", "watch"]

SHORT = ("run", "kind", "data", "tokens", "step", "state", "PSNR (dB)")
ROW = {"flex_flow": "row wrap", "grid_gap": "4px 16px"}


def open(folder: str | Path = "runs") -> "Explorer":
    """Open a folder of runs. Raises RunError if it does not exist."""
    return Explorer(Workspace(folder))


class Explorer:
    """The runs of a folder and the analysis being looked at; controls in a row, then figure, summary and table."""

    def __init__(
        self, bench: Workspace, state: ViewState | None = None, family: Sequence[str] = ()
    ) -> None:
        self.bench, self.state = bench, state or bench.default_view()
        self.family = tuple(family) or tuple(analysis.analyses())  # what its buttons offer
        self._one_at_a_time = (
            threading.Lock()
        )  # JupyterLab runs widgets' callbacks beside the cells, in a thread

    @property
    def result(self) -> Result:
        """The analysis on the screen. Raises UserError where the screen shows a sentence instead."""
        with self._one_at_a_time:
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

    def show(
        self,
        name: str,
        /,
        *,
        runs: Sequence[Run | str | Path] = (),
        step: int | None = None,
        **controls: Any,
    ) -> "Explorer":
        """Look at another analysis, with some controls set; of other runs, the leading one first, where given.

        Those are named, or told by a folder, which may be elsewhere. Raises UserError for an unknown name or value.
        """
        found = [self._found(run) for run in runs]
        for i, run in enumerate(found):
            if clash := [
                one
                for one in found[:i]
                if one.name == run.name and not one.folder.samefile(run.folder)
            ]:
                both = f"{clash[0].folder} and {run.folder}"
                raise UserError(
                    f"Two of these runs are called {run.name}: {both}. Rename one of the folders."
                )
        names = tuple(dict.fromkeys(run.name for run in found)) or self.state.runs
        self.state = ViewState(names, step, name, controls)
        self.bench.runs |= {run.name: run for run in found}
        return self

    def code(self) -> str:
        """The Python that makes what is on the screen."""
        state, here = self.state, self.bench.folder.resolve()
        told = [(run.name, run.folder.resolve()) for run in self.selected]
        runs = [name if folder.parent == here else str(folder) for name, folder in told]
        step = {} if state.step is None else {"step": state.step}
        given = {"runs": runs, **step, **state.controls}
        arguments = ", ".join(
            [repr(state.analysis), *(f"{name}={value!r}" for name, value in given.items())]
        )
        opened = f"wb.open({str(self.bench.folder)!r})"
        return f"import workbench as wb\n\nresult = {opened}.show({arguments}).result\nresult"

    def _found(self, run: Run | str | Path) -> Run:
        if isinstance(run, Run):
            return run
        return Run(run) if isinstance(run, Path) or Path(run).name != run else self.bench.run(run)

    def __repr__(self) -> str:
        return f"Explorer of {self.bench.folder}: {len(self.bench.runs)} runs, looking at {_title(self.state.analysis)}"

    def _repr_html_(self) -> str:
        """Without a kernel: the runs, and what the analysis says."""
        if not self.bench.runs:
            return _nothing_yet(self.bench)
        runs = self.runs[list(SHORT)].to_html(index=False, border=0, float_format="%.1f", na_rep="")
        try:
            return runs + _refused(self.bench) + self.result._repr_html_()
        except UserError as error:
            return runs + _refused(self.bench) + _sentence(error)

    def _ipython_display_(self) -> None:
        """The widgets at once; then the page, when it is computed."""
        screen = Screen(self)
        display_with_fallback(
            screen.box,
            repr(self),
            self._repr_html_,
            figure=lambda: self.figure,
            waiting=screen.waiting,
        )


class Screen:
    """The widgets of one cell, bound to an Explorer: its state follows them, and the figure follows its state."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.controls = explorer, {}
        names, state = list(explorer.bench.runs), explorer.state
        look = {"options": names, "style": {"description_width": "initial"}}
        self.leading = widgets.Dropdown(
            value=next(iter(state.runs), None), description="run", **look
        )
        rows = min(5, max(1, len(names)))
        self.others = widgets.SelectMultiple(
            value=state.runs[1:], description="compared with", rows=rows, **look
        )
        self.others.tooltip = "Ctrl-click (⌘-click) adds a run or takes it away"
        known = [(_title(name), name) for name in dict.fromkeys([*explorer.family, state.analysis])]
        self.analysis = widgets.ToggleButtons(
            options=known, value=state.analysis, style={"button_width": "auto"}
        )
        self.row = widgets.HBox(layout=ROW)
        self.waiting = BackgroundTask()
        self.output = widgets.Output(layout={"width": "100%", "max_width": "960px"})
        top = widgets.HBox([self.leading, self.others], layout=ROW)
        refused = widgets.HTML(_refused(explorer.bench))
        looking = [refused, top, self.analysis, self.row, self.waiting.body, self.output, Theme()]
        self.box = widgets.VBox(looking if names else [widgets.HTML(_nothing_yet(explorer.bench))])
        if names:
            self._listen()

    def _listen(self) -> None:
        self.leading.observe(self._changed, "value")
        self.others.observe(self._changed, "value")
        self.analysis.observe(self._turned, "value")
        self._turned()

    def _turned(self, _: Any = None) -> None:
        """Another analysis: its own controls."""
        name, told = self.analysis.value, self.explorer.state
        values = told.controls if told.analysis == name else {}
        self.controls = {
            c.name: widget_of(c, values.get(c.name, c.default))
            for c in controls(analysis.get(name))
        }
        for widget in self.controls.values():
            widget.observe(self._changed, "value")
        self.row.children = tuple(self.controls.values())
        self._changed()

    def _changed(self, _: Any = None) -> None:
        before, lead = self.explorer.state, self.leading.value
        runs = (lead, *(name for name in self.others.value if name != lead))
        step = (
            before.step if before.runs[:1] == (lead,) else None
        )  # a step of one run is none of another's
        values = {name: widget.value for name, widget in self.controls.items()}
        self.explorer.state = ViewState(runs, step, self.analysis.value, values)
        self.waiting.compute(f"computing {_title(self.analysis.value)}", self._made, self._show)

    def _made(self) -> tuple[dict[str, Any], ...]:
        try:
            result = self.explorer.result
        except UserError:
            self.output.outputs = ()
            raise
        return _shown(mime_bundle(result.figure())), _shown({"text/html": result._repr_html_()})

    def _show(self, outputs: tuple[dict[str, Any], ...]) -> None:
        self.output.outputs = (
            outputs  # as a value, not captured: what a thread displays would land in another cell
        )


def _shown(bundle: dict[str, Any]) -> dict[str, Any]:
    return {"output_type": "display_data", "data": bundle, "metadata": {}}


def _title(name: str) -> str:
    return name.replace("_", " ")


def _sentence(error: UserError) -> str:
    return f"<p><em>{html.escape(str(error))}</em></p>"


def _nothing_yet(bench: Workspace) -> str:
    folder = html.escape(str(bench.folder))
    command = f"<code>workbench train softvq-digits --out {folder}/first</code>"
    return f"<p>No runs in {folder} yet. Train one: {command}</p>{_refused(bench)}"


def _refused(bench: Workspace) -> str:
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in bench.refused)


def widget_of(control: Control, value: Any) -> widgets.Widget:
    """The widget of a control: a box, a menu or a slider."""
    look = {"description": control.label, "style": {"description_width": "initial"}}
    if control.kind == "flag":
        return widgets.Checkbox(value=value, indent=False, **look)
    if control.kind == "choice":
        return widgets.Dropdown(options=control.choices, value=value, **look)
    slider = widgets.IntSlider if control.kind == "integer" else widgets.FloatSlider
    kind = int if control.kind == "integer" else float
    bounds = {"min": kind(control.low), "max": kind(control.high), "step": kind(control.step)}
    return slider(value=value, continuous_update=False, **bounds, **look)
