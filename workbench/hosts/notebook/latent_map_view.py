"""The widgets of a latent map in a notebook: its controls and, below them, the points."""

import json
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from workbench.analysis.latents.projection import latent_map as lay_out
from workbench.hosts.js.jupyter import Module
from workbench.hosts.notebook.background_task import BackgroundTask
from workbench.hosts.notebook.codebook_view import selection_html
from workbench.hosts.notebook.control_widgets import ROW_LAYOUT, control_widget
from workbench.workspace.controls import controls
from workbench.workspace.latent_map import Map


class MapView:
    """The widgets of one cell: the state of a map follows them, and the points follow its state."""

    def __init__(self, shown: Map) -> None:
        self.map = shown
        self.controls = {
            c.name: control_widget(c, shown.state.controls[c.name]) for c in controls(lay_out)
        }
        self.task, self.module = BackgroundTask(), Module("latentmap", {}, {})
        row = widgets.HBox(list(self.controls.values()), layout=ROW_LAYOUT)
        self.selected = widgets.HTML()
        self.box = widgets.VBox([row, self.task.body, self.module, self.selected])
        for widget in self.controls.values():
            widget.observe(self._changed, "value")
        self.module.observe(self._picked, "view")
        self._draw()

    def _changed(self, change: dict[str, Any]) -> None:
        values = {name: widget.value for name, widget in self.controls.items()}
        polygon = (
            self.map.state.polygon if change["owner"] is self.controls["color_by"] else None
        )  # it is of a layout
        self.map.state = replace(self.map.state, controls=values, polygon=polygon)
        self._draw()

    def _picked(self, change: dict[str, Any]) -> None:
        polygon = json.loads(change["new"]).get("polygon")
        corners = None if polygon is None else tuple((float(x), float(y)) for x, y in polygon)
        self.map.state = replace(self.map.state, polygon=corners)
        self.selected.value = selection_html(self.map)

    def _draw(self) -> None:
        self.task.start("laying out", lambda: json.dumps(self.map.data()), self._show)

    def _show(self, told: str) -> None:
        with self.module.hold_sync():
            self.module.data, self.module.view = told, json.dumps(self.map.view())
        self.selected.value = selection_html(self.map)
