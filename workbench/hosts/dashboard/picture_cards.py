"""Cards of pictures in the dashboard, each with buttons that act on its image."""

import json
from collections.abc import Callable, Collection

from workbench.hosts.js.panel import component


class PictureCards:
    """The HTML figure of a result of pictures, visible once it has been drawn.

    Parameters
    ----------
    on_action : callable
        Called with an action (select, similar or lens) and the index of an image.
    """

    def __init__(self, on_action: Callable[[str, int], None]) -> None:
        self.on_action = on_action
        self.body = component("pictures")(
            sizing_mode="stretch_width", margin=(0, 10), visible=False
        )
        self.body.param.watch(lambda event: self._on_view(event.new), "view")

    def draw(self, html: str) -> None:
        """Show the cards of a result; empty HTML hides them."""
        self.body.param.update(data=json.dumps({"html": html}), visible=bool(html))

    def mark(self, indices: Collection[int]) -> None:
        """Mark the cards of these images, and no others."""
        self.body.param.update(view=json.dumps({"kind": "image", "ids": list(indices)}))

    def _on_view(self, text: str) -> None:
        view = json.loads(text)
        if "action" in view:
            self.on_action(str(view["action"]), int(view["id"]))
