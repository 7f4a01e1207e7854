"""One analysis: its controls, its figure, its summary and its table."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui
import plotly.graph_objects as go
from bokeh.models.widgets.tables import NumberFormatter, ScientificFormatter

from workbench import analysis
from workbench.analysis.base import Result
from workbench.analysis.plotting.selected_codes import show_selected_codes
from workbench.analysis.plotting.style import apply_theme
from workbench.core.counted import counted
from workbench.core.glossary import OTHERS, tooltip
from workbench.core.html_templates import marked
from workbench.core.result_columns import SIGNIFICANT_DIGITS, column_tooltip, decimals_of_columns
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.figure import Figure
from workbench.hosts.dashboard.picture_cards import PictureCards
from workbench.hosts.dashboard.run_columns import column_titles
from workbench.hosts.dashboard.selected_card import SelectionCard
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.widgets import (
    control_widget,
    move_slider,
    set_value,
    shorten,
    watch_widget,
)
from workbench.workspace.controls import Value, controls
from workbench.workspace.image_selection import SelectedImages
from workbench.workspace.tab_content import (
    SELECTED_ORDER,
    codes_in,
    led_by_images,
    select_codes,
    select_indices,
    selected_image_indices,
)
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace, is_of_one_run

MIN_WIDTH_PX = 640  # of three panels next to each other; on a narrower page the figure scrolls
ROWS_PER_PAGE = 15  # of the table
SUMMARY_STYLE = {"font-size": "16px", "white-space": "pre-line"}


class AnalysisTab:
    """The widgets of one analysis.

    Parameters
    ----------
    name : str
        The analysis.
    state, workspace, compute
        The visitor's state, the folder of runs and the access to the compute queue.
    tab : str, optional
        The tab whose options are the controls of the analysis, if it is part of another tab.
    compact : bool, optional
        Whether to leave out the table and the selection.
    """

    def __init__(
        self,
        name: str,
        state: DashboardState,
        workspace: Workspace,
        compute: ComputeClient,
        *,
        tab: str = "",
        compact: bool = False,
    ) -> None:
        self.name = name
        self.state = state
        self.workspace = workspace
        self.tab = tab
        self.controls = {control.name: control for control in controls(analysis.get(name))}
        self.limits: Mapping[str, int] = {}  # of the controls, for the data of the result
        values = self._controls_in(state.view)
        self.widgets = {
            control.name: control_widget(control, values.get(control.name, control.default))
            for control in self.controls.values()
        }
        for control_name, widget in self.widgets.items():
            watch_widget(widget, partial(self._on_control, control_name))
        self.side_by_side = pmui.Checkbox(
            label=OTHERS["side by side"].label,
            value=state.view.side_by_side,
            visible=False,
            description=tooltip("side by side"),
        )
        self.side_by_side.param.watch(lambda event: state.change(side_by_side=event.new), "value")
        self.figure = Figure(
            min_width=0 if compact else MIN_WIDTH_PX,
            on_click=self._open_point,
            on_select=self._select_points,
        )
        self.pictures = PictureCards(self._act_on_image)
        self.selection_card: SelectionCard | None = None  # if the figure has points to select
        self._has_selected_codes = False  # whether a heat map shows the selected images
        self.below = pn.Column(sizing_mode="stretch_width", margin=0)
        self.summary = pn.pane.HTML("", sizing_mode="stretch_width", styles=SUMMARY_STYLE)
        self.table = _table_widget(name, pd.DataFrame())
        self.table_frame = pn.Column(sizing_mode="stretch_width")
        self.accordion = pmui.Accordion(("table", self.table_frame))
        self.accordion.param.watch(lambda _: self._show_table(), "active")
        # The figure scrolls and the text does not: a Column would make the text as wide as the
        # figure.
        frame = pn.FlexBox(
            self.figure.body, sizing_mode="stretch_width", styles={"overflow-x": "auto"}
        )
        parts = [self.summary, self.pictures.body, frame]
        if not compact:
            parts += [self.below, self.accordion]
        content = pn.Column(*parts, sizing_mode="stretch_width", styles={"min-width": "0"})
        self.result = AsyncResult(name, content, self._draw, workspace, compute)
        # Room for the labels, which are on the upper edges of the fields.
        row = pn.FlexBox(
            self.side_by_side, *self.widgets.values(), gap="16px", styles={"padding-top": "8px"}
        )
        self.body = pn.Column(row, self.result.body, sizing_mode="stretch_width", min_height=400)
        state.param.watch(lambda event: self.set_theme(dark=event.new), "dark")

    def set_controls(self, values: Mapping[str, Value]) -> None:
        """Set the widgets to these values, and all others to their defaults."""
        for name, widget in self.widgets.items():
            set_value(widget, values.get(name, self.controls[name].default))
            if name in self.limits:
                shorten(widget, self.limits[name])

    def show(self, view: ViewState) -> None:
        """Show the analysis of the view's runs under the view's controls."""
        values = self._controls_in(view)
        self.set_controls(values)
        can_compare = not self.tab and is_of_one_run(self.name) and len(view.runs) > 1
        self.side_by_side.param.update(value=view.side_by_side, visible=can_compare)
        self.result.show(
            ViewState(
                runs=view.runs,
                step=view.step,
                analysis=self.name,
                controls=values,
                side_by_side=can_compare and view.side_by_side,
            )
        )
        self._show_selection()

    def hide(self) -> None:
        """Do nothing: a hidden analysis has no timers."""

    def move_slider(self, steps: int) -> None:
        """Move the first slider, except that of the seed."""
        for name, control in self.controls.items():
            if control.kind in ("integer", "number") and name != "seed":
                self._set_control(name, move_slider(self.widgets[name], steps))
                return

    def set_theme(self, *, dark: bool) -> None:
        """Draw the figure in the light or dark theme."""
        result = self.result.result
        if result is not None and not result.replaces_figure:
            self.figure.draw(apply_theme(result.figure(), dark=dark))
            self._show_selection()

    def _controls_in(self, view: ViewState) -> Mapping[str, Value]:
        """Return the controls that a view has for this analysis; none if it shows another one."""
        if self.tab:
            return view.tab_options if view.tab == self.tab else {}
        return view.controls if view.analysis == self.name else {}

    def _on_control(self, name: str, event: Any) -> None:
        self._set_control(name, event.new)

    def _set_control(self, name: str, value: Value) -> None:
        if self.tab:
            self.state.set_tab_option(self.tab, name, value, self.controls[name].default)
            return

        def change(view: ViewState) -> ViewState:
            if view.tab or view.analysis != self.name:
                return view
            values = {**view.controls, name: value}
            changed = {key: v for key, v in values.items() if v != self.controls[key].default}
            return view.change(controls=changed)

        self.state.update(change)

    def _open_point(self, kind: str, id_: Any) -> None:
        """Make a clicked run primary, or open an image in the lens, a code, or a perspective."""
        view = self.state.view
        if kind == "run" and id_ in self.workspace.runs:
            self.state.make_primary(str(id_))
        elif kind == "image" and view.runs:
            selection = select_indices(self.workspace, view, [id_])
            self.state.open_tab("lens", tab_options={"order": SELECTED_ORDER}, selection=selection)
        elif kind == "code" and view.runs:
            selection = select_codes(view, [int(id_)])
            self.state.open_tab("codes", tab_options={}, selection=selection)
        elif kind == "perspective":
            name, run = str(id_).split(":", 1)
            self.state.open_analysis_of_run(name, run)

    def _act_on_image(self, action: str, index: int) -> None:
        """Select an image of a card, or open it in the lens or among its most similar images."""
        view = self.state.view
        if action == "similar":
            self.state.open_analysis("similar_images", controls={"image": index})
        elif action == "lens":
            self._open_point("image", index)
        elif view.runs:
            primary = led_by_images(self.workspace, view)
            indices = set(selected_image_indices(self.workspace, primary)) ^ {index}
            selection = select_indices(self.workspace, view, sorted(indices))
            self.state.change(selection=selection)

    def _select_points(self, kind: str, ids: list[Any]) -> None:
        """Deselect the runs outside a lasso, or select its images, or the images of its codes."""
        view = self.state.view
        if kind == "run" and ids:
            self.figure.mark("run", [])  # the figure is drawn again with the remaining runs
            outside = self.figure.ids("run") - set(ids)
            self.state.select_runs(tuple(name for name in view.runs if name not in outside))
        elif kind == "image" and view.runs:
            self.state.change(selection=select_indices(self.workspace, view, ids))
        elif kind == "code" and view.runs:
            self.state.change(selection=select_codes(view, sorted(map(int, ids))))

    def _show_selection(self) -> None:
        """Show the selection below a figure with images or codes, and mark their points."""
        result = self.result.result
        view = self.state.view
        if result is None or view.tab:
            return
        kinds = self.figure.kinds & {"image", "code"}
        if result.figure_html():
            kinds = {"image"}
        if not kinds:
            return
        if self.selection_card is None:
            self.selection_card = SelectionCard(self.state, self.workspace)
            self.below[:] = [self.selection_card.body]
        self.selection_card.show(view)
        if "image" in kinds:
            indices: list[int] = []
            if self.selection_card.images is not None:
                view = led_by_images(self.workspace, view)
                indices = selected_image_indices(self.workspace, view)
            self.figure.mark("image", indices)
            self.pictures.mark(indices)
        if "code" in kinds:
            self._show_selected_codes(self.selection_card.images)

    def _show_selected_codes(self, images: SelectedImages | None) -> None:
        """Frame selected codes, or color the codes by the tokens of the selected images."""
        selection = self.state.view.selection
        codes: tuple[int, ...] = ()
        if selection is not None and selection.run in ("", self.state.primary):
            codes = codes_in(selection)
        counts = None if images is None or codes else images.code_counts
        if images is not None and counts is not None:
            names = counted(len(images.indices), "selected image")
            self.figure.draw(show_selected_codes(self._themed_figure(), counts, names))
            self._has_selected_codes = True
        elif self._has_selected_codes:
            self.figure.draw(self._themed_figure())
            self._has_selected_codes = False
        self.figure.mark("code", codes)

    def _themed_figure(self) -> go.Figure:
        return apply_theme(self.result.result.figure(), dark=self.state.dark)

    def _draw(self, result: Result) -> None:
        cards = result.figure_html()
        is_page = result.replaces_figure and not cards
        self.accordion.visible = not is_page  # a page has a table of its own
        self.summary.object = result._repr_html_() if is_page else marked(result.full_summary())
        # A new widget: a table that is still being built cannot change its columns.
        self.table = _table_widget(self.name, result.table())
        self._show_table()
        self.pictures.draw(cards)
        if not result.replaces_figure:
            self._has_selected_codes = False
            self.figure.draw(self._themed_figure())
        self.limits = result.control_limits()
        self.set_controls(self._controls_in(self.state.view))
        self._show_selection()

    def _show_table(self) -> None:
        if self.accordion.active:  # a closed table would only make the page heavy
            self.table_frame[:] = [self.table]


def _number_format(places: int | None) -> NumberFormatter | ScientificFormatter:
    """Return the format of a column of numbers, which all have the same decimals if possible."""
    if places is None:
        return ScientificFormatter(
            precision=SIGNIFICANT_DIGITS - 1, power_limit_low=-3, nan_format="–"
        )
    pattern = "0,0." + "0" * places if places else "0,0"
    return NumberFormatter(format=pattern, nan_format="–")


def _table_widget(analysis_name: str, table: pd.DataFrame) -> pn.widgets.Tabulator:
    places = decimals_of_columns(table)
    return pn.widgets.Tabulator(
        table,
        disabled=True,
        show_index=False,
        layout="fit_data_table",
        pagination="remote",
        page_size=ROWS_PER_PAGE,
        text_align={str(name): "right" for name in table.select_dtypes("number")},
        titles=column_titles(table),
        formatters={name: _number_format(places[name]) for name in places},
        header_tooltips={str(name): column_tooltip(analysis_name, str(name)) for name in table},
    )
