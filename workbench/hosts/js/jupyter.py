"""The modules as widgets of a notebook."""

import json
from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from workbench.hosts.js import dark_figures, source

STYLE = dark_figures('body[data-jp-theme-light="false"]')


class Module(anywidget.AnyWidget):
    """A module by name. Python sets `data`; `view` follows the person, and may be set as well."""

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode(STYLE).tag(sync=True)
    data = traitlets.Unicode("{}").tag(sync=True)
    view = traitlets.Unicode("{}").tag(sync=True)

    def __init__(self, name: str, data: Mapping[str, Any], view: Mapping[str, Any]) -> None:
        super().__init__(_esm=source(name), data=json.dumps(data), view=json.dumps(view))


class Theme(anywidget.AnyWidget):
    """Nothing to see: with it, figures of the whole notebook follow JupyterLab's dark theme."""

    _esm = traitlets.Unicode("export default { render() {} };").tag(sync=True)
    _css = traitlets.Unicode(STYLE).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(layout={"display": "none"})
