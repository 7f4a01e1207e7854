"""Show the widgets of a cell, and after them a page for a notebook without a kernel.

They are separate outputs. JupyterLab shows one form of an output: of a widget always the widget,
and an error if its kernel is gone. A style sheet in the page therefore hides one of the two.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.display import display

from workbench.analysis.base import mime_bundle
from workbench.core.errors import UserError
from workbench.core.html_templates import render_text
from workbench.hosts.js.jupyter import STYLE as DARK_STYLE
from workbench.hosts.notebook.background_task import BackgroundTask

OUTPUT = ".jp-OutputArea-child"
ALIVE = ":has(.jp-OutputArea-output .jupyter-widgets)"
# A widget's panel without a widget inside: an error's text, or nothing yet.
DEAD = f":has(> .lm-Panel):not({ALIVE})"
STYLE = f"""
{OUTPUT}{ALIVE} + {OUTPUT}:has(.workbench-page),
{OUTPUT}{ALIVE} + {OUTPUT}:has(.workbench-figured) + {OUTPUT},
{OUTPUT}{DEAD}:has(+ {OUTPUT} .workbench-page) {{ display: none; }}
"""


def display_with_fallback(
    box: widgets.Widget,
    text: str,
    page: Callable[[], str],
    *,
    figure: Callable[[], go.Figure | None] | None = None,
    task: BackgroundTask | None = None,
) -> None:
    """Show widgets at once, and a page with an optional figure below once it has been computed.

    Parameters
    ----------
    box : widgets.Widget
        The widgets.
    text : str
        The plain text for a terminal.
    page : callable
        Returns the page as HTML.
    figure : callable, optional
        Returns the figure below the page, or None without one.
    task : BackgroundTask, optional
        The computation that the page needs. If it is stopped, the page shows its status instead.
    """
    display(_widget_bundle(box), raw=True)
    if task is None or task.wait():
        content = page()
        figure_bundle = _figure_bundle(figure)
    else:
        content = render_text("<p>{{ text }}</p>", text=text) + task.status.value
        figure_bundle = None
    classes = "workbench-page"
    style = STYLE
    if figure_bundle is not None:
        classes += " workbench-figured"
        style += DARK_STYLE
    document = f'<div class="{classes}"><style>{style}</style>{content}</div>'
    display({"text/html": document, "text/plain": text}, raw=True)
    if figure_bundle is not None:
        display(figure_bundle, raw=True)


def _figure_bundle(figure: Callable[[], go.Figure | None] | None) -> dict[str, Any] | None:
    """Return a figure as an output; None without one, or if the page explains why there is none."""
    if figure is None:
        return None
    with suppress(UserError):
        content = figure()
        return None if content is None else mime_bundle(content)
    return None


def _widget_bundle(box: widgets.Widget) -> dict[str, Any]:
    """Return only the widget, so that a program without widgets shows nothing."""
    bundle = box._repr_mimebundle_()
    return {kind: content for kind, content in bundle.items() if kind != "text/plain"}
