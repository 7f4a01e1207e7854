"""The queue of trainings: states, logs and buttons, and a menu to resume or clone a run."""

import html
from collections.abc import Callable
from functools import partial

import panel as pn
import panel_material_ui as pmui

from workbench.core.coerce import coerce
from workbench.core.errors import UserError
from workbench.core.glossary import tooltip
from workbench.core.html_templates import render_text
from workbench.hosts.dashboard.page_lifecycle import PageLifecycle
from workbench.hosts.dashboard.state import DashboardState
from workbench.launch.training_queue import (
    QueuedTraining,
    TrainingQueue,
    check_resumable,
    log_tail,
)
from workbench.storage.run import Run
from workbench.workspace.workspace import Workspace

TAB = "train"
REFRESH_INTERVAL_MS = 1000
MAX_AT_ONCE = 16
LOG_STYLE = (
    "max-height: 260px; overflow: auto; padding: 8px; margin: 4px 10px; font-size: 12px;"
    " border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 4px; white-space: pre-wrap"
)
STATUS = "<b>{{ name }}</b> · {{ text }}"
OUTPUT = '<pre style="{{ style }}">{{ text }}</pre>'


class TrainingQueueCard:
    """The trainings of the server's queue, followed while the tab is open.

    Parameters
    ----------
    state, workspace, lifecycle
        The state of the page, the folder of runs, and the life cycle of the page.
    trainings : TrainingQueue or None
        The queue of the server; None if this visitor must not start trainings.
    """

    def __init__(
        self,
        state: DashboardState,
        workspace: Workspace,
        lifecycle: PageLifecycle,
        trainings: TrainingQueue | None,
    ) -> None:
        self.state = state
        self.workspace = workspace
        self.lifecycle = lifecycle
        self.trainings = trainings
        self.rows: dict[int, TrainingRow] = {}  # by the identity of the training
        self._timer: pn.io.PeriodicCallback | None = None
        self._is_open = False
        self.run = pmui.Select(
            label="Resume or clone a run",
            options=[],
            width=260,
            size="small",
            description=tooltip("resume or clone"),
        )
        self.steps = pmui.TextInput(
            label="Train to step", width=130, size="small", description=tooltip("train to step")
        )
        self.resume_button = pmui.Button(label="Resume", variant="outlined", size="small")
        self.clone_button = pmui.Button(label="Clone", variant="outlined", size="small")
        self.limit = pmui.IntInput(
            label="At the same time",
            value=1 if trainings is None else trainings.limit,
            start=1,
            end=MAX_AT_ONCE,
            width=180,
            size="small",
            description=tooltip("trainings at the same time"),
        )
        self.message = pn.pane.HTML("", sizing_mode="stretch_width")  # why a run is not resumed
        self.failure = pn.pane.HTML("", sizing_mode="stretch_width")  # of the last button
        problem = "" if trainings is None else trainings.problem
        self.problem = pmui.Alert(html.escape(problem), severity="warning", visible=bool(problem))
        self.list = pn.Column(sizing_mode="stretch_width", margin=0)
        self.run.param.watch(lambda _: self._show_run(), "value")
        self.steps.param.watch(lambda _: self._show_resumable(), "value")
        self.resume_button.on_click(lambda _: self.resume())
        self.clone_button.on_click(lambda _: self._clone())
        self.limit.param.watch(lambda event: self._set_limit(event.new), "value")
        row = pn.FlexBox(
            self.run,
            self.steps,
            self.resume_button,
            self.clone_button,
            self.limit,
            gap="12px",
            align_items="center",
            sizing_mode="stretch_width",
            styles={"padding-top": "8px"},
        )
        self.body = pn.Column(
            row, self.message, self.failure, self.problem, self.list, sizing_mode="stretch_width"
        )

    def show(self) -> None:
        """Show the queue now, and follow it."""
        self._is_open = True
        names = [name for name, run in self.workspace.runs.items() if run.config.imported is None]
        primary = self.state.primary
        value = self.run.value if self.run.value in names else None
        value = value or (primary if primary in names else next(iter(names), None))
        self.run.param.update(options=names, value=value)
        self._show_run()
        self.lifecycle.after_load(self._follow)
        self.refresh()

    def hide(self) -> None:
        """Stop following the queue."""
        self._is_open = False
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()

    def refresh(self) -> None:
        """Show the present state of every training."""
        if self.trainings is None:
            return
        trainings = self.trainings.trainings
        if [id(training) for training in trainings] != list(self.rows):
            self.rows = {
                id(training): self.rows.get(id(training)) or self._row(training)
                for training in trainings
            }
            self.list.objects = [row.body for row in reversed(self.rows.values())]
        for row in self.rows.values():
            row.refresh()
        self._show_resumable()

    def resume(self) -> None:
        """Put the run of the menu into the queue."""
        if self.trainings is not None:
            resume = self.trainings.resume
            self._try(lambda: resume(self.run.value, self._requested_steps()))

    def _clone(self) -> None:
        """Fill the form with the settings of the run of the menu."""
        self.state.open_tab(TAB, tab_options={"clone": self.run.value})

    def _row(self, training: QueuedTraining) -> "TrainingRow":
        return TrainingRow(
            training,
            start=partial(self._start, training),
            stop=partial(self._stop, training),
            open_live=partial(self._open, training),
        )

    def _start(self, training: QueuedTraining) -> None:
        if self.trainings is not None:
            self._try(partial(self.trainings.start, training))

    def _stop(self, training: QueuedTraining) -> None:
        if self.trainings is not None:
            self._try(partial(self.trainings.stop, training))

    def _try(self, action: Callable[[], object]) -> None:
        """Do what a button asks for, and show why it failed until the next one."""
        self.failure.object = ""
        try:
            action()
        except UserError as error:
            self.failure.object = html.escape(str(error))
        self.refresh()

    def _open(self, training: QueuedTraining) -> None:
        """Follow a training in the Live tab."""
        self.workspace.refresh()
        self.state.renew_runs()
        if training.name in self.workspace.runs:
            self.state.make_primary(training.name)
            self.state.open_tab("live")

    def _follow(self) -> None:
        if self._is_open and self._timer is None and pn.state.curdoc is not None:
            self._timer = pn.state.add_periodic_callback(self.refresh, REFRESH_INTERVAL_MS)

    def _set_limit(self, limit: int | None) -> None:
        if self.trainings is not None and limit:
            self.trainings.limit = limit

    def _requested_steps(self) -> int | None:
        text = str(self.steps.value or "").replace(",", "").strip()
        return coerce(int, "Train to step", text, low=1) if text else None

    def _show_run(self) -> None:
        run = self.workspace.runs.get(self.run.value) if self.run.value else None
        self.steps.value = "" if run is None else str(run.config.training.get("steps", ""))
        self.clone_button.disabled = run is None
        self._show_resumable()

    def _show_resumable(self) -> None:
        """Enable the button if the run can be resumed; otherwise show the reason."""
        reason = ""
        try:
            if self.run.value:
                check_resumable(
                    Run(self.workspace.folder / self.run.value), self._requested_steps()
                )
        except UserError as error:
            reason = str(error)
        self.resume_button.disabled = bool(reason) or not self.run.value
        self.message.object = html.escape(reason)


class TrainingRow:
    """One training: its name and state, buttons, and the end of its log on request."""

    def __init__(
        self,
        training: QueuedTraining,
        *,
        start: Callable[[], None],
        stop: Callable[[], None],
        open_live: Callable[[], None],
    ) -> None:
        self.training = training
        self.status = pn.pane.HTML("", sizing_mode="stretch_width", margin=(6, 10))
        self.start = pmui.Button(label="start", variant="outlined", size="small", visible=False)
        self.stop = pmui.Button(label="stop", variant="outlined", size="small")
        self.live = pmui.Button(label="follow", variant="outlined", size="small")
        self.log = pmui.Button(label="log", variant="outlined", size="small")
        self.output = pn.pane.HTML("", sizing_mode="stretch_width", visible=False, margin=0)
        self.start.on_click(lambda _: start())
        self.stop.on_click(lambda _: stop())
        self.live.on_click(lambda _: open_live())
        self.log.on_click(lambda _: self._toggle())
        buttons = pn.Row(self.start, self.stop, self.live, self.log, margin=0)
        head = pn.Row(buttons, self.status, sizing_mode="stretch_width", margin=0)
        self.body = pn.Column(head, self.output, sizing_mode="stretch_width", margin=0)

    def refresh(self) -> None:
        """Show the present state."""
        training = self.training
        text = status_text(training)
        self.status.object = render_text(STATUS, name=training.name, text=text)
        self.start.visible = training.state == "held"
        self.stop.label = "stop" if training.is_active else "remove"
        has_run = (training.folder / "config.json").exists()
        self.live.disabled = not has_run
        self.log.disabled = not has_run
        self.stop.disabled = training.state == "starting"
        if self.output.visible:
            self._show_log()

    def _toggle(self) -> None:
        self.output.visible = not self.output.visible
        self._show_log()

    def _show_log(self) -> None:
        text = log_tail(self.training.folder) or "No output yet."
        self.output.object = render_text(OUTPUT, style=LOG_STYLE, text=text)


def status_text(training: QueuedTraining) -> str:
    """Return the state of a training in a few words."""
    if training.error:
        return training.error
    if training.state == "held":
        return "waiting since an earlier start of the dashboard: start or remove it"
    if training.state in ("waiting", "starting", "refused"):
        return training.state
    try:
        status = Run(training.folder).status()
    except UserError as error:
        return str(error)
    if training.state == "running" and status["state"] == "finished":
        return "trained, collecting evidence"
    return f"{status['state']}, step {status['step']:,} of {status['steps']:,}"
