"""JavaScript modules that run unchanged in Jupyter (anywidget), in Panel and in a static page.

A module is an AFM module, `export default { render({ model, el }) }`, with two attributes of JSON:
`data`, which Python sets, and `view`, which a person changes. Nothing is built, and nothing is
fetched. Without Python, a module also receives a `brush` (brush.js), through which all modules and
figures of a page share one selection.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.core.html_templates import render_text

FOLDER = Path(__file__).parent
# The file of helpers that a module uses.
HELPERS = {"lens": "shared", "latentmap": "shared", "codegrid": "shared", "figure": "pdf"}
PAGE = """<!doctype html><meta charset="utf-8">
<style>:root { color-scheme: light dark } body { margin: 0 }</style>
<div id="root"></div><script type="module">SCRIPT</script>"""
# JupyterLab removes frames from a notebook that is not trusted.
FRAME = (
    '<iframe srcdoc="{{ page }}" title="{{ title }}" '
    'style="border:0;width:100%;height:{{ height }}px">'
    "{{ title }}. It is shown in JupyterLab if the notebook is trusted.</iframe>"
)


@cache
def source(name: str) -> str:
    """Return the text of a module, after the helpers that it uses.

    Parameters
    ----------
    name : str
        A module: lens, latentmap, codegrid, figure, pictures or keyboard; or a part of a page:
        brush, page, pdf.
    """
    text = _read(f"{name}.js")
    return f"{_read(f'{HELPERS[name]}.js')}\n{text}" if name in HELPERS else text


@cache
def dark_figures(scope: str) -> str:
    """Return CSS that gives figures the colors of a dark page.

    Parameters
    ----------
    scope : str
        A selector or a media query that matches a dark page.
    """
    return f"{scope} {{\n{_read('dark_figures.css')}}}\n"


def static(
    name: str,
    data: Mapping[str, Any],
    view: Mapping[str, Any],
    *,
    height: int,
    title: str,
    of: Mapping[str, str] | None = None,
) -> str:
    """Return a module with its data as an `iframe` that needs neither a kernel nor a network.

    Parameters
    ----------
    name : str
        The module.
    data, view : Mapping
        The two attributes of the module.
    height : int
        Height in pixels until the page adapts it to the content.
    title : str
        Name of the frame for screen readers.
    of : Mapping, optional
        The scope of the ids of each kind, see `id_scopes`: the module shares its selection with
        all figures and modules of the page that have the same scope.

    Returns
    -------
    str
        HTML. A hidden frame draws nothing until it is shown.
    """
    payload = {"state": {"data": json.dumps(data), "view": json.dumps(view)}, "of": of}
    script = source("page").replace("SOURCE", _script_json(source(name)), 1)
    script = source("brush") + script.replace("GIVEN", _script_json(payload), 1)
    page = PAGE.replace("SCRIPT", script, 1)
    return render_text(FRAME, page=page, title=title, height=height)


def refusal(error: UserError) -> str:
    """Return the message of an error as HTML, in place of a module."""
    return render_text("<p><em>{{ error }}</em></p>", error=error)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _script_json(value: Any) -> str:
    """Return JSON that cannot end the script that contains it."""
    return json.dumps(value).replace("<", "\\u003c")
