"""In the dashboard: what each key does, and the page's address, which a link and the browser's history hold."""

import html
import json
from collections.abc import Callable
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.hosts.js.panel import component

KEYS = {
    "← →": "the step before, the step after, of those the leading run has evidence of",
    "Shift+← →": "ten steps before, ten after",
    "[ ]": "less, more: the first slider of the tab (in the lens: tokens)",
    "1 – 9": "select that run of the list, or leave it out",
    "/": "filter the list of runs",
    "z, Shift+z": "undo, redo: the view before, and the one after it again",
    "s": "save this view under a name",
    "c": "copy the link to this view",
    "r": "put this view into the report",
    "Esc": "leave a field",
    "click": "on a run's point: it leads; on an image's or a code's: it opens in the lens, or among the codes",
    "box, lasso": "in a figure of images or codes: select those images; of runs: leave out the others",
    "?": "these keys",
}


class Keyboard:
    """Hears keys while nobody types, and the browser's way back; writes the address."""

    def __init__(self, pressed: Callable[[str], None], turned: Callable[[str], None]) -> None:
        self.pressed, self.turned, self._written = pressed, turned, 0
        self.module = component("keyboard")(
            data="{}", view="{}", width=190, height=40, styles={"color": "white"}
        )
        self.module.param.watch(lambda event: self._heard(json.loads(event.new)), "view")
        rows = (
            f"<tr><th><kbd>{html.escape(key)}</kbd></th><td>{html.escape(does)}</td></tr>"
            for key, does in KEYS.items()
        )
        style = "<style>th { text-align: left; white-space: nowrap; padding: 4px 24px 4px 0 } td { padding: 4px 0 }</style>"
        table = pn.pane.HTML(f"{style}<table>{''.join(rows)}</table>", sizing_mode="stretch_width")
        self.help = pmui.Dialog(
            table,
            title="Keys",
            title_variant="h6",
            open=False,
            close_on_click=True,
            show_close_button=True,
        )

    def write(self, query: str) -> None:
        """Put a query into the address bar; the first replaces what was asked for, the others are a way back."""
        self._written += (
            1  # or what was written last would not be heard again after somebody went back
        )
        self.module.data = json.dumps({"address": f"?{query}", "count": self._written})

    def _heard(self, told: dict[str, Any]) -> None:
        if "search" in told:
            self.turned(str(told["search"]))
        elif told.get("key") == "?":
            self.help.open = not self.help.open
        elif "key" in told:
            self.pressed(str(told["key"]))
