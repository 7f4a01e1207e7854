"""The table of runs, with a filter and the settings in which the runs differ."""

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
    STYLE,
    SYMBOL_TEMPLATE,
    column_titles,
    header_tooltips,
)
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.run_table import STATES, filter_runs, with_settings
from workbench.workspace.workspace import Workspace

MAX_NUMBERED_ROWS = 9  # rows that a key selects
MAX_HEIGHT_PX = 420
NARROW_COLUMNS = {"#": 32, COLOR_COLUMN: 28, "state": 30}  # their widths in pixels
SHORT_TITLES = {COLOR_COLUMN: "", "state": "", "PSNR (dB)": "PSNR"}  # the tooltip has the unit


class RunList:
    """The table, whose selected rows are the selected runs, and its filter."""

    def __init__(self, state: DashboardState, workspace: Workspace) -> None:
        self.state = state
        self.workspace = workspace
        self.selected = state.view.runs
        self._rows: list[int] = []  # the rows of the selected runs, as Python has set them
        self._read()
        self.filter = pmui.TextInput(
            label="Filter",
            placeholder="filter: lr<0.001 & kind=VQVAE",  # keyboard.js finds the field by it
            size="small",
            sizing_mode="stretch_width",
            description=tooltip("filter"),
        )
        self.only_differing = pmui.Checkbox(
            label="Only settings that differ",
            value=True,
            size="small",
            description=tooltip("only differing"),
        )
        self.message = pn.pane.HTML("", styles={"opacity": "0.8"})
        self.table = pn.widgets.Tabulator(
            self.all_runs.iloc[:0],
            selectable="checkbox",
            show_index=False,
            disabled=True,
            layout="fit_data_table",
            max_height=MAX_HEIGHT_PX,
            sizing_mode="stretch_width",
            frozen_columns=["#", COLOR_COLUMN, "state", "run"],
            widths=NARROW_COLUMNS,
            formatters={
                COLOR_COLUMN: HTMLTemplateFormatter(template=COLOR_TEMPLATE),
                "PSNR (dB)": NumberFormatter(format="0.0", nan_format="–"),
                "state": HTMLTemplateFormatter(template=SYMBOL_TEMPLATE),
            },
            stylesheets=[STYLE],
            titles={**column_titles(self.all_runs), **SHORT_TITLES},
            sortable=dict.fromkeys(NARROW_COLUMNS, False),  # no room for the arrows
            header_tooltips=header_tooltips(self.all_runs) | {"#": tooltip("#")},
        )
        self.body = pmui.Column(
            self.filter,
            self.only_differing,
            self.message,
            self.table,
            sizing_mode="stretch_width",
            margin=0,
        )
        self._draw()
        self.filter.param.watch(lambda _: self._draw(), "value_input")
        self.only_differing.param.watch(lambda _: self._draw(), "value")
        self.table.param.watch(lambda event: self._on_selection(event.new), "selection")
        state.param.watch(lambda event: self._select(event.new.runs), "view")
        state.param.watch(lambda _: self.renew(), "runs_version")

    def renew(self) -> None:
        """Read the runs again. If only numbers have changed, nothing else on the page moves."""
        self._read()
        self._draw(only_cells=True)

    def toggle(self, number: int) -> None:
        """Select the run of a row, counted from 1, or deselect it."""
        if number > len(self.table.value):
            return
        name = self.table.value["run"].iloc[number - 1]
        if name in self.selected:
            self.state.select_runs(tuple(other for other in self.selected if other != name))
        else:
            self.state.select_runs((*self.selected, name))

    def _select(self, names: Sequence[str]) -> None:
        changed = set(names) != set(self.selected)
        self.selected = tuple(names)
        if changed:
            self._draw()

    def _read(self) -> None:
        table = self.workspace.table()
        runs = self.workspace.runs.values()
        self.all_runs = with_settings(table, runs, differing=False)
        self.differing_columns = list(with_settings(table, runs))

    def _draw(self, *, only_cells: bool = False) -> None:
        table = self._formatted(self.all_runs[self._matches()])
        current = self.table.value
        same_rows = list(current) == list(table) and list(current["run"]) == list(table["run"])
        if only_cells and same_rows:
            changed = {
                name: cells
                for name in table
                if (cells := _changed_cells(current[name], table[name]))
            }
            if changed:  # a patch of nothing would draw the table again
                self.table.patch(changed)
            return
        rows = []
        if len(table):
            rows = np.flatnonzero(table["run"].isin(self.selected)).tolist()
        # The table would otherwise look for the selected rows among the new ones.
        self._mark([])
        self.table.value = table
        self._mark(rows)
        if not self.filter_error:
            self._show_count(len(table))

    def _matches(self) -> pd.Series:
        """Return which runs meet the filter: all of them if it is not valid."""
        self.filter_error = ""
        try:
            return filter_runs(self.all_runs, self.filter.value_input or "")
        except UserError as error:
            self.filter_error = f"✖ {marked(str(error))}"
            self.message.object = self.filter_error
            return filter_runs(self.all_runs, "")

    def _formatted(self, table: pd.DataFrame) -> pd.DataFrame:
        if self.only_differing.value:
            table = table[self.differing_columns]
        table = table.reset_index(drop=True)
        table["state"] = [f"{STATES.get(state, ('?',))[0]} {state}" for state in table["state"]]
        table["PSNR (dB)"] = table["PSNR (dB)"].round(1)
        table = table.astype(object).where(table.notna(), None)
        numbers = [str(i + 1) if i < MAX_NUMBERED_ROWS else "" for i in range(len(table))]
        colors = self.workspace.run_colors
        table.insert(0, "state", table.pop("state"))
        table.insert(0, COLOR_COLUMN, [colors.get(name, "") for name in table["run"]])
        table.insert(0, "#", numbers)
        return table

    def _mark(self, rows: list[int]) -> None:
        self._rows = rows
        self.table.selection = rows

    def _show_count(self, number: int) -> None:
        count = f"{number} of {len(self.all_runs)} runs, {len(self.selected)} selected"
        self.message.object = count

    def _on_selection(self, rows: list[int]) -> None:
        """Select the runs of the rows that a person has selected; hidden runs stay selected."""
        if rows == self._rows:
            return
        self._rows = rows
        names = list(self.table.value["run"])
        marked = [names[row] for row in rows]
        kept = [name for name in self.selected if name in marked or name not in names]
        self.selected = tuple(kept + [name for name in marked if name not in kept])
        self._show_count(len(names))
        self.state.select_runs(self.selected)


def _changed_cells(before: pd.Series, now: pd.Series) -> list[tuple[int, Any]]:
    """Return the row and the new value of each cell that has changed."""
    pairs = enumerate(zip(before, now, strict=True))
    return [
        (row, new)
        for row, (old, new) in pairs
        if old != new and not (pd.isna(old) and pd.isna(new))
    ]
