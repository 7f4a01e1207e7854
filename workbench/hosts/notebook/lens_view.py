"""The widgets of a lens in a notebook: its controls and, below them, the images."""

import json
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from workbench.core.glossary import axis_label, choice_label, control_term
from workbench.explore import MAX_MODES
from workbench.hosts.js.jupyter import Module
from workbench.hosts.notebook.background_task import BackgroundTask
from workbench.hosts.notebook.control_widgets import LABEL_STYLE, ROW_LAYOUT
from workbench.workspace.lens import ORDERS, Lens

LAST_STEP = 0  # the value of "last" in the menu of checkpoints
MAX_ROWS = 32
MAX_SEED = 9999


class LensView:
    """The widgets of one cell: a lens follows them, and the images follow the lens."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        self.widgets = _lens_widgets(lens)
        self.task = BackgroundTask()
        self.module = Module("lens", {}, {})
        self.module.layout.display = "none"  # until there is anything to show
        self.row = widgets.HBox(layout=ROW_LAYOUT)
        self.box = widgets.VBox([self.row, self.task.body, self.module])
        for widget in self.widgets.values():
            widget.observe(self._on_control, "value")
        self.module.observe(self._on_position, "view")
        self._draw()

    def _on_control(self, _: Any = None) -> None:
        values = {name: widget.value for name, widget in self.widgets.items()}
        values["step"] = values["step"] or None
        if values["over"] != self.lens.state.over:
            values |= {"row": 0, "stop": -1}
        if values["order"] != self.lens.state.order:
            values["indices"] = ()
        self.lens.state = replace(self.lens.state, **values)
        self._draw()

    def _on_position(self, change: dict[str, Any]) -> None:
        position = json.loads(change["new"])
        self.lens.move_to(int(position["row"]), int(position["stop"]))

    def _draw(self) -> None:
        self.row.children = tuple(self.widgets[name] for name in self.lens.relevant_settings)
        self.task.start("running the model", lambda: json.dumps(self.lens.data()), self._show)

    def _show(self, data: str) -> None:
        with self.module.hold_sync():
            self.module.data = data
            self.module.layout.display = None
            self.module.view = json.dumps(self.lens.view())


def _lens_widgets(lens: Lens) -> dict[str, widgets.ValueWidget]:
    """Return a widget for each setting of a lens."""
    state = lens.state
    steps = [("last", LAST_STEP), *((f"{step:,}", step) for step in lens.runs[0].steps)]
    labels = [(name, label) for label, name in enumerate(lens.class_names)]
    axes = [(axis_label(axis), axis) for axis in lens.axes]
    return {
        "over": _menu("over", axes, state.over),
        "show": _slider("show", state.show, low=1, high=MAX_ROWS),
        "order": _menu("order", [(choice_label(order), order) for order in ORDERS], state.order),
        "step": _menu("step", steps, state.step or LAST_STEP),
        "token": _slider("token", state.token, low=0, high=lens.max_token),
        "mode": _slider("mode", state.mode, low=0, high=MAX_MODES - 1),
        "label": _menu("label", labels or [("", state.label)], state.label),
        "seed": widgets.BoundedIntText(
            state.seed,
            0,
            MAX_SEED,
            description=control_term("lens", "seed").label,
            tooltip=control_term("lens", "seed").tooltip,
            style=LABEL_STYLE,
            layout={"width": "auto"},
        ),
    }


def _menu(name: str, options: Any, value: Any) -> widgets.Dropdown:
    term = control_term("lens", name)
    return widgets.Dropdown(
        options=options,
        value=value,
        description=term.label,
        tooltip=term.tooltip,
        style=LABEL_STYLE,
        layout={"width": "auto"},
    )


def _slider(name: str, value: int, *, low: int, high: int) -> widgets.IntSlider:
    term = control_term("lens", name)
    return widgets.IntSlider(
        min(value, high),
        low,
        high,
        description=term.label,
        tooltip=term.tooltip,
        style=LABEL_STYLE,
        continuous_update=False,
    )
