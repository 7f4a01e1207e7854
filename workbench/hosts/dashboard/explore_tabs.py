"""The tabs Lens, Map and Codes, on the same JavaScript modules as in a notebook."""

import json
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel_material_ui.widgets.base import MaterialWidget

from workbench.analysis.latents.projection import latent_map as project_latents
from workbench.core.glossary import axis_label, choice_label, control_term
from workbench.explore import MAX_MODES
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.selected_card import SelectionCard
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.widgets import control_widget, shorten, watch_widget
from workbench.hosts.js.panel import component
from workbench.workspace.codebook import Codebook
from workbench.workspace.controls import Value, controls
from workbench.workspace.latent_map import Map
from workbench.workspace.lens import ORDERS, Lens
from workbench.workspace.selection import Selection
from workbench.workspace.tab_content import (
    SELECTED_ORDER,
    TabContent,
    build_tab,
    changed_map_controls,
    select_codes,
    select_on_map,
    tab_content,
)
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

MODULES = {"lens": "lens", "map": "latentmap", "codes": "codegrid"}
LAST_STEP = 0  # the value of "last" in the menu of checkpoints
POSITION_OPTIONS = ("row", "stop")  # where a lens points; they need no computation


class ExploreTab:
    """The controls, the module and the selection of one of the three tabs."""

    def __init__(
        self, tab: str, state: DashboardState, workspace: Workspace, compute: ComputeClient
    ) -> None:
        self.tab = tab
        self.state = state
        self.workspace = workspace
        self.widgets: dict[str, MaterialWidget] = {}
        self.row = pn.FlexBox(gap="16px", styles={"padding-top": "8px"})
        self.module = component(MODULES[tab])(sizing_mode="stretch_width")
        self.module.param.watch(lambda event: self._on_module_view(event.new), "view")
        self.result = AsyncResult(
            tab,
            pn.Column(self.module, sizing_mode="stretch_width"),
            self._draw,
            workspace,
            compute,
            key=self._key,
            compute_view=lambda view: tab_content(workspace, view),
        )
        self.compute = compute
        self.selection_card = SelectionCard(state, workspace)
        # A module fills the screen: below it, nobody would see that a condition is not valid.
        self.body = pn.Column(
            self.row,
            self.selection_card.controls,
            self.result.body,
            self.selection_card.figure.body,
            sizing_mode="stretch_width",
            min_height=500,
        )
        self.model: Lens | Map | Codebook | None = None
        self._limits: Mapping[str, int] = {}  # of the controls, for the data on the map
        # Keys of what is shown: as it was requested, and with the values of all controls.
        self._shown_keys: tuple[Hashable, ...] = ()
        self._module_view = ""  # the module's view that Python has set last
        self._follows_model = False  # while the widgets are being set to the model's values

    def show(self, view: ViewState) -> None:
        """Show the content of a view once it has been computed, and its selection."""
        if self.result.result is None or self._key(view) not in self._shown_keys:
            self._shown_keys = ()
            self.result.show(view)
        elif isinstance(self.model, Lens):
            self._point_lens(self.model, view.tab_options)
        self.compute.lifecycle.after_load(lambda: self.selection_card.show(view))

    def hide(self) -> None:
        """Do nothing: a hidden tab has no timers."""

    def move_slider(self, steps: int) -> None:
        """Move the lens along its axis."""
        if isinstance(self.model, Lens):
            row, stop = self.model.position
            view = {**json.loads(self._view_text()), "row": row, "stop": max(0, stop + steps)}
            self.module.param.update(view=json.dumps(view))

    def _view_text(self) -> str:
        return str(self.module.param.values()["view"])

    def _key(self, view: ViewState) -> Hashable:
        """Return what the pictures of the module depend on."""
        options = tuple(
            sorted(item for item in view.tab_options.items() if item[0] not in POSITION_OPTIONS)
        )
        versions = self.workspace.versions(view)
        if self.tab == "lens" and ("order", SELECTED_ORDER) not in options:
            return self.tab, view.runs, versions, options
        selection = None
        if view.selection is not None:
            selection = json.dumps(view.selection.to_dict(), sort_keys=True)
        return self.tab, view.runs, versions, view.step, options, selection

    def _draw(self, content: TabContent) -> None:
        model = copy(content.content)  # the queue may return the same object to another visitor
        self.model = model
        view = self.state.view
        if isinstance(model, Lens):
            # The position of this visitor, not that of another one or of an earlier view.
            options = view.tab_options if view.tab == self.tab else {}
            model.move_to(int(options.get("row", 0)), int(options.get("stop", -1)))
        with self._following_model():
            self._set_widgets(model)
        self._update_module(model, data=content.data)
        requested = self.result.view
        with_all_options = requested.change(tab_options=self._options())
        self._shown_keys = (self.result.key, self._key(with_all_options))

    def _point_lens(self, lens: Lens, options: Mapping[str, Value]) -> None:
        """Move the lens to the position of an address."""
        row, stop = lens.position
        position = int(options.get("row", row)), int(options.get("stop", stop))
        if position != (row, stop):
            lens.move_to(*position)
            self._update_module(lens)

    def _update_module(self, model: Lens | Map | Codebook, **changes: str) -> None:
        # A lens keeps how a person has set it up: its zoom and which panels are shown.
        view = json.loads(self._view_text()) if isinstance(model, Lens) else {}
        self._module_view = json.dumps({**view, **model.view()})
        self.module.param.update(view=self._module_view, **changes)

    @contextmanager
    def _following_model(self) -> Iterator[None]:
        """Ignore changes of the widgets, which a person has not made."""
        self._follows_model = True
        try:
            yield
        finally:
            self._follows_model = False

    def _set_widgets(self, model: Lens | Map | Codebook) -> None:
        if isinstance(model, Codebook):
            return
        if isinstance(model, Lens):
            widgets = _lens_widgets(model, has_selection=self.state.view.selection is not None)
        else:
            widgets = {
                control.name: control_widget(control, model.state.controls[control.name])
                for control in controls(project_latents)
            }
            self._limits = model.result.control_limits()
            for name, end in self._limits.items():
                shorten(widgets[name], end)
        if self.widgets.keys() != widgets.keys():
            self.widgets = widgets
            for name, widget in widgets.items():
                watch_widget(widget, partial(self._on_control, name))
            self.row.objects = list(widgets.values())
            return
        for name, widget in self.widgets.items():
            values = widgets[name].param.values()
            parts = ("options", "end", "value", "visible")
            widget.param.update(**{part: values[part] for part in parts if part in values})

    def _options(self) -> dict[str, Value]:
        """Return the options of the tab that its widgets show."""
        if isinstance(self.model, Codebook):
            return {"sort": self.model.state.sort}
        values = {name: widget.value for name, widget in self.widgets.items() if widget.visible}
        if self.tab == "map":
            # At the end of a shortened slider, all images are used, as by default.
            is_chosen = {name: value != self._limits.get(name) for name, value in values.items()}
            return changed_map_controls({k: v for k, v in values.items() if is_chosen[k]})
        return {
            name: value for name, value in values.items() if (name, value) != ("step", LAST_STEP)
        }

    def _on_control(self, name: str, event: Any) -> None:
        if self._follows_model or event.new == event.old:
            return
        options = self._options()
        if name != "over" and "row" in self.state.view.tab_options:
            options["row"] = self.state.view.tab_options["row"]
        if self.tab == "map" and name != "color_by" and self._has_lasso():
            # In another layout the polygon would contain other points.
            self.state.open_tab(self.tab, tab_options=options, selection=None)
        else:
            self.state.open_tab(self.tab, tab_options=options)

    def _has_lasso(self) -> bool:
        return isinstance(self.model, Map) and self.model.state.polygon is not None

    def _on_module_view(self, text: str) -> None:
        """Follow what a person has done in the module."""
        if text == self._module_view or self.model is None:
            return
        module_view = json.loads(text)
        view = self.state.view
        if isinstance(self.model, Lens):
            position = int(module_view["row"]), int(module_view["stop"])
            if position != self.model.position:
                self.model.move_to(*position)
                row, stop = position
                self.state.open_tab(
                    self.tab, tab_options={**self._options(), "row": row, "stop": stop}
                )
        elif isinstance(self.model, Map):
            map_state = self.model.state.select(module_view)
            if map_state != self.model.state:
                self._select(select_on_map(view, map_state), view.tab_options)
        elif self.model.differs(module_view):
            options = {"sort": module_view["sort"]}
            self._select(select_codes(view, module_view["selected"]), options)
        elif self.model.state.sort != module_view["sort"]:
            self._select(view.selection, {"sort": module_view["sort"]})

    def _select(self, selection: Selection | None, options: Mapping[str, Value]) -> None:
        """Select what the module shows as selected already: only the selection is drawn again."""
        view = self.state.view.change(selection=selection, tab_options=options)
        self.model = build_tab(self.workspace, view)
        self.result.key = self._key(view)
        self._shown_keys = (self.result.key,)
        self.state.open_tab(self.tab, selection=selection, tab_options=options)


def _term(name: str) -> dict[str, str]:
    """Return the label and the tooltip of a control of the lens."""
    term = control_term("lens", name)
    return {"label": term.label, "description": term.tooltip}


def _lens_widgets(lens: Lens, *, has_selection: bool) -> dict[str, MaterialWidget]:
    """Return the controls of a lens; those that its axis does not use are hidden."""
    state = lens.state
    orders = list(ORDERS)
    if has_selection or state.indices:
        orders.append(SELECTED_ORDER)
    steps = {"last": LAST_STEP} | {f"{step:,}": step for step in lens.runs[0].steps}
    labels = {name: label for label, name in enumerate(lens.class_names)} or {"": state.label}
    axes = {axis_label(axis): axis for axis in lens.axes}
    widgets = {
        "over": pmui.Select(**_term("over"), options=axes, value=state.over, width=240),
        "show": pmui.IntSlider(
            **_term("show"), start=1, end=32, value=min(32, state.show), width=180
        ),
        "order": pmui.Select(
            **_term("order"),
            options={choice_label(order): order for order in orders},
            value=SELECTED_ORDER if state.indices else state.order,
            width=200,
        ),
        "step": pmui.Select(
            **_term("step"), options=steps, value=state.step or LAST_STEP, width=140
        ),
        "token": pmui.IntSlider(
            **_term("token"),
            start=0,
            end=max(1, lens.max_token),
            value=min(state.token, lens.max_token),
            width=180,
        ),
        "mode": pmui.IntSlider(
            **_term("mode"),
            start=0,
            end=MAX_MODES - 1,
            value=min(state.mode, MAX_MODES - 1),
            width=180,
        ),
        "label": pmui.Select(**_term("label"), options=labels, value=state.label, width=140),
        "seed": pmui.IntInput(**_term("seed"), start=0, end=9999, value=state.seed, width=120),
    }
    for name, widget in widgets.items():
        widget.visible = name in lens.relevant_settings
    return widgets
