"""The widgets of a lens in a notebook: its controls and, below them, the images."""

import json
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from workbench.explore import MAX_MODES
from workbench.hosts.js.jupyter import Module
from workbench.hosts.notebook.background_task import BackgroundTask
from workbench.hosts.notebook.control_widgets import ROW_LAYOUT
from workbench.workspace.lens import ORDERS, Lens


class LensView:
    """The widgets of one cell: a lens follows them, and the images follow the lens."""

    def __init__(self, lens: Lens) -> None:
        self.lens, state = lens, lens.state
        look = {"style": {"description_width": "initial"}}
        menu = look | {"layout": {"width": "auto"}}
        self.over = widgets.Dropdown(
            options=lens.axes, value=state.over, description="slider over", **menu
        )
        self.show = widgets.IntSlider(
            state.show, 1, 32, description="rows", continuous_update=False, **look
        )
        self.order = widgets.Dropdown(
            options=ORDERS, value=state.order, description="images", **menu
        )
        steps = [("last", 0), *((f"{step:,}", step) for step in lens.runs[0].steps)]
        self.step = widgets.Dropdown(
            options=steps, value=state.step or 0, description="checkpoint", **menu
        )
        most = lens.max_token
        self.token = widgets.IntSlider(min(state.token, most), 0, most, description="token", **look)
        self.token.continuous_update = False
        self.mode = widgets.IntSlider(
            min(state.mode, MAX_MODES - 1), 0, MAX_MODES - 1, description="from mode", **look
        )
        self.mode.continuous_update = False
        labels = [(name, label) for label, name in enumerate(lens.class_names)] or [
            ("", state.label)
        ]
        self.label = widgets.Dropdown(
            options=labels, value=state.label, description="class", **menu
        )
        self.seed = widgets.BoundedIntText(state.seed, 0, 9999, description="seed", **menu)
        self.task, self.module = BackgroundTask(), Module("lens", {}, {})
        self.row = widgets.HBox(layout=ROW_LAYOUT)
        self.box = widgets.VBox([self.row, self.task.body, self.module])
        for widget in (
            self.over,
            self.show,
            self.order,
            self.step,
            self.token,
            self.mode,
            self.label,
            self.seed,
        ):
            widget.observe(self._changed, "value")
        self.module.observe(self._picked, "view")
        self._draw()

    def _changed(self, _: Any = None) -> None:
        names = ("over", "show", "order", "step", "token", "mode", "label", "seed")
        values = {name: getattr(self, name).value for name in names}
        values["step"] = values["step"] or None
        if values["over"] != self.lens.state.over:
            values |= {"row": 0, "stop": -1}
        if values["order"] != self.lens.state.order:
            values["indices"] = ()
        self.lens.state = replace(self.lens.state, **values)
        self._draw()

    def _picked(self, change: dict[str, Any]) -> None:
        told = json.loads(change["new"])
        self.lens.move_to(int(told["row"]), int(told["stop"]))

    def _draw(self) -> None:
        self.row.children = tuple(getattr(self, name) for name in self.lens.relevant_settings)
        self.task.start("asking the model", lambda: json.dumps(self.lens.data()), self._show)

    def _show(self, told: str) -> None:
        with self.module.hold_sync():
            self.module.data, self.module.view = told, json.dumps(self.lens.view())
