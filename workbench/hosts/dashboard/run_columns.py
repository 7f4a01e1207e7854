"""The columns of both tables of runs: templates of the cells, titles and tooltips."""

import html
import json

import pandas as pd

from workbench.core.glossary import tooltip
from workbench.workspace.run_table import STATES, readable_color

# Selected rows are tinted, so that the colors of their cells stay visible.
STYLE = """
.tabulator .tabulator-row.tabulator-selected, .tabulator .tabulator-row.tabulator-selected .tabulator-frozen {
  background: color-mix(in srgb, #0072b2 18%, var(--mui-palette-background-paper, Canvas)) !important;
  color: inherit !important; }
.tabulator .tabulator-cell { text-overflow: clip !important; }
"""  # noqa: E501
# A template and not the table's own styles: those draw a table again that is still being built,
# which is an error in a browser.
STATE_COLORS = json.dumps({state: color for state, (_, color) in STATES.items()})
STATE_STYLE = readable_color(f"<%= {STATE_COLORS}[value.slice(2)] || 'currentColor' %>")
COLOR_COLUMN = "●"
COLOR_TEMPLATE = "<span style='color: <%- value %>'>●</span>"
STATE_TEMPLATE = f"<span style='{STATE_STYLE}'><%- value %></span>"
# The word is part of the text, but only its symbol is drawn.
SYMBOL_TEMPLATE = (
    f"<span style='{STATE_STYLE}' title='<%- value.slice(2) %>'><%- value[0] %>"
    "<span style='font-size: 0'><%- value.slice(1) %></span></span>"
)


def column_titles(table: pd.DataFrame) -> dict[str, str]:
    """Return the titles of columns whose names contain markup, escaped: titles are HTML."""
    names = [str(name) for name in table]
    return {name: html.escape(name) for name in names if html.escape(name) != name}


def header_tooltips(table: pd.DataFrame) -> dict[str, str]:
    """Return the tooltip of each column: of a metric or a fact, otherwise that of a setting."""
    return {str(name): tooltip(str(name)) or tooltip("setting") for name in table}
