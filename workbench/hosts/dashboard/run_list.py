"""In the dashboard: the table of runs, with a filter, and with the settings in which they differ."""

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import panel as pn
import panel_material_ui as pmui
from bokeh.models.widgets.tables import HTMLTemplateFormatter, NumberFormatter

from workbench.core.errors import UserError
from workbench.workspace.run_table import STATES, highlighted, matching, with_settings
from workbench.workspace.workspace import Workspace

NUMBERED = 9  # rows that a key selects
HEIGHT = 420
# Selected rows in a tint, so that the colours of what stands in them can be told; no dots beside the boxes.
STYLE = """
.tabulator .tabulator-row.tabulator-selected, .tabulator .tabulator-row.tabulator-selected .tabulator-frozen {
  background: color-mix(in srgb, #0072b2 18%, var(--mui-palette-background-paper, Canvas)) !important;
  color: inherit !important; }
.tabulator .tabulator-cell { text-overflow: clip !important; }
"""
# A template, not the table's styles: those draw a table anew that is still being built, which is an error in a browser.
COLOURS = json.dumps({state: colour for state, (_, colour) in STATES.items()})
STATE = f"""<span style='{highlighted(f"<%= {COLOURS}[value.slice(2)] || 'currentColor' %>")}'><%- value %></span>"""


class RunList:
    """The widgets; `changed` is called with the names of the selected runs, in the order of the table."""

    def __init__(
        self, bench: Workspace, selected: Sequence[str], changed: Callable[[tuple[str, ...]], None]
    ) -> None:
        self.bench, self.selected, self.changed = bench, tuple(selected), changed
        self._read()
        self.filter = pmui.TextInput(
            placeholder="filter: lr<0.001 & kind=VQVAE",
            size="small",
            sizing_mode="stretch_width",
            label="",
        )
        self.differ = pmui.Checkbox(label="only settings that differ", value=True, size="small")
        self.said = pn.pane.HTML("", styles={"opacity": "0.8"})
        self.table = pn.widgets.Tabulator(
            self.all.iloc[:0], selectable="checkbox", show_index=False, disabled=True, layout="fit_data_table",
            max_height=HEIGHT, sizing_mode="stretch_width", frozen_columns=["#", "run"],
            formatters={"PSNR (dB)": NumberFormatter(format="0.0"), "state": HTMLTemplateFormatter(template=STATE)},
            stylesheets=[STYLE], titles=titles(self.all),
        )  # fmt: skip
        self.body = pmui.Column(
            self.filter, self.differ, self.said, self.table, sizing_mode="stretch_width", margin=0
        )
        self._quiet = False
        self._draw()
        self.filter.param.watch(lambda _: self._draw(), "value_input")
        self.differ.param.watch(lambda _: self._draw(), "value")
        self.table.param.watch(lambda event: self._picked(event.new), "selection")

    def renew(self) -> None:
        """Show the runs as they stand now; where only numbers changed, nothing else on the page moves."""
        self._read()
        self._draw(only_cells=True)

    def put(self, selected: Sequence[str]) -> None:
        """Mark these runs as selected."""
        if set(selected) != set(self.selected):
            self.selected = tuple(selected)
            self._draw()
        self.selected = tuple(selected)

    def toggle(self, number: int) -> None:
        """Select the run of a row, counted from 1, or leave it out."""
        if number > len(self.table.value):
            return
        name = self.table.value["run"].iloc[number - 1]
        kept = [one for one in self.selected if one != name]
        self.put(kept if name in self.selected else [*kept, name])
        self.changed(self.selected)

    def _read(self) -> None:
        table = self.bench.table()
        self.all = with_settings(table, self.bench.runs.values(), differing=False)
        self.differing = list(with_settings(table, self.bench.runs.values()))

    def _draw(self, *, only_cells: bool = False) -> None:
        try:
            kept = matching(self.all, self.filter.value_input or "")
        except UserError as error:
            self.said.object = f"✖ {html.escape(str(error))}"
            return
        shown = self.all[kept] if not self.differ.value else self.all.loc[kept, self.differing]
        shown = shown.reset_index(drop=True)
        shown["state"] = [f"{STATES.get(state, ('?',))[0]} {state}" for state in shown["state"]]
        shown["PSNR (dB)"] = shown["PSNR (dB)"].round(1)
        shown = shown.astype(object).where(shown.notna(), None)
        shown.insert(0, "#", [str(i + 1) if i < NUMBERED else "" for i in range(len(shown))])
        before = self.table.value
        if only_cells and list(before) == list(shown) and list(before["run"]) == list(shown["run"]):
            changed = {name: _differing(before[name], shown[name]) for name in shown}
            if any(changed.values()):  # a patch of nothing would draw the table anew
                self.table.patch({name: cells for name, cells in changed.items() if cells})
            return
        self._quiet = True
        try:
            rows = np.flatnonzero(shown["run"].isin(self.selected)).tolist() if len(shown) else []
            self.table.selection = []  # else the table looks for the old rows among the new
            self.table.value = shown
            self.table.selection = rows
        finally:
            self._quiet = False
        self.said.object = f"{len(shown)} of {len(self.all)} runs, {len(self.selected)} selected"

    def _picked(self, rows: list[int]) -> None:
        """What the filter hides stays selected."""
        if self._quiet:
            return
        names = list(self.table.value["run"])
        hidden = [name for name in self.selected if name not in names]
        picked = [names[row] for row in rows]
        kept = [name for name in self.selected if name in picked or name in hidden]
        self.selected = tuple(kept + [name for name in picked if name not in kept])
        self.said.object = f"{len(names)} of {len(self.all)} runs, {len(self.selected)} selected"
        self.changed(self.selected)


def _differing(before: pd.Series, now: pd.Series) -> list[tuple[int, Any]]:
    """Rows whose cell is another, and what it is now."""
    pairs = enumerate(zip(before, now, strict=True))
    return [
        (row, new)
        for row, (old, new) in pairs
        if old != new and not (pd.isna(old) and pd.isna(new))
    ]


def titles(table: pd.DataFrame) -> dict[str, str]:
    """What stands above columns whose names are not plain text: the table's titles are HTML."""
    return {name: html.escape(str(name)) for name in table if html.escape(str(name)) != name}
