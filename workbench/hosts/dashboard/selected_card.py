"""The selected images below a module or a figure, and what can be done with them."""

import io
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.analysis.plotting.style import apply_theme
from workbench.core.errors import UserError
from workbench.core.glossary import tooltip
from workbench.core.html_templates import marked, render_text
from workbench.hosts.dashboard.figure import Figure
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.image_selection import SelectedImages
from workbench.workspace.selection import Selection
from workbench.workspace.tab_content import SELECTED_ORDER, selected_images, selection_code
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

HINT = (
    "Nothing is selected. Draw a lasso on the map or around points of a figure, click codes, "
    "or enter a condition."
)
COPY_LINK = "navigator.clipboard?.writeText(location.href)"
CODE = '<pre style="white-space: pre-wrap">{{ text }}</pre>'


class SelectionCard:
    """The selection's images, errors and codes; CSV, Python and link; a field for a condition."""

    def __init__(self, state: DashboardState, workspace: Workspace) -> None:
        self.state = state
        self.workspace = workspace
        self.images: SelectedImages | None = None
        self._key: tuple[tuple[str, ...], int | None, Selection | None] | None = None
        self.where = pmui.TextInput(
            label="Select images",
            placeholder="psnr < 20 & image < 100",
            width=320,
            size="small",
            description=tooltip("select images"),
        )
        self.where.param.watch(lambda event: self._select_where(event.new), "value")
        options: dict[str, Any] = {"variant": "outlined", "size": "small", "visible": False}
        self.csv = pmui.FileDownload(
            callback=self._csv, filename="selection.csv", label="CSV", **options
        )
        self.python = pmui.Button(label="Python", **options)
        self.link = pmui.Button(label="copy link", **options)
        self.lens = pmui.Button(label="open in lens", **options)
        self.similar = pmui.Button(label="similar images", **options)
        self.clear = pmui.Button(label="clear", **options)
        self.python.on_click(lambda _: self._toggle_code())
        self.link.js_on_click(code=COPY_LINK)
        self.lens.on_click(lambda _: state.open_tab("lens", tab_options={"order": SELECTED_ORDER}))
        self.similar.on_click(lambda _: self._open_similar())
        self.clear.on_click(lambda _: state.change(selection=None))
        self.buttons = [self.csv, self.python, self.link, self.lens, self.similar, self.clear]
        self.summary = pn.pane.HTML("", sizing_mode="stretch_width")
        self.code = pn.pane.HTML("", visible=False)
        self.figure = Figure()
        row = pn.FlexBox(
            self.where,
            *self.buttons,
            gap="12px",
            align_items="center",
            sizing_mode="stretch_width",
        )
        self.controls = pn.Column(row, self.summary, self.code, sizing_mode="stretch_width")
        self.body = pn.Column(self.controls, self.figure.body, sizing_mode="stretch_width")
        state.param.watch(lambda _: self._draw(), "dark")

    def show(self, view: ViewState) -> None:
        """Show the images that a view selects."""
        key = (view.runs[:1], view.step, view.selection)
        if key == self._key:
            return
        self._key = key
        try:
            self.images = selected_images(self.workspace, view)
            summary = HINT if self.images is None else self.images.summary()
            code = selection_code(self.workspace, view)
        except UserError as error:
            self.images = None
            summary = str(error)
            code = ""
        self.summary.object = f"<p>{marked(summary)}</p>"
        for button in self.buttons:
            button.visible = self.images is not None
        self.similar.visible = self.images is not None and len(self.images.indices) == 1
        self.clear.visible = view.selection is not None
        self.code.object = render_text(CODE, text=code)
        self.code.visible = self.code.visible and self.images is not None
        self._draw()

    def _open_similar(self) -> None:
        """Open the images that are most similar to the one that is selected."""
        if self.images is not None and len(self.images.indices):
            index = int(self.images.indices[0])
            self.state.open_analysis("similar_images", controls={"image": index})

    def _draw(self) -> None:
        if self.images is not None and len(self.images.indices) > 0:
            self.figure.draw(apply_theme(self.images.figure(), dark=self.state.dark))
        else:
            self.figure.body.visible = False

    def _select_where(self, where: str) -> None:
        view = self.state.view
        try:
            selection = None
            if where.strip():
                selection = Selection(run=view.runs[0], step=view.step, where=where)
            selected_images(self.workspace, view.change(selection=selection))
        except UserError as error:
            self.summary.object = f"<p>{marked(str(error))}</p>"
            return
        self.state.change(selection=selection)

    def _csv(self) -> io.StringIO:
        if self.images is None:
            return io.StringIO("")
        return io.StringIO(self.images.table().to_csv(index=False))

    def _toggle_code(self) -> None:
        self.code.visible = not self.code.visible
