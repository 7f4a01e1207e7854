"""Follow a run while it trains: `workbench.watch(run)` as the last expression of a cell.

A thread reads the run's files, also while a cell is busy. What is on the screen is available in
code: `.state`, `.table`, `.figure`, `.events`, `.code()`. Images are not selected here: `.selected`
is the step of the images on the screen.
"""

import base64
import html
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anywidget
import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
import traitlets

from workbench.analysis.runs.training_curves import X
from workbench.core.coerce import coerce
from workbench.core.glossary import CONTROLS, choice_label
from workbench.core.html_templates import render_text
from workbench.hosts.notebook.control_widgets import LABEL_STYLE, ROW_LAYOUT
from workbench.hosts.notebook.static_fallback import display_with_fallback
from workbench.storage.run import Run
from workbench.workspace.live import MAX_SMOOTHING, LiveModel
from workbench.workspace.run_colors import colors_of_named

BAR_LAYOUT = {**ROW_LAYOUT, "align_items": "center"}
HIDDEN_INTERVAL_S = 10.0  # between two refreshes while the widgets are not visible
NO_STEP = ("–", 0)  # the option of the slider without preview images
# The page's own colors, which follow JupyterLab's theme; the colors of a figure are fixed.
THEME = """<style>
.workbench-live .js-plotly-plot text { fill: var(--jp-content-font-color1, #444) !important; }
.workbench-live .js-plotly-plot .gridlayer path { stroke: var(--jp-border-color2, #ddd) !important; }
.workbench-live .js-plotly-plot .zerolinelayer path { stroke: var(--jp-border-color1, #bbb) !important; }
.workbench-live img { image-rendering: pixelated; }
</style>"""  # noqa: E501


def watch(
    run: Run | str | Path,
    *,
    compare_with: Sequence[Run | str | Path] = (),
    x: X = "step",
    log: bool = False,
    smoothing: float = 0.0,
    step: int | None = None,
) -> "Watch":
    """Follow a run: its curves, its preview images, and buttons that control the training.

    Closing the notebook does not stop the training.

    Parameters
    ----------
    run : Run, str or Path
        The run, or its folder.
    compare_with : sequence of Run, str or Path, optional
        Runs whose curves are drawn into the same panels.
    x : {"step", "images", "minutes"}, optional
        The horizontal axis of the curves.
    log : bool, optional
        Whether curves have logarithmic axes where all values are positive.
    smoothing : float, optional
        Weight of the past in the smoothed curves, from 0 (none) to 0.99.
    step : int, optional
        The step of the preview images; by default the latest.

    Returns
    -------
    Watch
        Shows widgets as the last expression of a cell.

    Raises
    ------
    RunError
        If the run does not exist.
    UserError
        If the step has no preview images, or there is no such axis.
    """
    compared_runs = [_open(other) for other in compare_with]
    coerce(X, "x", x)
    model = LiveModel(
        _open(run), compare_with=compared_runs, x=x, log=log, smoothing=smoothing, step=step
    )
    model.run_colors = colors_of_named([model.run, *compared_runs])
    return Watch(model)


def _open(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run(run)


class VisibilityProbe(anywidget.AnyWidget):
    """Reports whether the cell is visible: a hidden tab needs no updates."""

    _esm = """
    export default { render({ model, el }) {
      let near = true;
      const report = () => {
        model.set("shown", near && !document.hidden);
        model.save_changes();
      };
      el.style.minHeight = "1px";
      const watcher = new IntersectionObserver((entries) => {
        near = entries.at(-1).isIntersecting;
        report();
      });
      watcher.observe(el.closest(".workbench-live") ?? el);
      document.addEventListener("visibilitychange", report);
      return () => {
        watcher.disconnect();
        document.removeEventListener("visibilitychange", report);
        near = false;
        report();
      };
    } };
    """
    shown = traitlets.Bool(True).tag(sync=True)


class Watch:
    """The widgets of a `LiveModel`, updated by a thread until the run has finished."""

    def __init__(self, model: LiveModel) -> None:
        self.model = model
        self.run = model.run
        self._lock = threading.Lock()  # held while the widgets are updated
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._drawn_key: Any = None  # of the figure that is shown
        self._drawn_range: tuple[float, float] | None = None  # of its horizontal axes
        self.header = widgets.HTML()
        self.message = widgets.HTML()
        self.images = widgets.HTML()
        self.buttons = {
            command.name: widgets.Button(
                description=command.label, tooltip=command.description, layout={"width": "auto"}
            )
            for command in model.commands
        }
        for name, button in self.buttons.items():
            button.on_click(partial(self._send, name))
        self.fields: dict[str, widgets.FloatText] = {}
        self.fields_row = widgets.HBox(layout=BAR_LAYOUT)
        self.apply = widgets.Button(
            description="apply",
            tooltip="Multiply the learning rate and the terms from the next step on.",
        )
        self.apply.on_click(lambda _: self._set_multipliers())
        self.x = widgets.Dropdown(
            options={choice_label(name): name for name in get_args(X)},
            value=model.x,
            description=CONTROLS["x"].label,
            style=LABEL_STYLE,
        )
        self.log = widgets.Checkbox(
            value=model.log, description="log axes", indent=False, layout={"width": "auto"}
        )
        self.smoothing = widgets.FloatSlider(
            value=model.smoothing,
            description="smoothing",
            max=MAX_SMOOTHING,
            step=0.01,
            continuous_update=False,
        )
        self.step = widgets.SelectionSlider(
            options=[NO_STEP], description="images of step", style=LABEL_STYLE
        )
        for widget in (self.x, self.log, self.smoothing):
            widget.observe(lambda _: self._set_display(), "value")
        self.step.observe(self._on_step, "value")
        self.curves = go.FigureWidget()
        self.curves._config = {
            "displaylogo": False,
            "modeBarButtonsToRemove": ["sendChartToCloud"],
            "responsive": True,
        }
        self.commands_box = widgets.VBox(
            [
                widgets.HBox([*self.buttons.values(), self.message], layout=BAR_LAYOUT),
                self.fields_row,
            ],
            layout={"display": "none" if model.is_imported else None},
        )
        has_curves = model.has_records or not model.is_imported
        self.curves_box = widgets.VBox(
            [
                widgets.HBox([self.x, self.log, self.smoothing], layout=BAR_LAYOUT),
                self.curves,
            ],
            layout={"display": None if has_curves else "none"},
        )
        self.probe = VisibilityProbe()
        self.box = widgets.VBox(
            [
                self.probe,
                widgets.HTML(THEME),
                self.header,
                self.commands_box,
                self.curves_box,
                self.step,
                self.images,
            ],
            layout={"max_width": "960px"},
        )
        self.box.add_class("workbench-live")
        self._update()

    @property
    def state(self) -> dict[str, Any]:
        """The display settings, as keyword arguments of `watch`."""
        return self.model.settings

    @property
    def selected(self) -> int:
        """The step of the images on the screen; 0 if there are none yet."""
        return self.model.preview_step

    @property
    def table(self) -> pd.DataFrame:
        """The log, one row per record."""
        return self.run.history()

    @property
    def events(self) -> pd.DataFrame:
        """The events of the run, one row per event."""
        return pd.DataFrame(self.run.events())

    @property
    def figure(self) -> go.Figure:
        """The curves on the screen."""
        return self.model.figure()

    def close(self) -> None:
        """Stop following the run. The training continues."""
        self._closed = True
        self._wake.set()

    def code(self) -> str:
        """Return the Python that makes this view."""
        return self.model.code()

    def __repr__(self) -> str:
        return f"Watch of {self.run!r}"

    def _repr_html_(self) -> str:
        """Return the page that needs no kernel: the state, the last record and the images."""
        record = ""
        if self.model.has_records:
            history = self.model.snapshot.history.tail(1).drop(columns="time", errors="ignore")
            record = history.to_html(index=False, border=0)
        return f"<p>{self.model.header_html}</p>{record}{self.images.value}"

    def _ipython_display_(self) -> None:
        """Show the widgets, updated from now on, and the page with the present curves."""
        if self._thread is None or not self._thread.is_alive():
            self._closed = False
            self._thread = threading.Thread(target=self._follow, daemon=True)
            self._thread.start()
        display_with_fallback(self.box, repr(self), self._repr_html_, figure=self._static_figure)

    def _static_figure(self) -> go.Figure | None:
        """Return the figure below the page; None before the first record, and of an import."""
        return self.figure if self.model.has_records else None

    def _follow(self) -> None:
        self.probe.observe(lambda _: self._wake.set(), "shown")
        while not self._closed:
            self.model.refresh()
            self._update()
            if self.model.is_finished:
                return
            is_visible = self.probe.shown
            self._wake.wait(self.model.refresh_interval_s if is_visible else HIDDEN_INTERVAL_S)
            self._wake.clear()

    def _update(self) -> None:
        """Copy the model to the widgets."""
        model = self.model
        with self._lock:
            self.header.value = model.header_html
            self.message.value = html.escape(model.message)
            for command in model.commands:
                self.buttons[command.name].description = command.label
                self.buttons[command.name].disabled = not model.accepts_commands
            self.apply.disabled = not model.accepts_commands
            self._update_fields(model)
            if model.figure_key != self._drawn_key:
                self._drawn_key = model.figure_key
                self._draw(model.figure())
            self._update_steps(model)

    def _update_fields(self, model: LiveModel) -> None:
        changed = model.take_changed_multipliers()
        if self.fields.keys() != model.multipliers.keys():
            self.fields = {
                name: widgets.FloatText(
                    value,
                    description=f"{name} ×",
                    step=0.1,
                    style=LABEL_STYLE,
                    layout={"width": "auto", "max_width": "180px"},
                )
                for name, value in model.multipliers.items()
            }
            self.fields_row.children = (*self.fields.values(), self.apply)
        for name, value in changed.items():
            self.fields[name].value = value

    def _draw(self, figure: go.Figure) -> None:
        """Show a figure; a zoom stays if the figure has the same panels and axes."""
        figure.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
        curves, layout = self.curves, figure.layout
        drawn_range, self._drawn_range = self._drawn_range, layout.xaxis.range
        with curves.batch_update():
            if (
                not curves.data
                or len(figure.data) != len(curves.data)
                or _axis_titles(figure) != _axis_titles(curves)
            ):
                curves.data = []
                curves.layout = layout
                curves.add_traces(figure.data)
                return
            for current, trace in zip(curves.data, figure.data, strict=True):
                current.update(
                    x=trace.x,
                    y=trace.y,
                    customdata=trace.customdata,
                    opacity=trace.opacity,
                    mode=trace.mode,
                )
            curves.layout.update(shapes=layout.shapes, annotations=layout.annotations)
            for axis in figure.select_yaxes():
                curves.layout[axis.plotly_name].type = axis.type
            axes = [curves.layout[axis.plotly_name] for axis in figure.select_xaxes()]
            if all(axis.range == drawn_range for axis in axes):  # nobody has zoomed
                for axis in axes:
                    axis.range = layout.xaxis.range

    def _update_steps(self, model: LiveModel) -> None:
        steps = model.preview_steps
        self.step.layout.display = None if len(steps) > 1 else "none"
        current = tuple(step for _, step in self.step.options)
        if steps and (current != steps or self.step.value != model.preview_step):
            # New options select the first one for a moment.
            self.step.unobserve(self._on_step, "value")
            self.step.options = [(f"{step:,}", step) for step in steps]
            self.step.value = model.preview_step
            self.step.observe(self._on_step, "value")
            self._show_images()

    def _on_step(self, change: dict[str, Any]) -> None:
        self.model.select_preview(change["new"])
        self._show_images()

    def _show_images(self) -> None:
        step = self.model.preview_step
        content = base64.b64encode(self.model.preview_png()).decode()
        if not content:
            self.images.value = f"<em>The images of step {step:,} are damaged.</em>"
            return
        self.images.value = render_text(
            '<img src="data:image/png;base64,{{ content }}" alt="{{ description }}" '
            'style="max-width:100%;width:480px">',
            content=content,
            description=f"{self.run.kind}, step {step:,}",
        )

    def _set_display(self) -> None:
        self.model.x = self.x.value
        self.model.log = self.log.value
        self.model.smoothing = self.smoothing.value
        self._update()

    def _send(self, command: str, _: Any = None) -> None:
        self.model.send(command)
        self.message.value = html.escape(self.model.message)
        self._wake.set()

    def _set_multipliers(self) -> None:
        self.model.set_multipliers({name: field.value for name, field in self.fields.items()})
        self.message.value = html.escape(self.model.message)
        self._wake.set()


def _axis_titles(figure: go.Figure) -> dict[str, str | None]:
    axes = (*figure.select_xaxes(), *figure.select_yaxes())
    return {axis.plotly_name: axis.title.text for axis in axes}
