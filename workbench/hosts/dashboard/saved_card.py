"""In the dashboard: views that somebody gave a name, kept beside the runs, and a link to each."""

import html
import json
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from workbench.core.errors import UserError
from workbench.hosts.reports.from_views import named
from workbench.storage.atomic import read_json, write_text

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

FILE = "views.json"  # in the folder of runs: a view's query by its name
MOST, LONGEST = 100, 80  # views, and letters of a name
PLACEHOLDER = "name this view"  # what the key `s` looks for


class SavedViewsCard:
    """A field for the name of what is looked at, and the list of what was saved, by whomever."""

    def __init__(self, session: "Session") -> None:
        self.session, self.file = session, session.bench.folder / FILE
        look = {"size": "small", "label": "", "sizing_mode": "stretch_width"}
        self.name = pmui.TextInput(placeholder=f"{PLACEHOLDER} (s)", **look)
        self.put = pmui.Button(label="save", variant="outlined", size="small")
        self.name.param.watch(lambda _: self.save(self.name.value_input or ""), "enter_pressed")
        self.put.on_click(lambda _: self.save(self.name.value_input or ""))
        self.list, self.said = pn.Column(sizing_mode="stretch_width", margin=0), pn.pane.HTML("")
        row = pn.Row(self.name, self.put, sizing_mode="stretch_width", margin=0)
        self.body = pn.Column(row, self.said, self.list, sizing_mode="stretch_width", margin=0)
        self._draw()

    @property
    def views(self) -> dict[str, str]:
        """What is saved, each view's query by its name, as it lies on disk now."""
        try:
            found = read_json(self.file, {})
        except OSError:  # there, and not to be read
            return {}
        return {name: query for name, query in found.items() if isinstance(query, str)}

    def save(self, name: str) -> None:
        """Save what is looked at under a name, in the place of what was saved under it; under none, its own."""
        name = (name.strip() or named(self.session.state))[:LONGEST]
        views = {**self.views, name: self.session.state.to_query()}
        if len(views) > MOST:
            self._say(
                f"{MOST} views are saved, which is all there is room for: take one out first."
            )
        elif self._write(views):
            self._say(f"Saved as {name}.")

    def drop(self, name: str) -> None:
        """Forget a view."""
        if self._write({other: query for other, query in self.views.items() if other != name}):
            self._say("")

    def _write(self, views: dict[str, str]) -> bool:
        try:
            write_text(self.file, json.dumps(views, indent=1, ensure_ascii=False))
        except UserError as error:
            self._say(str(error))
            return False
        self._draw()
        return True

    def _say(self, sentence: str) -> None:
        self.said.object = html.escape(sentence)

    def _draw(self) -> None:
        self.list.objects = [self._row(name, query) for name, query in self.views.items()]

    def _row(self, name: str, query: str) -> Any:
        out = pmui.Button(
            label="×",
            variant="text",
            size="small",
            width=36,
            margin=0,
            description=f"forget: {name}",
        )
        out.on_click(lambda _: self.drop(name))
        link = f'<a href="?{html.escape(query)}" style="color: inherit">{html.escape(name)}</a>'
        return pn.Row(
            out,
            pn.pane.HTML(link, sizing_mode="stretch_width"),
            margin=0,
            sizing_mode="stretch_width",
        )
