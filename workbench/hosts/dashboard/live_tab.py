"""In the dashboard: the Live tab follows the leading run while it trains, for as long as the tab is looked at."""

import html
import io
from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.core.errors import UserError
from workbench.hosts.dashboard.figure import Figure
from workbench.storage.run import Run
from workbench.workspace.live import request_multipliers
from workbench.workspace.live_figure import curves
from workbench.workspace.run_snapshot import (
    RunFollower,
    RunSnapshot,
    command_reply,
    hint,
    preview_png,
    status_line,
)

PERIOD = 1000  # milliseconds between looks


class Live:
    """The Live tab's widgets. `show` and `follow` a run; `hide` reads nothing any more."""

    def __init__(self) -> None:
        self.dark, self.run, self.look = False, None, None
        self._numbers: list[int] = []  # of what was asked for last
        self._follower: RunFollower | None = None
        self._timer: Any = None
        self.head, self.said = pn.pane.HTML("", sizing_mode="stretch_width"), pn.pane.HTML("")
        names = ("pause", "stop", "sample now", "evaluate now")
        self.buttons = {
            name: pmui.Button(label=name, variant="outlined", size="small") for name in names
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._ask(name.removesuffix(" now")))
        self.apply = pmui.Button(label="apply", variant="outlined", size="small")
        self.apply.on_click(lambda _: self._apply())
        self.fields: dict[str, pmui.TextInput] = {}
        self._force: dict[str, float] = {}  # the multipliers, when they were last looked at
        self.row = pn.FlexBox(gap="12px", align_items="center")
        self.log = pmui.Checkbox(label="log axes", value=False)
        self.smoothing = pmui.FloatSlider(
            label="smoothing", start=0, end=0.99, step=0.01, value=0, width=220
        )
        self.curves = Figure()
        self.step = pmui.DiscreteSlider(
            label="pictures of step", options=[0], value=0, width=480, visible=False
        )
        self.pictures = pn.pane.PNG(
            None, width=480, styles={"image-rendering": "pixelated"}, visible=False
        )
        self.log.param.watch(lambda _: self._draw(), "value")
        self.smoothing.param.watch(lambda _: self._draw(), "value_throttled")
        self.step.param.watch(lambda _: self._show_picture(), "value")
        bar = pn.FlexBox(*self.buttons.values(), self.said, gap="12px", align_items="center")
        how = pn.FlexBox(self.log, self.smoothing, gap="16px", align_items="center")
        parts = [self.head, bar, self.row, how, self.curves.body, self.step, self.pictures]
        self.body = pn.Column(*parts, sizing_mode="stretch_width", min_height=500)

    def show(self, run: Run, *, dark: bool = False) -> None:
        """Show a run as it is."""
        self.dark = dark
        if self.run is None or run.folder != self.run.folder:
            self.run, self._follower, self._numbers = run, RunFollower(run), []
            self.said.object, self.step.value, self.step.options = "", 0, [0]
            self.row.objects, self.fields = [], {}
        self.refresh()

    def follow(self) -> None:
        """Look again and again, until the run has finished or `hide` is called."""
        if (
            self._timer is None
            and pn.state.curdoc is not None
            and self.look
            and self.look.state != "finished"
        ):
            self._timer = pn.state.add_periodic_callback(self.refresh, PERIOD)

    def hide(self) -> None:
        """Stop reading."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def paint(self, *, dark: bool) -> None:
        """Draw in the page's light or dark."""
        self.dark = dark
        self._draw()

    def refresh(self) -> None:
        """Look again."""
        before, self.look = self.look, self._follower.snapshot()
        look = self.look
        told = hint(look)
        self.head.object = f"<b>{html.escape(look.name)}</b> · {html.escape(status_line(look))}" + (
            f"<br><em>{html.escape(told)}</em>" if told else ""
        )
        self.buttons["pause"].label = "resume" if look.state == "paused" else "pause"
        for button in (*self.buttons.values(), self.apply):
            button.disabled = not look.is_listening
        if self._numbers:
            self.said.object = html.escape(command_reply(look, *self._numbers))
        self._show_fields(look.multipliers)
        if (
            before is None
            or (len(before.history), len(before.events)) != (len(look.history), len(look.events))
            or before.name != look.name
        ):
            self._draw()
        self._show_steps(look)
        if look.state == "finished":
            self.hide()

    def _show_fields(self, force: dict[str, float]) -> None:
        if self.fields.keys() != force.keys():
            # As text: a number field swallows what is typed over its value, and cannot say what is wrong with it.
            self.fields = {
                name: pmui.TextInput(label=f"{name} ×", value=f"{value:g}", width=120, size="small")
                for name, value in force.items()
            }
            self.row.objects = [*self.fields.values(), self.apply]
        for name in (name for name, value in force.items() if value != self._force.get(name)):
            self.fields[
                name
            ].value = f"{force[name]:g}"  # somebody has changed it, perhaps elsewhere
        self._force = force

    def _draw(self) -> None:
        if self.look is not None:
            self.curves.draw(
                curves(
                    self.look, log=self.log.value, smoothing=self.smoothing.value, dark=self.dark
                )
            )
            self.curves.body.visible = not self.look.history.empty

    def _show_steps(self, look: RunSnapshot) -> None:
        steps = list(look.preview_steps)
        if steps and steps != list(self.step.options):
            latest = self.step.value in (
                0,
                self.step.options[-1],
            )  # who looks at the latest goes on doing so
            self.step.param.update(options=steps, value=steps[-1] if latest else self.step.value)
            self._show_picture()
        self.step.visible, self.pictures.visible = len(steps) > 1, bool(steps)

    def _show_picture(self) -> None:
        drawn = preview_png(self.run, self.step.value) if self.run else b""
        self.pictures.object = io.BytesIO(drawn) if drawn else None

    def _ask(self, command: str) -> None:
        if command == "pause" and self.look.state == "paused":
            command = "resume"
        self._told(lambda: [self.run.ask(command)])

    def _apply(self) -> None:
        self._told(
            lambda: request_multipliers(self.run, {name: field.value for name, field in self.fields.items()})
        )

    def _told(self, ask: Callable[[], list[int]]) -> None:
        """Ask, and say so; the next look says what came of it."""
        try:
            self._numbers = ask()
            self.said.object = "asked …" if self._numbers else "Nothing was changed."
        except UserError as error:
            self._numbers, self.said.object = [], f"✗ {html.escape(str(error))}"
