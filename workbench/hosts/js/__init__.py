"""Small JavaScript modules that run unchanged in Jupyter (anywidget), in Panel and in a page without a server.

Each is one file, an AFM module (`export default { render({ model, el }) }`) with two texts of JSON: `data`, which
Python says, and `view`, which a person changes. Nothing is built, and nothing is fetched. Where no Python listens, a
module that selects is given a `brush` besides (brush.js), by which all of a page share one selection.
"""

import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError

HERE = Path(__file__).parent
SHIM = """const { state, of } = GIVEN, heard = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; (heard["change:" + name] || []).forEach((act) => act()); },
  save_changes() {}, send() {},
  on: (event, act) => { (heard[event] ||= []).push(act); },
  off: (event, act) => { heard[event] = (heard[event] || []).filter((other) => other !== act); },
};
if (!innerWidth) await new Promise((shown) => addEventListener("resize", shown, { once: true }));
const light = frameElement?.ownerDocument.body.dataset.jpThemeLight;  // of JupyterLab, which need not be the system's
const themed = light ? [frameElement, document.documentElement] : [];
themed.forEach((one) => { one.style.colorScheme = light === "true" ? "light" : "dark"; });
const module = await import(URL.createObjectURL(new Blob([SOURCE], { type: "text/javascript" })));
const root = document.getElementById("root");
const page = frameElement?.ownerDocument ?? document;
module.default.render({ model, el: root, brush: of && brush(page, of) });
const grow = () => { if (frameElement) frameElement.style.height = root.scrollHeight + 12 + "px"; };
new ResizeObserver(grow).observe(root);
"""
PAGE = """<!doctype html><meta charset="utf-8"><style>:root { color-scheme: light dark } body { margin: 0 }</style>
<div id="root"></div><script type="module">SCRIPT</script>"""
UNTRUSTED = "It is shown in JupyterLab, once the notebook is trusted."  # where frames are taken out of a page


@cache
def source(name: str) -> str:
    """The text of a module: lens, latentmap, codegrid; or of brush, which is none by itself."""
    return (HERE / f"{name}.js").read_text(encoding="utf-8")


@cache
def dark_figures(within: str) -> str:
    """A style that gives figures a dark page's colours within a selector or a media query that tells such a page."""
    return f"{within} {{\n{(HERE / 'dark_figures.css').read_text(encoding='utf-8')}}}\n"


def static(
    name: str,
    data: Mapping[str, Any],
    view: Mapping[str, Any],
    *,
    height: int,
    title: str,
    of: Mapping[str, str] | None = None,
) -> str:
    """A module with its data as an `iframe` that needs neither kernel nor network.

    It is as high as its content; where a page may not know that, `height` pixels. Hidden, it draws nothing yet. `of`
    says what its ids of images and codes count: it shares its selection with whatever on the page counts the same.
    """
    given = {"state": {"data": json.dumps(data), "view": json.dumps(view)}, "of": of}
    script = SHIM.replace("SOURCE", _quoted(source(name)), 1).replace("GIVEN", _quoted(given), 1)
    script = source("brush") + script
    page = html.escape(PAGE.replace("SCRIPT", script, 1))
    label = html.escape(title)
    style = f"border:0;width:100%;height:{height}px"
    return f'<iframe srcdoc="{page}" title="{label}" style="{style}">{label}. {UNTRUSTED}</iframe>'


def refusal(error: UserError) -> str:
    """What stands in a module's place where it cannot be shown: why not."""
    return f"<p><em>{html.escape(str(error))}</em></p>"


def _quoted(value: Any) -> str:
    """JSON inside a script: nothing in it can end the script."""
    return json.dumps(value).replace("<", "\\u003c")
