"""The page itself, without Panel's bar that shows that the server is busy."""

from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.hosts.dashboard.page_template import TEMPLATE

TITLE = "workbench"


def make_page(**settings: Any) -> pmui.Page:
    """Return a page in the project's template that does not follow whether the server is busy.

    Panel reports to every open page when a timer of any session begins and ends. For each report it
    walks through all models of the page, which would be nearly half of the server's work. The
    dashboard shows what is computed on a card.

    Parameters
    ----------
    **settings
        Parameters of `panel_material_ui.Page`.

    Returns
    -------
    Page
    """
    watchers_before = _busy_watchers()
    page = pmui.Page(title=TITLE, template=TEMPLATE, busy_indicator=None, **settings)
    for watcher in _busy_watchers():
        if watcher not in watchers_before:
            pn.state.param.unwatch(watcher)
    return page


def _busy_watchers() -> list[Any]:
    watchers: dict[str, list[Any]] = pn.state.param.watchers.get("busy", {})
    return list(watchers.get("value", []))
