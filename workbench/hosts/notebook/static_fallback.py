"""A cell's widgets, and after them the page that is read where they are not alive: once reopened, or elsewhere.

They are outputs of their own. JupyterLab shows one form of an output, of a widget always the widget, and of one whose
kernel is gone an error; so the page says by its style which of the two is seen.
"""

import html
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.display import display

from workbench.analysis.base import mime_bundle
from workbench.core.errors import UserError
from workbench.hosts.js.jupyter import STYLE as DARK
from workbench.hosts.notebook.background_task import BackgroundTask

OUTPUT = ".jp-OutputArea-child"
ALIVE = ":has(.jp-OutputArea-output .jupyter-widgets)"
DEAD = f":has(> .lm-Panel):not({ALIVE})"  # in place of what is inside a widget's panel, an error's words or none yet
STYLE = f"""
{OUTPUT}{ALIVE} + {OUTPUT}:has(.workbench-page),
{OUTPUT}{ALIVE} + {OUTPUT}:has(.workbench-figured) + {OUTPUT},
{OUTPUT}{DEAD}:has(+ {OUTPUT} .workbench-page) {{ display: none; }}
"""


def display_with_fallback(
    box: widgets.Widget,
    plain: str,
    page: Callable[[], str],
    *,
    figure: Callable[[], go.Figure] | None = None,
    waiting: BackgroundTask | None = None,
) -> None:
    """Show widgets at once; then, when what they wait for is computed, the page as HTML and a figure below it.

    What was stopped is said instead; in a terminal there is only a line, `plain`.
    """
    display(_widget(box), raw=True)
    done = waiting is None or waiting.wait()
    told, drawn = page() if done else f"<p>{html.escape(plain)}</p>{waiting.said.value}", None
    with suppress(UserError):  # which the page says
        drawn = mime_bundle(figure()) if done and figure is not None else None
    kind, style = (
        ("workbench-page", STYLE)
        if drawn is None
        else ("workbench-page workbench-figured", STYLE + DARK)
    )
    display(
        {
            "text/html": f'<div class="{kind}"><style>{style}</style>{told}</div>',
            "text/plain": plain,
        },
        raw=True,
    )
    if drawn is not None:
        display(drawn, raw=True)


def _widget(box: widgets.Widget) -> dict[str, Any]:
    """Nothing but the widget: whoever cannot show it shows nothing."""
    return {kind: told for kind, told in box._repr_mimebundle_().items() if kind != "text/plain"}
