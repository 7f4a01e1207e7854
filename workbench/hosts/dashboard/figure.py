"""In the dashboard: a figure."""

import json
from collections.abc import Callable, Collection
from typing import Any

import plotly.graph_objects as go

from workbench.analysis.plotting.style import TOOLBAR_CONFIG
from workbench.hosts.js.panel import component

HEIGHT = 480  # pixels, of a figure that does not say
LASSO = ["select2d", "lasso2d"]
CLEAR = "rgba(0, 0, 0, 0)"  # the page's own background shows


class Figure:
    """A plotly figure, shown from when it is first drawn.

    `clicked` hears of a point what it is (a run, an image, a code) and which; `lassoed` the same of all that a box or a
    lasso holds. Where no trace has such points there is neither of the two.

    Not the library's own pane: the page's theme gives those its own looks, and one that changes while the page is
    still being built may stay as it was.
    """

    def __init__(
        self,
        *,
        least: int = 0,
        clicked: Callable[[str, Any], None] | None = None,
        lassoed: Callable[[str, list[Any]], None] | None = None,
    ) -> None:
        self.object: go.Figure | None = None
        self.clicked, self.lassoed, self._marking = clicked, lassoed, False
        self.body = component("figure")(sizing_mode="stretch_width", min_width=least, visible=False)
        self.body.param.watch(lambda event: self._heard(json.loads(event.new)), "view")

    @property
    def kinds(self) -> set[str]:
        """What its points are: of run, image and code."""
        return (
            set()
            if self.object is None
            else {trace.meta for trace in self.object.data if trace.meta}
        )

    def named(self, kind: str) -> set[Any]:
        """All that its points of a kind name."""
        return {one for trace in self.object.data if trace.meta == kind for one in trace.customdata}

    def draw(self, figure: go.Figure) -> None:
        """Show a figure in the place of what was shown."""
        shown = {
            "height": figure.layout.height or HEIGHT,
            "paper_bgcolor": CLEAR,
            "plot_bgcolor": CLEAR,
        }
        self.object = figure.update_layout(shown)
        lasso = "modeBarButtonsToAdd" if self.lassoed and self.kinds else "modeBarButtonsToRemove"
        config = json.dumps({**TOOLBAR_CONFIG, lasso: [*TOOLBAR_CONFIG.get(lasso, ()), *LASSO]})
        data = f'{{"config": {config}, "figure": {figure.to_json()}}}'
        self.body.param.update(data=data, height=int(figure.layout.height), visible=True)

    def mark(self, kind: str, ids: Collection[Any]) -> None:
        """Mark the points that name these; none: all are as they were."""
        self._marking = True
        try:
            self.body.view = json.dumps({"kind": kind, "ids": list(ids)})
        finally:
            self._marking = False

    def _heard(self, view: dict[str, Any]) -> None:
        if self._marking or "kind" not in view:
            return
        if "ids" not in view and self.clicked is not None:
            self.clicked(str(view["kind"]), view["id"])
        elif "ids" in view and self.lassoed is not None:
            self.lassoed(str(view["kind"]), view["ids"])
