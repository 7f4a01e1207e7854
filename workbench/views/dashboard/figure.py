"""In the dashboard: a figure."""

import json
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from workbench.analysis.style import TOOLBAR
from workbench.views.esm.panel import component

HEIGHT = 480  # pixels, of a figure that does not say


class Figure:
    """A plotly figure, shown from when it is first drawn; `clicked` hears of a point what it is and which.

    Not the library's own pane: the page's theme gives those its own looks, and one that changes while the page is
    still being built may stay as it was.
    """

    def __init__(self, *, least: int = 0, clicked: Callable[[str, Any], None] | None = None) -> None:
        self.object: go.Figure | None = None
        self.body = component("figure")(sizing_mode="stretch_width", min_width=least, visible=False)
        if clicked is not None:
            self.body.param.watch(lambda event: _told(json.loads(event.new), clicked), "view")

    def draw(self, figure: go.Figure) -> None:
        """Show a figure in the place of what was shown."""
        self.object = figure.update_layout(height=figure.layout.height or HEIGHT)
        data = f'{{"config": {json.dumps(TOOLBAR)}, "figure": {figure.to_json()}}}'
        self.body.param.update(data=data, height=int(figure.layout.height), visible=True)


def _told(view: dict[str, Any], clicked: Callable[[str, Any], None]) -> None:
    if "kind" in view:
        clicked(str(view["kind"]), view["id"])
