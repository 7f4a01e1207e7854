"""In the dashboard: one analysis with its controls in a row, its figure, what it says, and its numbers."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from workbench import analysis
from workbench.analysis.base import Result
from workbench.analysis.plotting.style import apply_theme
from workbench.hosts.dashboard.async_result import AsyncResult, marked
from workbench.hosts.dashboard.figure import Figure
from workbench.hosts.dashboard.run_list import titles
from workbench.hosts.dashboard.selected_card import SelectionCard
from workbench.workspace.controls import Control, Value, controls
from workbench.workspace.tab_content import (
    SELECTED_ORDER,
    pictured,
    select_codes,
    select_indices,
    selected_image_indices,
)
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session
LEAST = 640  # pixels: what three panels side by side need; on a narrower page a figure scrolls


class AnalysisTab:
    """The widgets of one analysis, as `told` at first; `changed` is called when a control was moved."""

    def __init__(
        self,
        session: "Session",
        name: str,
        told: Mapping[str, Value],
        changed: Callable[[], None],
        *,
        table: bool = True,
    ) -> None:
        self.session, self.name, self.changed = session, name, changed
        self.controls = {c.name: c for c in controls(analysis.get(name))}
        self.widgets = {
            c.name: widget_of(c, told.get(c.name, c.default)) for c in self.controls.values()
        }
        for widget in self.widgets.values():
            widget.param.watch(
                lambda _: self.changed(),
                "value_throttled" if hasattr(widget, "value_throttled") else "value",
            )
        self.figure = Figure(
            least=LEAST if table else 0, clicked=self._clicked, lassoed=self._lassoed
        )
        self.selected: SelectionCard | None = None  # where the figure has points to select
        self.below = pn.Column(sizing_mode="stretch_width", margin=0)
        self.summary = pn.pane.HTML("", sizing_mode="stretch_width", styles={"font-size": "16px"})
        self.table, self.numbers = _table(pd.DataFrame()), pn.Column(sizing_mode="stretch_width")
        self.fold = pmui.Accordion(("table", self.numbers))
        self.fold.param.watch(lambda _: self._fill(), "active")
        # The figure scrolls, the text does not: a Column would be as wide as the figure, and all that is around it.
        frame = pn.FlexBox(
            self.figure.body, sizing_mode="stretch_width", styles={"overflow-x": "auto"}
        )
        shown = [self.summary, frame, *([self.below, self.fold] if table else [])]
        self.shown = pn.Column(*shown, sizing_mode="stretch_width", styles={"min-width": "0"})
        self.asked = AsyncResult(session, name, self.shown, self._draw)
        row = pn.FlexBox(*self.widgets.values(), gap="16px")
        self.body = pn.Column(row, self.asked.body, sizing_mode="stretch_width", min_height=400)

    def told(self) -> dict[str, Value]:
        """The controls that have been moved from where they start."""
        values = {name: widget.value for name, widget in self.widgets.items()}
        return {
            name: value for name, value in values.items() if value != self.controls[name].default
        }

    def put(self, told: Mapping[str, Value]) -> None:
        """Move the controls to what is told, the others to where they start."""
        for name, widget in self.widgets.items():
            widget.value = told.get(name, self.controls[name].default)

    def show(self, state: ViewState) -> None:
        """Compute what the state asks for, and show it, or the sentence that says why not."""
        self.asked.ask(state, self.told())
        self._follow()

    def step(self, by: int) -> None:
        """Move the first slider by so many of its steps."""
        known = (
            c
            for c in self.controls.values()
            if c.kind in ("integer", "number") and c.name != "seed"
        )
        if (first := next(known, None)) is not None:
            widget = self.widgets[first.name]
            widget.value = min(max(widget.value + by * widget.step, widget.start), widget.end)
            self.changed()

    def paint(self, *, dark: bool) -> None:
        """Draw the figure of what is shown, in the page's light or dark."""
        if self.asked.found is None:
            return
        self.figure.draw(apply_theme(self.asked.found.figure(), dark=dark))
        if self.selected is not None:
            self.selected.paint(dark=dark)

    def _clicked(self, kind: str, which: Any) -> None:
        """A run's point lets it lead; an image opens in the lens, a code among the codes."""
        session, state = self.session, self.session.state
        if kind == "run" and which in session.bench.runs:
            others = (name for name in state.runs if name != which)
            session.go(runs=(str(which), *others), step=None)
        elif kind == "image" and state.runs:
            session.go(
                tab="lens",
                looks={"order": SELECTED_ORDER},
                selection=select_indices(session.bench, state, [which]),
            )
        elif kind == "code" and state.runs:
            session.go(tab="codes", looks={}, selection=select_codes(state, [int(which)]))

    def _lassoed(self, kind: str, which: list[Any]) -> None:
        """Of the runs that have a point, these alone stay selected; images, or those holding codes, are selected."""
        session, state = self.session, self.session.state
        if kind == "run" and which:
            self.figure.mark("run", [])  # the figure is drawn anew of those that stay
            out = self.figure.named("run") - set(which)
            runs = tuple(name for name in state.runs if name not in out)
            session.go(runs=runs, step=state.step if runs[:1] == state.runs[:1] else None)
        elif kind == "image" and state.runs:
            session.go(selection=select_indices(session.bench, state, which))
        elif kind == "code" and state.runs:
            session.go(selection=select_codes(state, sorted(map(int, which))))

    def _follow(self) -> None:
        """Show the selection where the figure has points that it may hold, and mark those."""
        kinds, state = self.figure.kinds & {"image", "code"}, self.session.state
        if self.asked.found is None or not kinds or state.tab:
            return
        if self.selected is None:
            self.selected = SelectionCard(self.session)
            self.below[:] = [self.selected.body]
        self.selected.show(state)
        if "image" in kinds:
            known = self.selected.found is not None
            places = (
                selected_image_indices(self.session.bench, pictured(self.session.bench, state))
                if known
                else []
            )
            self.figure.mark("image", places)
        elif state.selection is None:
            self.figure.mark("code", [])

    def _draw(self, result: Result) -> None:
        self.summary.object = marked(result.summary())
        self.table = _table(
            result.table()
        )  # a new one: a table that is still being built does not bear other columns
        self._fill()
        self.paint(dark=self.session.dark)
        self._follow()

    def _fill(self) -> None:
        if self.fold.active:  # somebody looks: else it would only make the page heavy
            self.numbers[:] = [self.table]


def _table(table: pd.DataFrame) -> pn.widgets.Tabulator:
    how = {"disabled": True, "show_index": False, "layout": "fit_data_table"}
    return pn.widgets.Tabulator(
        table, pagination="remote", page_size=15, titles=titles(table), **how
    )


def widget_of(control: Control, value: Any) -> pn.widgets.Widget:
    """A control as a widget, at a value."""
    if control.kind == "flag":
        return pmui.Checkbox(label=control.label, value=value)
    if control.kind == "choice":
        return pmui.Select(
            label=control.label, options=list(control.choices), value=value, width=160
        )
    slider, kind = (pmui.IntSlider, int) if control.kind == "integer" else (pmui.FloatSlider, float)
    bounds = {"start": kind(control.low), "end": kind(control.high), "step": kind(control.step)}
    return slider(label=control.label, value=value, width=220, **bounds)
