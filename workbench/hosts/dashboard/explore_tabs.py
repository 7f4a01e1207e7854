"""In the dashboard: the tabs Lens, Map and Codes, on the same modules as in a notebook, and one selection for all."""

import json
from collections.abc import Hashable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from workbench.analysis.latents.projection import latent_map as lay_out
from workbench.explore import MODES
from workbench.hosts.dashboard.analysis_tab import widget_of
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.selected_card import SelectionCard
from workbench.hosts.js.panel import component
from workbench.workspace.codebook import Codebook
from workbench.workspace.controls import controls
from workbench.workspace.latent_map import Map
from workbench.workspace.lens import ORDERS, Lens
from workbench.workspace.selection import Selection
from workbench.workspace.tab_content import (
    SELECTED_ORDER,
    TabContent,
    build_tab,
    moved,
    select_codes,
    select_polygon,
    tab_content,
)
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

MODULES = {"lens": "lens", "map": "latentmap", "codes": "codegrid"}
LAST = 0  # in the menu of checkpoints
KEPT = ("row", "stop")  # of a lens: where one looks, which computes nothing


class ExploreTab:
    """One of the tabs: its controls, its module, and the selection. `show` asks for what a state shows."""

    def __init__(self, session: "Session", tab: str) -> None:
        self.session, self.tab = session, tab
        self.widgets: dict[str, Any] = {}
        self.row = pn.FlexBox(gap="16px")
        self.module = component(MODULES[tab])(sizing_mode="stretch_width")
        self.module.param.watch(self._heard, "view")
        place = pn.Column(self.module, sizing_mode="stretch_width")
        how = {"key": self._key, "compute": lambda state: tab_content(session.bench, state)}
        self.asked = AsyncResult(session, tab, place, self._draw, **how)
        self.selected = SelectionCard(session)
        parts = [self.row, self.asked.body, self.selected.body]
        self.body = pn.Column(*parts, sizing_mode="stretch_width", min_height=500)
        self.thing: Any = None  # a Lens, a Map or a Codebook
        self.same: tuple[
            Hashable, ...
        ] = ()  # keys of what is shown: as it was asked for, and with all that is set
        self._putting = False  # a widget that we move ourselves asks for nothing

    def show(self, state: ViewState) -> None:
        """Show what the state asks for as soon as it is there, or the sentence that says why not."""
        if self.asked.found is None or self._key(state) not in self.same:
            self.same = ()
            self.asked.show(state)
        self.selected.show(state)

    def hide(self) -> None:
        """Nothing goes on while nobody looks."""

    def put(self, told: Mapping[str, Any]) -> None:
        """Look where a lens was looked at; `show` moves the controls."""
        if isinstance(self.thing, Lens):
            self._look(told)
            self._putting = True
            self.module.view = json.dumps(self._view(self.thing))
            self._putting = False

    def told(self) -> dict[str, Any]:
        """What is set here and matters."""
        if isinstance(self.thing, Codebook):
            return {"sort": self.thing.state.sort}
        values = {name: widget.value for name, widget in self.widgets.items() if widget.visible}
        if self.tab == "map":
            return moved(values)
        return {name: value for name, value in values.items() if (name, value) != ("step", LAST)}

    def paint(self, *, dark: bool) -> None:
        """Draw the selection in the page's light or dark; the module follows the page by itself."""
        self.selected.paint(dark=dark)

    def step(self, by: int) -> None:
        """Move along the lens's axis by so many stops."""
        if isinstance(self.thing, Lens):
            row, stop = self.thing.picked
            self.module.view = json.dumps(
                {**json.loads(self.module.view), "row": row, "stop": max(0, stop + by)}
            )

    def _key(self, state: ViewState) -> Hashable:
        """What the module's pictures depend on."""
        told = tuple(
            sorted((name, value) for name, value in state.looks.items() if name not in KEPT)
        )
        if self.tab == "lens" and ("order", SELECTED_ORDER) not in told:
            return self.tab, state.runs, told
        picked = (
            None if state.selection is None else json.dumps(state.selection.told(), sort_keys=True)
        )
        return self.tab, state.runs, state.step, told, picked

    def _draw(self, found: TabContent) -> None:
        self.thing = copy(found.thing)  # another visitor may have been given the same one
        if isinstance(self.thing, Lens):
            told = self.session.state.looks if self.session.state.tab == self.tab else {}
            self.thing.look(
                int(told.get("row", 0)), int(told.get("stop", -1))
            )  # nobody else's, nor an earlier look
        self._putting = True
        try:
            self._put(self.thing)
            self.module.param.update(data=found.data, view=json.dumps(self._view(self.thing)))
        finally:
            self._putting = False
        state = self.asked.state
        self.same = self.asked.key, self._key(state.change(looks=self.told()))

    def _look(self, told: Mapping[str, Any]) -> None:
        row, stop = self.thing.picked
        self.thing.look(int(told.get("row", row)), int(told.get("stop", stop)))

    def _view(self, thing: Any) -> dict[str, Any]:
        """What the module is told was picked; how it shows it stays as somebody set it."""
        before = json.loads(self.module.view) if isinstance(thing, Lens) else {}
        return {**before, **thing.view()}

    def _put(self, thing: Any) -> None:
        """Show the controls as the thing has them."""
        if self.tab == "codes":
            return
        if isinstance(thing, Lens):
            made = _lens_widgets(thing, self.session.state.selection is not None)
        else:
            made = {c.name: widget_of(c, thing.state.controls[c.name]) for c in controls(lay_out)}
        if self.widgets.keys() != made.keys():
            self.widgets = made
            for widget in made.values():
                widget.param.watch(
                    self._moved,
                    "value_throttled" if hasattr(widget, "value_throttled") else "value",
                )
            self.row.objects = list(made.values())
            return
        for name, widget in self.widgets.items():
            same = {
                part: getattr(made[name], part)
                for part in ("options", "end")
                if hasattr(made[name], part)
            }
            widget.param.update(value=made[name].value, visible=made[name].visible, **same)

    def _moved(self, event: Any) -> None:
        if self._putting or event.new == event.old:
            return
        looks = self.told()
        if event.obj is not self.widgets.get("over"):
            looks |= {
                name: value for name, value in self.session.state.looks.items() if name == "row"
            }
        changes: dict[str, Any] = {"looks": looks}
        if self.tab == "map" and event.obj is not self.widgets["colour"] and self._lasso_is_here():
            changes["selection"] = None  # another layout: the polygon would hold other points
        self.session.go(**changes)

    def _lasso_is_here(self) -> bool:
        return self.thing is not None and self.thing.state.polygon is not None

    def _heard(self, _: Any = None) -> None:
        """Somebody picked something in the module."""
        if not self._putting and self.thing is not None:
            self._take(json.loads(self.module.view))

    def _take(self, told: dict[str, Any]) -> None:
        state = self.session.state
        if isinstance(self.thing, Lens):
            where = int(told["row"]), int(told["stop"])
            if where != self.thing.picked:
                self.thing.look(*where)
                self.session.go(looks={**self.told(), "row": where[0], "stop": where[1]})
        elif isinstance(self.thing, Map):
            if [list(corner) for corner in self.thing.state.polygon or ()] != (
                told.get("polygon") or []
            ):
                self._picked(select_polygon(state, self.thing, told.get("polygon")))
        elif list(self.thing.state.selected) != told["selected"]:
            self._picked(select_codes(state, told["selected"]), looks={"sort": told["sort"]})
        elif self.thing.state.sort != told["sort"]:
            self._picked(state.selection, looks={"sort": told["sort"]})

    def _picked(self, selection: Selection | None, **changes: Any) -> None:
        """The module shows already what was picked: only the selection's panel is drawn anew."""
        state = self.session.state.change(selection=selection, **changes)
        self.thing, self.asked.key = build_tab(self.session.bench, state), self._key(state)
        self.same = (self.asked.key,)
        self.session.go(selection=selection, **changes)


def _lens_widgets(lens: Lens, selection: bool) -> dict[str, Any]:
    """The controls of a lens; those that its axis does not ask for are hidden."""
    state, shown = lens.state, lens.settings
    orders = [*ORDERS, *([SELECTED_ORDER] if selection or state.places else [])]
    steps = {"last": LAST, **{f"{step:,}": step for step in lens.runs[0].steps}}
    labels = {name: label for label, name in enumerate(lens.classes)} or {"": state.label}
    made = {
        "over": pmui.Select(
            label="slider over", options=list(lens.axes), value=state.over, width=180
        ),
        "show": pmui.IntSlider(label="rows", start=1, end=32, value=min(32, state.show), width=180),
        "order": pmui.Select(
            label="images",
            options=orders,
            value=SELECTED_ORDER if state.places else state.order,
            width=140,
        ),
        "step": pmui.Select(label="checkpoint", options=steps, value=state.step or LAST, width=140),
        "token": pmui.IntSlider(
            label="token",
            start=0,
            end=max(1, lens.most_tokens),
            value=min(state.token, lens.most_tokens),
            width=180,
        ),
        "mode": pmui.IntSlider(
            label="from mode", start=0, end=MODES - 1, value=min(state.mode, MODES - 1), width=180
        ),
        "label": pmui.Select(label="class", options=labels, value=state.label, width=140),
        "seed": pmui.IntInput(label="seed", start=0, end=9999, value=state.seed, width=120),
    }
    for name, widget in made.items():
        widget.visible = name in shown
    return made
