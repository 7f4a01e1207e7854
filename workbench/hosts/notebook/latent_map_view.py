"""The widgets of a latent map in a notebook: its controls and, below them, the points."""

import json
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from workbench.analysis.latents.projection import latent_map as project_latents
from workbench.hosts.js.jupyter import Module
from workbench.hosts.notebook.background_task import BackgroundTask
from workbench.hosts.notebook.codebook_view import selection_html
from workbench.hosts.notebook.control_widgets import ROW_LAYOUT, control_widget
from workbench.workspace.controls import controls
from workbench.workspace.latent_map import Map


class MapView:
    """The widgets of one cell: the state of a map follows them, and the points follow its state."""

    def __init__(self, model: Map) -> None:
        self.model = model
        self.controls = {
            control.name: control_widget(control, model.state.controls[control.name])
            for control in controls(project_latents)
        }
        self.task = BackgroundTask()
        self.module = Module("latentmap", {}, {})
        self.module.layout.display = "none"  # until there is anything to show
        self.summary = widgets.HTML()
        row = widgets.HBox(list(self.controls.values()), layout=ROW_LAYOUT)
        self.box = widgets.VBox([row, self.task.body, self.module, self.summary])
        for widget in self.controls.values():
            widget.observe(self._on_control, "value")
        self.module.observe(self._on_selection, "view")
        self._draw()

    def _on_control(self, change: dict[str, Any]) -> None:
        values = {name: widget.value for name, widget in self.controls.items()}
        # In another layout the polygon would contain other points.
        keeps_layout = change["owner"] is self.controls["color_by"]
        state = self.model.state
        polygon = state.polygon if keeps_layout else None
        self.model.state = replace(state, controls=values, polygon=polygon)
        self._draw()

    def _on_selection(self, change: dict[str, Any]) -> None:
        self.model.state = self.model.state.select(json.loads(change["new"]))
        self.summary.value = selection_html(self.model)

    def _draw(self) -> None:
        self.task.start("projecting", lambda: json.dumps(self.model.data()), self._show)

    def _show(self, data: str) -> None:
        with self.module.hold_sync():
            self.module.data = data
            self.module.layout.display = None
            self.module.view = json.dumps(self.model.view())
        self.summary.value = selection_html(self.model)
