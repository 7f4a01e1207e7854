"""The Live tab: follow runs while they train, for as long as the tab is open."""

import html
import io
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import panel as pn
import panel_material_ui as pmui

from workbench.analysis.runs.training_curves import X
from workbench.core.errors import UserError
from workbench.core.glossary import CONTROLS, OTHERS, choice_label, tooltip
from workbench.hosts.dashboard.figure import Figure
from workbench.hosts.dashboard.page_lifecycle import PageLifecycle
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.widgets import watch_widget
from workbench.workspace.controls import Value
from workbench.workspace.live import ACTIVE_INTERVAL_S, MAX_SMOOTHING, LiveModel
from workbench.workspace.tab_options import COMPARE, live_options
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

TAB = "live"
MIN_WIDTH_PX = 640  # of three panels; on a narrower page the figure scrolls
NO_STEP = 0  # the value of the slider without preview images


class LiveTab:
    """The widgets of a `LiveModel`. Nothing is read while another tab is open."""

    def __init__(
        self, state: DashboardState, workspace: Workspace, lifecycle: PageLifecycle
    ) -> None:
        self.state = state
        self.workspace = workspace
        self.lifecycle = lifecycle
        self.model: LiveModel | None = None
        self._timer: Any = None
        self._drawn_key: Any = None  # of the figure that is shown
        self.header = pn.pane.HTML("", sizing_mode="stretch_width")
        self.message = pn.pane.HTML("")
        self.buttons: dict[str, pmui.Button] = {}
        self.bar = _row(self.message, gap="12px")
        self.apply = pmui.Button(label="apply", variant="outlined", size="small")
        self.apply.on_click(lambda _: self._set_multipliers())
        self.fields: dict[str, pmui.TextInput] = {}
        self.fields_row = _row(gap="12px")
        self.compare = pmui.Checkbox(
            label=OTHERS["compare live"].label, value=True, description=tooltip("compare live")
        )
        self.x = pmui.Select(
            label=CONTROLS["x"].label,
            options={choice_label(name): name for name in get_args(X)},
            value="step",
            width=200,
            description=CONTROLS["x"].tooltip,
        )
        self.log = pmui.Checkbox(
            label=CONTROLS["log"].label, value=False, description=CONTROLS["log"].tooltip
        )
        self.smoothing = pmui.FloatSlider(
            label=CONTROLS["smoothing"].label,
            start=0,
            end=MAX_SMOOTHING,
            step=0.01,
            value=0,
            width=220,
            description=CONTROLS["smoothing"].tooltip,
        )
        self.curves = Figure(min_width=MIN_WIDTH_PX)
        self.step = pmui.DiscreteSlider(
            label=OTHERS["images of step"].label,
            options=[NO_STEP],
            value=NO_STEP,
            sizing_mode="stretch_width",
            max_width=480,
            visible=False,
            description=tooltip("images of step"),
        )
        self.images = pn.pane.PNG(
            None,
            sizing_mode="stretch_width",
            max_width=480,
            styles={"image-rendering": "pixelated"},
            visible=False,
        )
        self.options = {
            COMPARE: self.compare,
            "x": self.x,
            "log": self.log,
            "smoothing": self.smoothing,
        }
        self._defaults = {name: widget.value for name, widget in self.options.items()}
        for name, widget in self.options.items():
            watch_widget(widget, partial(self._on_option, name))
        self.step.param.watch(lambda event: self._select_step(event.new), "value")
        state.param.watch(lambda _: self._draw(), "dark")
        options = _row(self.compare, self.x, self.log, self.smoothing, gap="16px")
        frame = pn.FlexBox(
            self.curves.body, sizing_mode="stretch_width", styles={"overflow-x": "auto"}
        )
        self.body = pn.Column(
            self.header,
            self.bar,
            self.fields_row,
            options,
            frame,
            self.step,
            self.images,
            sizing_mode="stretch_width",
            min_height=500,
        )

    def show(self, view: ViewState) -> None:
        """Show the primary run next to the selected ones, and follow them until all finished."""
        if not view.runs:
            return
        self.compare.visible = len(view.runs) > 1
        try:
            self._show_options(view.tab_options if view.tab == TAB else {})
            model = self._other_model(view)
        except UserError as error:  # the run was deleted, or its files are damaged
            self.hide()
            self.message.object = html.escape(str(error))
            return
        if model is not None:
            self.model = model
            self._drawn_key = None
            self._make_fields(model)
            self.step.param.update(options=[NO_STEP], value=NO_STEP)
            self._refresh(model)
        elif self.model is not None:
            self._configure(self.model)
            self.refresh()
        self.lifecycle.after_load(self._follow)

    def _show_options(self, options: Mapping[str, Value]) -> None:
        compares, curve_controls = live_options(options)
        values = {**curve_controls, COMPARE: compares}
        for name, widget in self.options.items():
            widget.value = values[name]

    def _on_option(self, name: str, event: Any) -> None:
        self.state.set_tab_option(TAB, name, event.new, self._defaults[name])

    def _other_model(self, view: ViewState) -> LiveModel | None:
        """Return the model of a view; None if the present one shows the same runs."""
        runs = [self.workspace.run(view.runs[0])]
        if self.compare.value:
            runs += [self.workspace.run(name) for name in view.runs[1:]]
        if self.model is not None:
            present = (self.model.run, *self.model.compare_with)
            if [run.folder for run in present] == [run.folder for run in runs]:
                return None
        model = LiveModel(runs[0], compare_with=runs[1:])
        model.run_colors = self.workspace.run_colors
        return model

    def hide(self) -> None:
        """Stop reading."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()

    def move_slider(self, steps: int) -> None:
        """Do nothing: the tab has no slider that keys move."""

    def refresh(self) -> None:
        """Read the run's files and show what is new."""
        if self.model is None:
            return
        try:
            self.model.refresh()
        except UserError as error:  # the run's files are damaged or were deleted
            self.hide()
            self.message.object = html.escape(str(error))
            return
        self._refresh(self.model)

    def _follow(self) -> None:
        """Refresh the tab periodically, if it is still open."""
        is_open = self.state.view.tab == TAB and pn.state.curdoc is not None
        if self.model is None or self.model.is_finished or self._timer is not None or not is_open:
            return
        interval_ms = round(1000 * ACTIVE_INTERVAL_S)
        self._timer = pn.state.add_periodic_callback(self.refresh, interval_ms)

    def _refresh(self, model: LiveModel) -> None:
        self.header.object = model.header_html
        self.message.object = html.escape(model.message)
        self._show_commands(model)
        if self.fields.keys() != model.multipliers.keys():
            self._make_fields(model)
        for name, value in model.take_changed_multipliers().items():
            self.fields[name].value = f"{value:g}"
        if model.figure_key != self._drawn_key:
            self._draw()
        self._show_steps(model)
        if model.is_finished:
            self.hide()

    def _show_commands(self, model: LiveModel) -> None:
        if not self.buttons:
            # Without the description: the tooltip of a button would replace its accessible name.
            # Disabled from the beginning: a page may lose a change of a button that it still draws.
            self.buttons = {
                command.name: pmui.Button(
                    label=command.label,
                    variant="outlined",
                    size="small",
                    disabled=not model.accepts_commands,
                )
                for command in model.commands
            }
            for name, button in self.buttons.items():
                button.on_click(partial(self._send, name))
            self.bar.objects = [*self.buttons.values(), self.message]
        for command in model.commands:
            self.buttons[command.name].label = command.label
            self.buttons[command.name].disabled = not model.accepts_commands
        self.apply.disabled = not model.accepts_commands
        for field in self.fields.values():
            field.disabled = not model.accepts_commands

    def _make_fields(self, model: LiveModel) -> None:
        # Text fields: a number field swallows characters typed over its value, and cannot report
        # what is wrong with it.
        self.fields = {
            name: pmui.TextInput(
                label=f"{name} ×",
                value=f"{value:g}",
                width=120,
                size="small",
                description=tooltip("multiplier"),
                disabled=not model.accepts_commands,
            )
            for name, value in model.multipliers.items()
        }
        self.fields_row.objects = [*self.fields.values(), self.apply]

    def _configure(self, model: LiveModel) -> None:
        model.x = self.x.value
        model.log = self.log.value
        model.smoothing = self.smoothing.value

    def _draw(self) -> None:
        if self.model is None:
            return
        self._configure(self.model)
        self._drawn_key = self.model.figure_key
        self.curves.draw(self.model.figure(dark=self.state.dark))
        self.curves.body.visible = self.model.has_records

    def _show_steps(self, model: LiveModel) -> None:
        steps = list(model.preview_steps)
        if steps and (steps != list(self.step.options) or self.step.value != model.preview_step):
            self.step.param.update(options=steps, value=model.preview_step)
            self._show_images(model)
        self.step.visible = len(steps) > 1
        self.images.visible = bool(steps)

    def _select_step(self, step: int) -> None:
        if self.model is not None and step in self.model.preview_steps:
            self.model.select_preview(step)
            self._show_images(self.model)

    def _show_images(self, model: LiveModel) -> None:
        content = model.preview_png()
        self.images.object = io.BytesIO(content) if content else None

    def _send(self, command: str, _: Any) -> None:
        if self.model is not None:
            self.model.send(command)
            self.message.object = html.escape(self.model.message)

    def _set_multipliers(self) -> None:
        if self.model is not None:
            values = {name: field.value for name, field in self.fields.items()}
            self.model.set_multipliers(values)
            self.message.object = html.escape(self.model.message)


def _row(*parts: pn.viewable.Viewable, gap: str) -> pn.FlexBox:
    """Return a row that wraps on a narrow page."""
    return pn.FlexBox(*parts, gap=gap, align_items="center", sizing_mode="stretch_width")
