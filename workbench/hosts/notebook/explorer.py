"""The explorer of a folder of runs: `workbench.open("runs/")` as the last expression of a cell.

It shows every run, every analysis and its controls. What is on the screen is available in code:
`.state`, `.result`, `.figure`, `.table`, `.selected`, `.code()`. Runs are selected here; images are
selected on a map, in a lens or in a codebook, which have attributes of the same names.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench import analysis
from workbench.analysis.base import Result, mime_bundle
from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.core.glossary import OTHERS, analysis_title, group_title, tooltip
from workbench.core.html_templates import render_text
from workbench.hosts.js import refusal
from workbench.hosts.js.jupyter import Theme
from workbench.hosts.notebook.background_task import BackgroundTask
from workbench.hosts.notebook.control_widgets import (
    LABEL_STYLE,
    ROW_LAYOUT,
    NameCheckboxes,
    control_widget,
)
from workbench.hosts.notebook.live import watch
from workbench.hosts.notebook.static_fallback import display_with_fallback
from workbench.storage.run import Run
from workbench.workspace.controls import controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace, is_of_one_run

__all__ = ["Explorer", "ExplorerView", "open", "watch"]

PAGE_COLUMNS = ("run", "kind", "data", "tokens", "step", "state", "PSNR (dB)")
Output = dict[str, Any]
GUIDE = (
    "<p>There are no runs in {{ folder }} yet. Train one: "
    "<code>workbench train softvq-digits --out {{ folder }}/first</code></p>"
)


def open(folder: str | Path = "runs", *, trust: Sequence[str] = ()) -> "Explorer":
    """Open a folder of runs.

    Parameters
    ----------
    folder : str or Path, optional
        The folder that contains the runs.
    trust : sequence of str, optional
        Modules and packages outside of this package that may be imported to load a run's model.

    Returns
    -------
    Explorer
        Shows widgets as the last expression of a cell.

    Raises
    ------
    RunError
        If the folder does not exist.
    """
    return Explorer(Workspace(folder, trust))


class Explorer:
    """The runs of a folder and one analysis of some of them.

    Parameters
    ----------
    workspace : Workspace
        The folder of runs.
    state : ViewState, optional
        The view that is shown first; by default that of the workspace.
    analyses : sequence of str, optional
        The analyses that the buttons offer; all by default.
    """

    def __init__(
        self,
        workspace: Workspace,
        state: ViewState | None = None,
        analyses: Sequence[str] = (),
    ) -> None:
        self.workspace = workspace
        self.state = state or workspace.default_view()
        self.analyses = tuple(analyses) or tuple(analysis.analyses())
        self._lock = threading.Lock()  # widgets compute in a thread next to the cells

    @property
    def result(self) -> Result:
        """The result of the analysis on the screen.

        Raises
        ------
        UserError
            If the analysis does not apply to the runs; the screen shows the same reason.
        """
        with self._lock:
            return self.workspace.result(self.state)

    @property
    def figure(self) -> go.Figure:
        """The figure on the screen."""
        return self.result.figure()

    @property
    def table(self) -> pd.DataFrame:
        """The numbers of the figure."""
        return self.result.table()

    @property
    def runs(self) -> pd.DataFrame:
        """All runs of the folder, one row per run."""
        return self.workspace.table()

    @property
    def selected(self) -> list[Run]:
        """The selected runs, the primary run first."""
        return [self.workspace.run(name) for name in self.state.runs]

    def show(
        self,
        name: str,
        /,
        *,
        runs: Sequence[Run | str | Path] = (),
        step: int | None = None,
        side_by_side: bool = False,
        **controls: Any,
    ) -> "Explorer":
        """Show another analysis.

        Parameters
        ----------
        name : str
            The analysis.
        runs : sequence of Run, str or Path, optional
            The runs by name or by folder, which may be elsewhere; the primary run first. By
            default the selected runs.
        step : int, optional
            The step of the evidence of the primary run; the last one by default.
        side_by_side : bool, optional
            Whether an analysis of one run is shown for all selected runs, in one figure.
        **controls
            Controls of the analysis; the others have their defaults.

        Returns
        -------
        Explorer
            This explorer.

        Raises
        ------
        UserError
            If a name or a value is unknown, or two runs have the same name.
        """
        opened = [self._open_run(run) for run in runs]
        for i, run in enumerate(opened):
            for other in opened[:i]:
                if other.name == run.name and not other.folder.samefile(run.folder):
                    raise UserError(
                        f"Two of these runs are called {run.name}: {other.folder} and "
                        f"{run.folder}. Rename one of the folders."
                    )
        names = tuple(dict.fromkeys(run.name for run in opened)) or self.state.runs
        self.state = ViewState(
            runs=names, step=step, analysis=name, controls=controls, side_by_side=side_by_side
        )
        self.workspace.runs |= {run.name: run for run in opened}
        return self

    def code(self) -> str:
        """Return the Python that makes the result on the screen."""
        folder = self.workspace.folder.resolve()
        runs = [
            run.name if run.folder.resolve().parent == folder else str(run.folder.resolve())
            for run in self.selected
        ]
        keywords: dict[str, Any] = {"runs": runs}
        if self.state.step is not None:
            keywords["step"] = self.state.step
        if self.state.side_by_side:
            keywords["side_by_side"] = True
        keywords |= self.state.controls
        arguments = [repr(self.state.analysis)]
        arguments += [f"{name}={value!r}" for name, value in keywords.items()]
        opening = f"wb.open({str(self.workspace.folder)!r})"
        call = f"{opening}.show({', '.join(arguments)})"
        return f"import workbench as wb\n\nresult = {call}.result\nresult"

    def _open_run(self, run: Run | str | Path) -> Run:
        if isinstance(run, Run):
            return run
        if isinstance(run, Path) or Path(run).name != run:
            return Run(run)
        return self.workspace.run(run)

    def __repr__(self) -> str:
        number = counted(len(self.workspace.runs), "run")
        title = analysis_title(self.state.analysis)
        return f"Explorer of {self.workspace.folder}: {number}, showing {title}"

    def _repr_html_(self) -> str:
        """Return the page that needs no kernel: the runs and the summary of the analysis."""
        if not self.workspace.runs:
            return _guide_html(self.workspace)
        runs = self.runs[list(PAGE_COLUMNS)].fillna({"data": ""})
        # A missing count makes the others floating-point numbers.
        runs["tokens"] = runs["tokens"].convert_dtypes()
        table = runs.to_html(index=False, border=0, float_format="{:.1f}".format, na_rep="")
        try:
            content = self.result._repr_html_()
        except UserError as error:
            content = refusal(error)
        table = f'<div style="margin-bottom: 12px">{table}</div>'
        return table + _refused_html(self.workspace) + content

    def _ipython_display_(self) -> None:
        """Show the widgets at once, and the page when it has been computed."""
        view = ExplorerView(self)
        display_with_fallback(
            view.box, repr(self), self._repr_html_, figure=self._static_figure, task=view.task
        )

    def _static_figure(self) -> go.Figure | None:
        """Return the figure below the page; None if the page shows all of it."""
        result = self.result
        return None if result.replaces_figure else result.figure()


class ExplorerView:
    """The widgets of one cell: the explorer's state follows them, and the figure the state."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.controls: dict[str, widgets.ValueWidget] = {}
        self._limits: Mapping[str, int] = {}  # of the controls, for the data on the screen
        workspace = explorer.workspace
        state = explorer.state
        names = list(workspace.runs)
        self.primary = widgets.Dropdown(
            options=names,
            value=next(iter(state.runs), None),
            description="primary run",
            style=LABEL_STYLE,
        )
        self.others = NameCheckboxes(names, state.runs[1:], "compared with")
        self.analysis = widgets.ToggleButtons(style={"button_width": "auto"})
        self.group = widgets.Dropdown(
            options=[(group_title(group), group) for group in self._analyses_by_group()],
            description="analyses of",
            style=LABEL_STYLE,
            layout={"width": "auto"},
        )
        self._offer_group(state.analysis)
        self.side_by_side = widgets.Checkbox(
            value=state.side_by_side,
            description=OTHERS["side by side"].label,
            tooltip=tooltip("side by side"),
            indent=False,
        )
        self.row = widgets.HBox(layout=ROW_LAYOUT)
        self.task = BackgroundTask()
        self.output = widgets.Output(layout={"width": "100%", "max_width": "960px"})
        if not names:
            self.box = widgets.VBox([widgets.HTML(_guide_html(workspace))])
            return
        self.box = widgets.VBox(
            [
                widgets.HTML(_refused_html(workspace)),
                self.primary,
                self.others,
                widgets.HBox([self.group, self.analysis], layout=ROW_LAYOUT),
                self.row,
                self.task.body,
                self.output,
                Theme(),
            ]
        )
        self.primary.observe(self._on_change, "value")
        self.others.observe(self._on_change, "value")
        self.group.observe(self._on_group, "value")
        self.analysis.observe(self._on_analysis, "value")
        self.side_by_side.observe(self._on_change, "value")
        self._on_analysis()

    def _analyses_by_group(self) -> dict[str, list[str]]:
        """Return the offered analyses of each group that has any."""
        offered = dict.fromkeys([*self.explorer.analyses, self.explorer.state.analysis])
        groups = {
            group: [name for name in names if name in offered]
            for group, names in analysis.groups().items()
        }
        return {group: names for group, names in groups.items() if names}

    def _offer_group(self, name: str) -> None:
        """Show buttons for the analyses in the group of one of them."""
        groups = self._analyses_by_group()
        self.group.value = next(group for group in groups if name in groups[group])
        self.analysis.options = [
            (analysis_title(other), other) for other in groups[self.group.value]
        ]
        self.analysis.value = name

    def _on_group(self, _: Any) -> None:
        if self.analysis.value not in self._analyses_by_group()[self.group.value]:
            self._offer_group(self._analyses_by_group()[self.group.value][0])

    def _on_analysis(self, _: Any = None) -> None:
        """Make the controls of another analysis."""
        name = self.analysis.value
        state = self.explorer.state
        values = state.controls if state.analysis == name else {}
        self.controls = {
            control.name: control_widget(control, values.get(control.name, control.default))
            for control in controls(analysis.get(name))
        }
        for widget in self.controls.values():
            widget.observe(self._on_change, "value")
        switches = (self.side_by_side,) if is_of_one_run(name) else ()
        self.row.children = (*switches, *self.controls.values())
        self._on_change()

    def _on_change(self, _: Any = None) -> None:
        before = self.explorer.state
        primary = self.primary.value
        compared = tuple(name for name in self.others.value if name != primary)
        self.explorer.state = ViewState(
            runs=(primary, *compared),
            # The step belongs to the primary run.
            step=before.step if before.runs[:1] == (primary,) else None,
            analysis=self.analysis.value,
            controls={name: widget.value for name, widget in self.controls.items()},
            side_by_side=self.side_by_side.value,
        )
        self.task.start(
            f"computing {analysis_title(self.analysis.value).lower()}", self._compute, self._show
        )

    def _compute(self) -> tuple[Output, ...]:
        try:
            result = self.explorer.result
        except UserError:
            self.output.outputs = ()
            raise
        self._limits = result.control_limits()
        bundles = [{"text/html": result._repr_html_()}]
        if not result.replaces_figure:
            bundles.insert(0, mime_bundle(result.figure()))
        return tuple(
            {"output_type": "display_data", "data": bundle, "metadata": {}} for bundle in bundles
        )

    def _show(self, outputs: tuple[Output, ...]) -> None:
        # As a value and not captured: what a thread displays would appear in another cell.
        self.output.outputs = outputs
        for name, end in self._limits.items():
            if name in self.controls:
                self.controls[name].max = max(end, self.controls[name].value)


def _guide_html(workspace: Workspace) -> str:
    return render_text(GUIDE, folder=workspace.folder) + _refused_html(workspace)


def _refused_html(workspace: Workspace) -> str:
    return render_text(
        "{% for reason in refused %}<p>{{ reason }}</p>{% endfor %}", refused=workspace.refused
    )
