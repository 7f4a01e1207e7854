"""In JupyterLab: `watch(run)` follows a run while it trains. A thread reads its files, also while a cell is busy.

What is seen can be had in code: `.state`, `.table`, `.figure`, `.events`, `.code()`. There is nothing to draw a loop
around: `.selected` is the step whose pictures are shown.
"""

import base64
import html
import threading
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
import traitlets

from workbench.core.errors import UserError
from workbench.hosts.notebook.static_fallback import display_with_fallback
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

ROW = {"flex_flow": "row wrap", "grid_gap": "4px 16px", "align_items": "center"}
AWAY = 10.0  # seconds between looks while nobody can see them
# The page's own colours, which change with JupyterLab's theme while a figure's are fixed.
THEME = """<style>
.workbench-live .js-plotly-plot text { fill: var(--jp-content-font-color1, #444) !important; }
.workbench-live .js-plotly-plot .gridlayer path { stroke: var(--jp-border-color2, #ddd) !important; }
.workbench-live .js-plotly-plot .zerolinelayer path { stroke: var(--jp-border-color1, #bbb) !important; }
.workbench-live img { image-rendering: pixelated; }
</style>"""


def watch(
    run: Run | str | Path, *, log: bool = False, smoothing: float = 0.0, step: int | None = None
) -> "Watch":
    """Follow a run: curves, pictures, and what can be asked of it. Closing the notebook stops nothing.

    `log` axes, `smoothing` in [0, 0.99], the pictures of a `step` (None: the latest). Raises RunError if there is no
    such run, UserError where a step has no pictures.
    """
    return Watch(run if isinstance(run, Run) else Run(run), log, smoothing, step)


class Sight(anywidget.AnyWidget):
    """Knows whether anybody can see it: a hidden tab or a place scrolled away need no updates."""

    _esm = """
    export default { render({ model, el }) {
      let near = true;
      const tell = () => {
        model.set("shown", near && !document.hidden);
        model.save_changes();
      };
      el.style.minHeight = "1px";
      const watcher = new IntersectionObserver((seen) => { near = seen.at(-1).isIntersecting; tell(); });
      watcher.observe(el.closest(".workbench-live") ?? el);
      document.addEventListener("visibilitychange", tell);
      return () => {
        watcher.disconnect();
        document.removeEventListener("visibilitychange", tell);
        near = false;
        tell();
      };
    } };
    """
    shown = traitlets.Bool(True).tag(sync=True)


class Watch:
    """The widgets of one run, kept up to date by a thread until the run has finished."""

    def __init__(self, run: Run, log: bool, smoothing: float, step: int | None) -> None:
        self.run, self._follower = run, RunFollower(run)
        self._numbers: list[int] = []  # of what was asked for last
        self._one_at_a_time, self._wake, self._closed = threading.Lock(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self._look, self._drawn = self._follower.snapshot(), None
        self._build()
        self.log.value, self.smoothing.value = log, smoothing
        self._show()
        if step is not None:
            if step not in self._look.preview_steps:
                raise UserError(
                    f"{run.name} has no pictures of step {step:,}; it has {self._look.preview_steps or 'none'}."
                )
            self.step.value = step

    @property
    def state(self) -> dict[str, Any]:
        """How it is looked at, as `watch` takes it."""
        pictured = self._look.preview_steps
        told = {"log": self.log.value, "smoothing": self.smoothing.value}
        return told | (
            {"step": self.step.value} if pictured and self.step.value != pictured[-1] else {}
        )

    @property
    def selected(self) -> int:
        """The step whose pictures are shown; 0 where there are none yet."""
        return int(self.step.value)

    @property
    def table(self) -> pd.DataFrame:
        """The log, a row a record."""
        return self.run.history()

    @property
    def events(self) -> pd.DataFrame:
        """What happened, a row each."""
        return pd.DataFrame(self.run.events())

    @property
    def figure(self) -> go.Figure:
        """The curves on the screen."""
        return curves(self._look, log=self.log.value, smoothing=self.smoothing.value)

    def close(self) -> None:
        """Follow no longer; the run goes on."""
        self._closed = True
        self._wake.set()

    def code(self) -> str:
        """The Python that makes this view."""
        told = [f"{name}={value!r}" for name, value in self.state.items() if value]
        arguments = ", ".join([repr(str(self.run.folder)), *told])
        return f"import workbench as wb\n\nwatch = wb.watch({arguments})\nwatch"

    def __repr__(self) -> str:
        return f"Watch of {self.run!r}"

    def _repr_html_(self) -> str:
        """Without a kernel: how the run stood, its last record and its last pictures."""
        look = self._look
        last = (
            look.history.tail(1)
            .drop(columns="time", errors="ignore")
            .to_html(index=False, border=0)
        )
        return f"<p>{_head(look)}</p>{'' if look.history.empty else last}{self.pictures.value}"

    def _ipython_display_(self) -> None:
        """The widgets, from now on up to date; and the page, with the curves as they are now."""
        if self._thread is None or not self._thread.is_alive():
            self._closed, self._thread = False, threading.Thread(target=self._follow, daemon=True)
            self._thread.start()
        display_with_fallback(self.box, repr(self), self._repr_html_, figure=lambda: self.figure)

    def _build(self) -> None:
        self.head, self.said, self.pictures = widgets.HTML(), widgets.HTML(), widgets.HTML()
        names = ("pause", "stop", "sample now", "evaluate now")
        self.buttons = {
            name: widgets.Button(description=name, layout={"width": "auto"}) for name in names
        }
        for name, button in self.buttons.items():
            button.on_click(lambda _, name=name: self._ask(name.removesuffix(" now")))
        self.buttons[
            "stop"
        ].tooltip = "with a checkpoint; the command that started it goes on from there"
        self.fields: dict[str, widgets.FloatText] = {}
        self._force: dict[str, float] = {}  # the multipliers, when they were last looked at
        self.row = widgets.HBox(layout=ROW)
        self.apply = widgets.Button(
            description="apply", tooltip="from the next step on; recorded as events"
        )
        self.apply.on_click(lambda _: self._apply())
        self.log = widgets.Checkbox(description="log axes", indent=False, layout={"width": "auto"})
        self.smoothing = widgets.FloatSlider(
            description="smoothing", max=0.99, step=0.01, continuous_update=False
        )
        self.step = widgets.SelectionSlider(options=[("–", 0)], description="pictures of step")
        self.step.style = {"description_width": "initial"}
        for control in (self.log, self.smoothing):
            control.observe(lambda _: self._show(), "value")
        self.step.observe(self._stepped, "value")
        self.curves, self.sight = go.FigureWidget(), Sight()
        self.curves._config = {
            "displaylogo": False,
            "modeBarButtonsToRemove": ["sendChartToCloud"],
            "responsive": True,
        }
        bar = widgets.HBox([*self.buttons.values(), self.said], layout=ROW)
        how = widgets.HBox([self.log, self.smoothing], layout=ROW)
        seen = [
            self.sight,
            widgets.HTML(THEME),
            self.head,
            bar,
            self.row,
            how,
            self.curves,
            self.step,
            self.pictures,
        ]
        self.box = widgets.VBox(seen, layout={"max_width": "960px"})
        self.box.add_class("workbench-live")

    def _follow(self) -> None:
        self.sight.observe(lambda _: self._wake.set(), "shown")
        while not self._closed:
            self._look = self._follower.snapshot()
            self._show()
            if self._look.state == "finished":
                return
            wait = (1.0 if self._look.is_listening else 5.0) if self.sight.shown else AWAY
            self._wake.wait(wait)
            self._wake.clear()

    def _show(self) -> None:
        """Put the latest look on the screen."""
        with self._one_at_a_time:
            look = self._look
            self.head.value = _head(look)
            self.buttons["pause"].description = "resume" if look.state == "paused" else "pause"
            for button in (*self.buttons.values(), self.apply):
                button.disabled = not look.is_listening
            if self._numbers:
                self.said.value = html.escape(command_reply(look, *self._numbers))
            self._show_fields(look.multipliers)
            drawn = (len(look.history), len(look.events), self.log.value, self.smoothing.value)
            if drawn != self._drawn:
                self._drawn = drawn
                self._draw(curves(look, log=self.log.value, smoothing=self.smoothing.value))
            self._show_steps(look)

    def _show_fields(self, force: dict[str, float]) -> None:
        if self.fields.keys() != force.keys():
            style = {"description_width": "initial"}
            wide = {"width": "auto", "max_width": "180px"}
            self.fields = {
                name: widgets.FloatText(
                    value, description=f"{name} ×", step=0.1, style=style, layout=wide
                )
                for name, value in force.items()
            }
            self.row.children = (*self.fields.values(), self.apply)
        for name in (name for name, value in force.items() if value != self._force.get(name)):
            self.fields[name].value = force[name]  # somebody has changed it, perhaps elsewhere
        self._force = force

    def _draw(self, new: go.Figure) -> None:
        new.update_layout(paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
        if not self.curves.data or len(new.data) != len(self.curves.data):
            with self.curves.batch_update():
                self.curves.data = []
                self.curves.layout = new.layout
                self.curves.add_traces(new.data)
            return
        with self.curves.batch_update():
            for old, trace in zip(self.curves.data, new.data, strict=True):
                old.update(x=trace.x, y=trace.y, opacity=trace.opacity, mode=trace.mode)
            self.curves.layout.update(shapes=new.layout.shapes, annotations=new.layout.annotations)
            for name in (name for name in new.layout if name.startswith("yaxis")):
                self.curves.layout[name].type = new.layout[name].type

    def _show_steps(self, look: RunSnapshot) -> None:
        steps, known = look.preview_steps, [step for _, step in self.step.options]
        self.step.layout.display = None if len(steps) > 1 else "none"
        if not steps or known == list(steps):
            return
        latest = (
            self.step.value == known[-1]
        )  # who looks at the latest goes on looking at the latest
        value = steps[-1] if latest else self.step.value
        self.step.unobserve(
            self._stepped, "value"
        )  # new options put it on the first one for a moment
        self.step.options = [(f"{step:,}", step) for step in steps]
        self.step.value = value
        self.step.observe(self._stepped, "value")
        self._stepped()

    def _stepped(self, _: Any = None) -> None:
        self.pictures.value = _pictures(self.run, self.step.value)

    def _ask(self, command: str) -> None:
        if command == "pause" and self._look.state == "paused":
            command = "resume"
        self._told(lambda: [self.run.ask(command)])

    def _apply(self) -> None:
        self._told(
            lambda: request_multipliers(self.run, {name: field.value for name, field in self.fields.items()})
        )

    def _told(self, ask: Any) -> None:
        """Ask, and say so; the thread says what came of it."""
        try:
            self._numbers = ask()
            self.said.value = "asked …" if self._numbers else "Nothing was changed."
            self._wake.set()
        except UserError as error:
            self._numbers, self.said.value = [], f"✗ {html.escape(str(error))}"


def _head(look: RunSnapshot) -> str:
    told = html.escape(hint(look))
    return f"<b>{html.escape(look.name)}</b> · {html.escape(status_line(look))}" + (
        f"<br><em>{told}</em>" if told else ""
    )


def _pictures(run: Run, step: int) -> str:
    drawn = base64.b64encode(preview_png(run, step)).decode()
    if not drawn:
        return f"<em>The pictures of step {step:,} are damaged.</em>"
    alt = html.escape(f"{run.kind}, step {step:,}", quote=True)
    return (
        f'<img src="data:image/png;base64,{drawn}" alt="{alt}" style="max-width:100%;width:480px">'
    )
