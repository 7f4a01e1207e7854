"""The JavaScript modules as widgets of a notebook."""

import json
from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from workbench.hosts.js import dark_figures, source

DARK_PAGE = 'body[data-jp-theme-light="false"]'
# The arrow of ipywidgets is dark in every theme.
LIGHT_ARROW = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='%23e0e0e0' d='M5 7l4 4 4-4z'/%3E%3C/svg%3E"
)
MENUS = (
    f"{DARK_PAGE} .widget-dropdown > select "
    f'{{ color-scheme: dark; background-image: url("{LIGHT_ARROW}") !important; }}'
)
STYLE = f"{dark_figures(DARK_PAGE)}\n{MENUS}"


class Module(anywidget.AnyWidget):
    """A module as a widget: Python sets `data`, and `view` follows the person.

    Parameters
    ----------
    name : str
        Name of the module, see `workbench.hosts.js.source`.
    data, view : Mapping
        What the module shows, and its state that a person can change.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode(STYLE).tag(sync=True)
    data = traitlets.Unicode("{}").tag(sync=True)
    view = traitlets.Unicode("{}").tag(sync=True)

    def __init__(self, name: str, data: Mapping[str, Any], view: Mapping[str, Any]) -> None:
        super().__init__(_esm=source(name), data=json.dumps(data), view=json.dumps(view))


class Theme(anywidget.AnyWidget):
    """An invisible widget with which the figures of a notebook follow JupyterLab's dark theme."""

    _esm = traitlets.Unicode("export default { render() {} };").tag(sync=True)
    _css = traitlets.Unicode(STYLE).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(layout={"display": "none"})
