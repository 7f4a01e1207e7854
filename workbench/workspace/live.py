"""The live view of a training run without widgets: what hosts show, and commands they send."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.analysis.runs.training_curves import X
from workbench.core.coerce import coerce
from workbench.core.errors import RunError, UserError
from workbench.core.glossary import BUTTONS
from workbench.core.html_templates import render_text
from workbench.storage.run import Run
from workbench.workspace.live_figure import curves
from workbench.workspace.run_snapshot import (
    RunFollower,
    RunSnapshot,
    command_reply,
    hint,
    preview_png,
    status_line,
)

MAX_SMOOTHING = 0.99
ACTIVE_INTERVAL_S = 1.0
IDLE_INTERVAL_S = 5.0
HEADER = "<b>{{ name }}</b> · {{ line }}{% if advice %}<br><em>{{ advice }}</em>{% endif %}"


@dataclass(frozen=True)
class LiveCommand:
    """A command that the live view offers as a button.

    Attributes
    ----------
    name : str
        Fixed identifier: `pause`, `stop`, `sample` or `evaluate`.
    label : str
        Text of the button; `pause` becomes `resume` while the run is paused.
    description : str
        Text of the button's tooltip.
    """

    name: str
    label: str
    description: str


class LiveModel:
    """The state of a live view: a run, the display settings, and the outcome of commands.

    A host calls `refresh` regularly, then copies the properties to its widgets. Widgets change the
    model through `x`, `log`, `smoothing`, `select_preview`, `send` and `set_multipliers`.

    Parameters
    ----------
    run : Run
        The run to follow.
    compare_with : sequence of Run
        Runs whose curves are drawn into the same panels.
    x : {"step", "images", "minutes"}
        The horizontal axis of the curves.
    log : bool
        Whether curves have logarithmic axes where all values are positive.
    smoothing : float
        Weight of the past in the smoothed curves, from 0 (none) to 0.99.
    step : int, optional
        Step whose preview images are shown; None follows the latest.

    Raises
    ------
    UserError
        If the step has no preview images.

    Examples
    --------
    >>> model = LiveModel(run)                       # doctest: +SKIP
    >>> model.send("sample")                         # doctest: +SKIP
    >>> model.refresh()                              # doctest: +SKIP
    >>> model.message                                # doctest: +SKIP
    '✓ sample at step 1,200'
    """

    def __init__(
        self,
        run: Run,
        *,
        compare_with: Sequence[Run] = (),
        x: X = "step",
        log: bool = False,
        smoothing: float = 0.0,
        step: int | None = None,
    ) -> None:
        self.run = run
        self.compare_with = tuple(compare_with)
        self.x = x
        self.log = log
        self.smoothing = smoothing
        self.run_colors: Mapping[str, str] = {}
        self._follower = RunFollower(run)
        self._other_followers = [RunFollower(other) for other in compare_with]
        self._request_ids: list[int] = []
        self._message = ""
        self._preview_step: int | None = None  # None: the latest
        self._shown_multipliers: dict[str, float] = {}
        self._problem = ""  # the reason why the run can no longer be read
        self.snapshot: RunSnapshot = self._follower.snapshot()
        self.other_snapshots = self._read_others()
        if step is not None:
            self.select_preview(step)

    # Reading

    def refresh(self) -> None:
        """Read the present state of the run. If it cannot be read, the last state stays."""
        try:
            snapshot = self._follower.snapshot()
        except UserError as error:
            self._problem = str(error)
            return
        self._problem = ""
        if self._request_ids:
            self._message = command_reply(snapshot, *self._request_ids)
        self.snapshot = snapshot
        self.other_snapshots = self._read_others()

    def _read_others(self) -> list[RunSnapshot]:
        """Return the states of the other runs, without those that were deleted or are damaged."""
        snapshots = []
        for follower in self._other_followers:
            try:
                snapshots.append(follower.snapshot())
            except RunError:
                continue
        return snapshots

    @property
    def refresh_interval_s(self) -> float:
        """Seconds until the next refresh: short while the run acts on requests."""
        return ACTIVE_INTERVAL_S if self.snapshot.is_listening else IDLE_INTERVAL_S

    @property
    def is_finished(self) -> bool:
        """True if all runs have reached their last step, or have none: nothing will change."""
        snapshots = (self.snapshot, *self.other_snapshots)
        return all(snapshot.state in ("finished", "imported") for snapshot in snapshots)

    @property
    def header_html(self) -> str:
        """The name and the state of the run, and advice on what to do next, as HTML."""
        return render_text(
            HEADER,
            name=self.snapshot.name,
            line=status_line(self.snapshot),
            advice=self._problem or hint(self.snapshot),
        )

    # Settings

    @property
    def settings(self) -> dict[str, Any]:
        """The display settings, as keyword arguments of `watch`."""
        settings: dict[str, Any] = {"log": self.log, "smoothing": self.smoothing}
        if self.x != "step":
            settings["x"] = self.x
        if self.compare_with:
            settings["compare_with"] = [str(run.folder) for run in self.compare_with]
        if self.preview_steps and self.preview_step != self.preview_steps[-1]:
            settings["step"] = self.preview_step
        return settings

    def code(self) -> str:
        """Return the Python code that shows the same view."""
        keywords = [f"{name}={value!r}" for name, value in self.settings.items() if value]
        arguments = ", ".join([repr(str(self.run.folder)), *keywords])
        return f"import workbench as wb\n\nwatch = wb.watch({arguments})\nwatch"

    # Curves

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Return the curves of the logs with the current settings."""
        return curves(
            self.snapshot,
            [snapshot.log for snapshot in self.other_snapshots],
            x=self.x,
            log=self.log,
            smoothing=self.smoothing,
            dark=dark,
            run_colors=self.run_colors,
        )

    @property
    def figure_key(self) -> tuple[Hashable, ...]:
        """The state that the figure depends on. A host draws it again when this changes."""
        snapshots = (self.snapshot, *self.other_snapshots)
        counts = [(item.name, len(item.history), len(item.events)) for item in snapshots]
        return (*counts, self.x, self.log, self.smoothing)

    @property
    def has_records(self) -> bool:
        """True if anything was logged yet."""
        snapshots = (self.snapshot, *self.other_snapshots)
        return not all(snapshot.history.empty for snapshot in snapshots)

    @property
    def is_imported(self) -> bool:
        """True if the model was trained elsewhere, so that there is no training to follow."""
        return self.snapshot.state == "imported"

    # Preview images

    @property
    def preview_steps(self) -> tuple[int, ...]:
        """The steps that have preview images, ascending."""
        return self.snapshot.preview_steps

    @property
    def preview_step(self) -> int:
        """The step whose preview images are shown; 0 if there are none."""
        steps = self.preview_steps
        if not steps:
            return 0
        selected = self._preview_step
        return steps[-1] if selected is None or selected not in steps else selected

    def select_preview(self, step: int) -> None:
        """Show the preview images of a step; the latest step is followed as the run continues.

        Raises
        ------
        UserError
            If the step has no preview images.
        """
        steps = self.preview_steps
        if step not in steps:
            available = ", ".join(f"{s:,}" for s in steps) or "none"
            raise UserError(
                f"{self.run.name} has no preview images of step {step:,}; it has {available}."
            )
        self._preview_step = None if step == steps[-1] else step

    def preview_png(self) -> bytes:
        """Return the preview images as one PNG; empty if they are missing or damaged."""
        return preview_png(self.run, self.preview_step)

    # Commands

    @property
    def commands(self) -> tuple[LiveCommand, ...]:
        """The commands that a host offers as buttons."""
        labels = {
            "pause": "resume" if self.snapshot.state == "paused" else "pause",
            "stop": "stop",
            "sample": "sample now",
            "evaluate": "evaluate now",
        }
        return tuple(LiveCommand(name, label, BUTTONS[label]) for name, label in labels.items())

    @property
    def accepts_commands(self) -> bool:
        """True if a process acts on commands; otherwise a host disables its buttons."""
        return self.snapshot.is_listening and not self._problem

    @property
    def message(self) -> str:
        """The outcome of the latest command, as plain text; empty before the first one."""
        return self._message

    def send(self, name: str) -> None:
        """Send a command of `commands` to the run; `message` reports the outcome."""
        if not self.accepts_commands:
            self._set_error(self._refusal())
            return
        command = name
        if name == "pause" and self.snapshot.state == "paused":
            command = "resume"
        try:
            self._set_requests([self.run.ask(command)])
        except UserError as error:
            self._set_error(error)

    # Multipliers of the learning rate and of the terms

    @property
    def multipliers(self) -> dict[str, float]:
        """The multipliers in force, by name: `lr`, then the terms of the objective."""
        return self.snapshot.multipliers

    def take_changed_multipliers(self) -> dict[str, float]:
        """Return the multipliers that changed since the previous call.

        A host writes only these to its fields: the others may hold values that are being edited.
        """
        current = self.multipliers
        changed = {
            name: value
            for name, value in current.items()
            if value != self._shown_multipliers.get(name)
        }
        self._shown_multipliers = current
        return changed

    def set_multipliers(self, values: Mapping[str, float | str]) -> None:
        """Send the multipliers that differ from those in force; `message` reports the outcome."""
        if not self.accepts_commands:
            self._set_error(self._refusal())
            return
        try:
            self._set_requests(request_multipliers(self.run, values))
        except UserError as error:
            self._set_error(error)

    def _refusal(self) -> UserError:
        return UserError(
            f"The run is {self.snapshot.state}, so no process acts on requests; nothing was"
            " written."
        )

    def _set_requests(self, request_ids: list[int]) -> None:
        self._request_ids = request_ids
        self._message = "sent; waiting for the run …" if request_ids else "Nothing was changed."

    def _set_error(self, error: UserError) -> None:
        self._request_ids = []
        self._message = f"✗ {error}"


def request_multipliers(run: Run, values: Mapping[str, float | str]) -> list[int]:
    """Request the multipliers that differ from those in force.

    Parameters
    ----------
    run : Run
        Run that receives the request.
    values : Mapping
        Multiplier of `lr` and of terms, by name; text is accepted as typed by a person.

    Returns
    -------
    list of int
        The numbers of the requests.

    Raises
    ------
    UserError
        If a value is not a finite number of at least 0.
    """
    status = run.status()
    current = {"lr": status.get("lr", 1.0), **status.get("weights", {})}
    multipliers = {
        name: coerce(float, f"The multiplier of {name}", value) for name, value in values.items()
    }
    changed = {
        name: multiplier
        for name, multiplier in multipliers.items()
        if multiplier != current.get(name, 1.0)
    }
    request_ids = []
    if "lr" in changed:
        request_ids.append(run.ask("lr", value=changed.pop("lr")))
    for name, value in changed.items():
        request_ids.append(run.ask("weight", term=name, value=value))
    return request_ids
