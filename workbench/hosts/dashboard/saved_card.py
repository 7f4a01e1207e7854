"""Views that a person has saved under a name, in the folder of runs, with a link to each."""

import html
import json
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.core.errors import RunError, UserError
from workbench.core.glossary import tooltip
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.widgets import linked_row
from workbench.hosts.reports.from_views import view_title
from workbench.storage.atomic import read_json, write_text

FILE_NAME = "views.json"  # in the folder of runs: the query of each view by its name
MAX_VIEWS = 100
MAX_NAME_LENGTH = 80
PLACEHOLDER = "name this view"  # keyboard.js finds the field by it


class SavedViewsCard:
    """A field for the name of the current view, and the list of all saved views."""

    def __init__(self, state: DashboardState, folder: Path) -> None:
        self.state = state
        self.file = folder / FILE_NAME
        self.name = pmui.TextInput(
            placeholder=f"{PLACEHOLDER} (s)",
            size="small",
            label="Save this view",
            sizing_mode="stretch_width",
            description=tooltip("name of a view"),
        )
        self.save_button = pmui.Button(label="save", variant="outlined", size="small")
        self.name.param.watch(lambda _: self.save(self.name.value_input or ""), "enter_pressed")
        self.save_button.on_click(lambda _: self.save(self.name.value_input or ""))
        self.list = pn.Column(sizing_mode="stretch_width", margin=0)
        self.message = pn.pane.HTML("")
        row = pn.Row(self.name, self.save_button, sizing_mode="stretch_width", margin=0)
        self.body = pn.Column(row, self.message, self.list, sizing_mode="stretch_width", margin=0)
        self._draw()

    @property
    def views(self) -> dict[str, str]:
        """The query of each view by its name, as stored on disk now."""
        try:
            stored: dict[str, Any] = read_json(self.file, {})
        except RunError:  # it exists and cannot be read
            return {}
        return {name: query for name, query in stored.items() if isinstance(query, str)}

    def save(self, name: str) -> None:
        """Save the current view under a name, replacing the view that has it.

        An empty name becomes a description of the view.
        """
        view = self.state.view
        name = (name.strip() or view_title(view))[:MAX_NAME_LENGTH]
        views = {**self.views, name: view.to_query()}
        if len(views) > MAX_VIEWS:
            self._show_message(f"At most {MAX_VIEWS} views can be saved. Delete one first.")
        elif self._write(views):
            self._show_message(f"Saved as {name}.")

    def delete(self, name: str) -> None:
        """Delete a saved view."""
        if self._write({other: query for other, query in self.views.items() if other != name}):
            self._show_message("")

    def _write(self, views: dict[str, str]) -> bool:
        try:
            write_text(self.file, json.dumps(views, indent=1, ensure_ascii=False))
        except UserError as error:
            self._show_message(str(error))
            return False
        self._draw()
        return True

    def _show_message(self, text: str) -> None:
        self.message.object = html.escape(text)

    def _draw(self) -> None:
        self.list.objects = [self._row(name, query) for name, query in self.views.items()]

    def _row(self, name: str, query: str) -> pn.Row:
        return linked_row(
            name,
            f"?{query}",
            f"delete: {name}",
            lambda: self.delete(name),
        )
