"""The page's keys, its address bar and the titles of its buttons, in one JavaScript module."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.core.glossary import BUTTONS
from workbench.core.html_templates import render
from workbench.hosts.js.panel import component

KEYS = {
    "← →": "previous or next step with evidence of the primary run",
    "Shift+← →": "ten steps back or forward",
    "[ ]": "decrease or increase the first slider of the tab; in the lens, its position",
    "1 – 9": "select or deselect the run with that number in the list",
    "/": "filter the list of runs",
    "z, Shift+z": "undo or redo the last change of the view",
    "s": "save this view under a name",
    "c": "copy the link to this view",
    "r": "add this view to the report",
    "Esc": "leave a field",
    "click": "click a point to make its run primary, or to open its image or code",
    "box, lasso": "select the images or codes of a figure, or keep only the runs inside",
    "own keys": "of the lens, the map and the grid of codes, after a click on them: written below",
    "?": "show or hide these keys",
}
HELP_TEMPLATE = Path(__file__).parent / "templates" / "keys.html.j2"


class Keyboard:
    """Forwards keys and the browser's history, and writes the address.

    Parameters
    ----------
    on_key : callable
        Called with a key that was pressed outside of a field.
    on_address : callable
        Called with the query of the address when a person goes back or forward.
    on_narrow : callable
        Called once if the window is narrower than the page needs with an open sidebar.
    """

    def __init__(
        self,
        on_key: Callable[[str], None],
        on_address: Callable[[str], None],
        on_narrow: Callable[[], None],
    ) -> None:
        self.on_key = on_key
        self.on_address = on_address
        self.on_narrow = on_narrow
        self._addresses_written = 0
        self.module = component("keyboard")(
            data=_message(), view="{}", height=40, styles={"color": "white", "flex": "none"}
        )
        self.module.param.watch(lambda event: self._on_message(json.loads(event.new)), "view")
        self.help = pmui.Dialog(
            pn.pane.HTML(render(HELP_TEMPLATE, keys=KEYS), sizing_mode="stretch_width"),
            title="Keys",
            title_variant="h6",
            open=False,
            close_on_click=True,
            show_close_button=True,
        )

    def write_address(self, query: str) -> None:
        """Put a query into the address bar.

        The first one replaces the address that the browser has requested; the others are entries
        of its history.
        """
        # The count makes an address that was written before a new message.
        self._addresses_written += 1
        message = _message(address=f"?{query}", count=self._addresses_written)
        self.module.param.update(data=message)

    def _on_message(self, message: dict[str, Any]) -> None:
        if "narrow" in message:
            self.on_narrow()
        elif "search" in message:
            self.on_address(str(message["search"]))
        elif message.get("key") == "?":
            self.help.open = not self.help.open
        elif "key" in message:
            self.on_key(str(message["key"]))


def _message(**fields: Any) -> str:
    """Return a message to the module, which may draw itself only after a later one was sent."""
    return json.dumps({"titles": BUTTONS, **fields})
