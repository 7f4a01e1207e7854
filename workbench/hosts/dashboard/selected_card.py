"""In the dashboard, under a module: what is selected, wherever it was picked, and what can be taken from it."""

import html
import io
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import UserError
from workbench.hosts.dashboard.figure import Figure
from workbench.workspace.image_selection import SelectedImages
from workbench.workspace.selection import Selection
from workbench.workspace.tab_content import SELECTED_ORDER, selected_images, selection_code
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

HINT = "Nothing is selected: draw a loop on the map or around points of a figure, click codes, or write a condition."
COPY = "navigator.clipboard?.writeText(location.href)"


class SelectionCard:
    """The selection's pictures, errors and codes; CSV, Python, link; a condition to select by."""

    def __init__(self, session: "Session") -> None:
        self.session, self.found, self.asked = session, None, None
        self.where = pmui.TextInput(label="select where: error > 0.05 & class = 3", width=320)
        self.where.param.watch(lambda event: self._ask(event.new), "value")
        how = {"variant": "outlined", "size": "small", "visible": False}
        self.csv = pmui.FileDownload(
            callback=self._csv, filename="selection.csv", label="CSV", **how
        )
        self.python, self.link = (
            pmui.Button(label="Python", **how),
            pmui.Button(label="copy link", **how),
        )
        self.lens, self.clear = (
            pmui.Button(label="in the lens", **how),
            pmui.Button(label="clear", **how),
        )
        self.link.js_on_click(code=COPY)
        self.python.on_click(lambda _: self._fold())
        self.lens.on_click(lambda _: session.go(tab="lens", looks={"order": SELECTED_ORDER}))
        self.clear.on_click(lambda _: session.go(selection=None))
        self.said, self.code = (
            pn.pane.HTML("", sizing_mode="stretch_width"),
            pn.pane.HTML("", visible=False),
        )
        self.figure = Figure()
        self.buttons = [self.csv, self.python, self.link, self.lens, self.clear]
        row = pn.FlexBox(self.where, *self.buttons, gap="12px", align_items="center")
        self.body = pn.Column(
            row, self.said, self.code, self.figure.body, sizing_mode="stretch_width"
        )

    def show(self, state: ViewState) -> None:
        """Show what the state selects."""
        asked = state.runs[:1], state.step, state.selection
        if asked == self.asked:
            return
        self.asked = asked
        try:
            self.found = selected_images(self.session.bench, state)
            said = HINT if self.found is None else self.found.summary()
        except UserError as error:
            self.found, said = None, str(error)
        self.said.object = f"<p>{html.escape(said)}</p>"
        for button in self.buttons:
            button.visible = self.found is not None
        self.clear.visible = state.selection is not None
        self.code.object = f"<pre style='white-space: pre-wrap'>{html.escape(selection_code(self.session.bench, state))}</pre>"
        self.code.visible = self.code.visible and self.found is not None
        self.paint(dark=self.session.dark)

    def paint(self, *, dark: bool) -> None:
        """Draw the figure in the page's light or dark."""
        if isinstance(self.found, SelectedImages) and len(self.found.places) > 0:
            self.figure.draw(apply_theme(self.found.figure(), dark=dark))
        else:
            self.figure.body.visible = False

    def _ask(self, where: str) -> None:
        try:
            state = self.session.state
            selection = Selection(state.runs[0], state.step, where=where) if where.strip() else None
            selected_images(self.session.bench, state.change(selection=selection))
        except UserError as error:
            self.said.object = f"<p>{html.escape(str(error))}</p>"
            return
        self.session.go(selection=selection)

    def _csv(self) -> Any:
        table = self.found.table() if isinstance(self.found, SelectedImages) else None
        return io.StringIO("" if table is None else table.to_csv(index=False))

    def _fold(self) -> None:
        self.code.visible = not self.code.visible
