"""The page of all runs: a table with chosen columns, groups, tags and notes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui
from bokeh.models.widgets.tables import HTMLTemplateFormatter, NumberFormatter

from workbench.core.errors import UserError
from workbench.core.glossary import tooltip
from workbench.core.html_templates import marked
from workbench.hosts.dashboard.run_columns import (
    COLOR_COLUMN,
    COLOR_TEMPLATE,
    STATE_TEMPLATE,
    STYLE,
    column_titles,
    header_tooltips,
)
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.run_annotations import Annotation, RunAnnotations
from workbench.workspace.run_metrics import METRIC_COLUMNS, metrics_of
from workbench.workspace.run_table import STATES, filter_runs, with_settings
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

TAB = "table"
EDITED = {"pin": "pinned", "hide": "hidden", "tags": "tags", "note": "note"}  # column to field
FIXED = ("pin", COLOR_COLUMN, "run", "state")
DEFAULT_COLUMNS = ("PSNR (dB)", "rFD", "gFD", "tokens", "perplexity", "data")
NO_GROUP = "nothing"
ROWS_PER_PAGE = 100
FRACTION_DIGITS = {column.name: column.digits for column in METRIC_COLUMNS}


class RunsPage:
    """All runs of the folder, one row per run. Its settings are options of the view's tab."""

    def __init__(self, state: DashboardState, workspace: Workspace) -> None:
        self.state = state
        self.workspace = workspace
        self.annotations = RunAnnotations(workspace.folder)
        self.frame = pd.DataFrame()  # every run and every column
        self._rows: list[int] = []
        self._follows_view = False
        self.filter = pmui.TextInput(
            label="Filter",
            placeholder="psnr > 25 & kind = VQVAE & baseline",
            size="small",
            width=320,
            description=tooltip("filter"),
        )
        self.columns = pmui.MultiChoice(
            label="Columns",
            options=[],
            value=[],
            sizing_mode="stretch_width",
            max_width=420,
            description=tooltip("columns"),
        )
        self.group = pmui.Select(
            label="Group by",
            options=[NO_GROUP],
            value=NO_GROUP,
            width=180,
            size="small",
            description=tooltip("group by"),
        )
        self.show_hidden = pmui.Checkbox(
            label="Show hidden runs",
            value=False,
            size="small",
            description=tooltip("show hidden"),
        )
        self.message = pn.pane.HTML("", styles={"opacity": "0.8"})
        self.place = pn.Column(sizing_mode="stretch_width")
        self.table: pn.widgets.Tabulator | None = None
        row = pn.FlexBox(
            self.filter,
            self.columns,
            self.group,
            self.show_hidden,
            gap="16px",
            align_items="center",
            sizing_mode="stretch_width",
        )
        self.body = pn.Column(row, self.message, self.place, sizing_mode="stretch_width")
        for widget in (self.filter, self.columns, self.group, self.show_hidden):
            widget.param.watch(lambda _: self._on_widget(), "value")

    def show(self, view: ViewState) -> None:
        """Show the table under the options of a view."""
        self._read()
        options = view.tab_options if view.tab == TAB else {}
        self._follows_view = True
        try:
            names = [str(name) for name in self.frame if name not in (*FIXED, *EDITED)]
            selected = _selected_columns(options.get("columns"), names)
            self.columns.param.update(options=names, value=selected)
            groups = [NO_GROUP, *names]
            group = str(options.get("group", NO_GROUP))
            self.group.param.update(options=groups, value=group if group in groups else NO_GROUP)
            self.filter.value = str(options.get("where", ""))
            self.show_hidden.value = bool(options.get("hidden", False))
        finally:
            self._follows_view = False
        self._draw(view.runs)

    def hide(self) -> None:
        """Do nothing: the tab has no timers."""

    def move_slider(self, steps: int) -> None:
        """Do nothing: the tab has no slider."""

    def _read(self) -> None:
        table = self.workspace.table()
        runs = list(self.workspace.runs.values())
        settings = with_settings(table, runs, differing=False)
        metrics = pd.DataFrame([metrics_of(run) for run in runs], index=table.index)
        measured = [column.name for column in METRIC_COLUMNS if column.name in metrics]
        notes = self.annotations.read()
        colors = self.workspace.run_colors
        noted = [notes.get(name, Annotation()) for name in table["run"]]
        frame = pd.DataFrame(
            {
                "pin": [note.pinned for note in noted],
                COLOR_COLUMN: [colors.get(name, "") for name in table["run"]],
                "run": table["run"],
                "state": [f"{STATES.get(s, ('?',))[0]} {s}" for s in table["state"]],
                "tags": [note.tag_text for note in noted],
                "note": [note.note for note in noted],
                "hide": [note.hidden for note in noted],
                "PSNR (dB)": table["PSNR (dB)"],
                "tokens": table["tokens"],
            },
            index=table.index,
        )
        rest = settings[[name for name in settings if name not in frame]]
        frame = pd.concat([frame, metrics[measured], rest], axis=1)
        order = np.argsort(~frame["pin"].to_numpy(bool), kind="stable")
        self.frame = frame.iloc[order].reset_index(drop=True)

    def _on_widget(self) -> None:
        """Keep the settings of the page in the address."""
        if self._follows_view:
            return
        options: dict[str, Any] = {}
        if self.filter.value:
            options["where"] = self.filter.value
        columns = list(self.columns.value or ())
        if columns != _selected_columns(None, list(self.columns.options)):
            options["columns"] = ",".join(columns)
        if self.group.value != NO_GROUP:
            options["group"] = self.group.value
        if self.show_hidden.value:
            options["hidden"] = True
        self.state.open_tab(TAB, tab_options=options)

    def _draw(self, selected: Sequence[str]) -> None:
        error = ""
        try:
            is_shown = filter_runs(self.frame, self.filter.value or "").to_numpy(bool)
        except UserError as invalid:
            error = f"✖ {marked(str(invalid))}"
            is_shown = np.ones(len(self.frame), bool)
        is_hidden = self.frame["hide"].to_numpy(bool)
        if not self.show_hidden.value:
            is_shown = is_shown & ~is_hidden
        names = [*FIXED, *(self.columns.value or ()), "tags", "note", "hide"]
        group = self.group.value
        if group != NO_GROUP and group not in names:
            names.append(group)
        table = self.frame.loc[is_shown, names].reset_index(drop=True)
        table = table.astype(object).where(table.notna(), None)
        self._rows = np.flatnonzero(table["run"].isin(selected)).tolist() if len(table) else []
        # A new widget: a table that is still being built cannot change its columns.
        self.table = self._make_table(table, group)
        self.table.selection = self._rows
        self.table.param.watch(lambda event: self._on_selection(event.new), "selection")
        self.table.on_edit(self._on_edit)
        self.place[:] = [self.table]
        count = f"{len(table)} of {len(self.frame)} runs, {len(selected)} selected for comparison"
        if is_hidden.any() and not self.show_hidden.value:
            count += f", {int(is_hidden.sum())} hidden"
        self.message.object = error or f"{count}. Double-click tags or a note to edit it."

    def _make_table(self, table: pd.DataFrame, group: str) -> pn.widgets.Tabulator:
        formatters: dict[str, Any] = {
            COLOR_COLUMN: HTMLTemplateFormatter(template=COLOR_TEMPLATE),
            "state": HTMLTemplateFormatter(template=STATE_TEMPLATE),
            "pin": {"type": "tickCross", "tickElement": "★", "crossElement": "☆"},
            "hide": {"type": "tickCross", "tickElement": "✓", "crossElement": "–"},
        }
        for name, digits in FRACTION_DIGITS.items():
            pattern = "0." + "0" * digits if digits else "0,0"
            formatters[name] = NumberFormatter(format=pattern, nan_format="–")
        editors: dict[str, Any] = dict.fromkeys(map(str, table))
        editors |= {"tags": {"type": "input"}, "note": {"type": "input"}}
        editors |= {"pin": {"type": "tickCross"}, "hide": {"type": "tickCross"}}
        numbers = set(self.frame.select_dtypes("number"))
        return pn.widgets.Tabulator(
            table,
            selectable="checkbox",
            show_index=False,
            layout="fit_data_table",
            pagination="local",
            page_size=ROWS_PER_PAGE,
            sizing_mode="stretch_width",
            frozen_columns=["pin", COLOR_COLUMN, "run"],
            formatters={name: value for name, value in formatters.items() if name in table},
            editors=editors,
            groupby=[] if group == NO_GROUP else [group],
            text_align={str(name): "right" for name in table if name in numbers},
            titles={**column_titles(table), COLOR_COLUMN: ""},
            sortable={COLOR_COLUMN: False},
            header_tooltips=header_tooltips(table),
            stylesheets=[STYLE],
        )

    def _on_edit(self, event: Any) -> None:
        """Store a pin, a tag or a note that a person has changed."""
        if event.column not in EDITED or self.table is None:
            return
        run = str(self.table.value["run"].iloc[event.row])
        try:
            self.annotations.change(run, EDITED[event.column], event.value)
        except UserError as error:
            self.message.object = f"✖ {marked(str(error))}"
            return
        if event.column in ("pin", "hide"):
            self.show(self.state.view)
        else:
            self.frame.loc[self.frame["run"] == run, event.column] = event.value

    def _on_selection(self, rows: list[int]) -> None:
        """Select the runs of the rows that a person has selected; other runs stay selected."""
        if rows == self._rows or self.table is None:
            return
        self._rows = rows
        names = list(self.table.value["run"])
        marked = [names[row] for row in rows]
        selected = self.state.view.runs
        remaining = [name for name in selected if name in marked or name not in names]
        self.state.select_runs(
            tuple(remaining + [name for name in marked if name not in remaining])
        )


def _selected_columns(text: Any, names: Sequence[str]) -> list[str]:
    """Return the columns of an option that exist; by default those that most people compare."""
    requested = DEFAULT_COLUMNS if text is None else tuple(str(text).split(","))
    return [name for name in requested if name in names]
