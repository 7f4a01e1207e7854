"""A plotly figure whose points can be clicked and selected."""

import json
from collections.abc import Callable, Collection
from typing import Any

import plotly.graph_objects as go

from workbench.analysis.plotting.style import TOOLBAR_COLORS, TOOLBAR_CONFIG, TRANSPARENT
from workbench.hosts.js.panel import component

CLICK_ONLY_KINDS = {"perspective"}  # of cells that open an analysis
DEFAULT_HEIGHT_PX = 480  # of a figure without a height
FONT_FAMILY = "Roboto, Helvetica, Arial, sans-serif"  # of the page
SELECT_BUTTONS = ["select2d", "lasso2d"]


class Figure:
    """A plotly figure, visible once it has been drawn.

    It does not use Panel's own plotly pane: the theme of the page restyles that pane, and a pane
    that changes while the page is still being built may stay as it was.

    Parameters
    ----------
    min_width : int, optional
        Width in pixels below which the figure scrolls.
    on_click : callable, optional
        Called with the kind (run, image, code or perspective) and the id of a clicked point.
    on_select : callable, optional
        Called with the kind and the ids of the points in a box or a lasso. A figure without such
        points has neither tool.
    """

    def __init__(
        self,
        *,
        min_width: int = 0,
        on_click: Callable[[str, Any], None] | None = None,
        on_select: Callable[[str, list[Any]], None] | None = None,
    ) -> None:
        self.object: go.Figure | None = None
        self.on_click = on_click
        self.on_select = on_select
        self._marked = ""  # the view that Python has set last
        self.body = component("figure")(
            sizing_mode="stretch_width", min_width=min_width, visible=False
        )
        self.body.param.watch(lambda event: self._on_view(event.new), "view")

    @property
    def kinds(self) -> set[str]:
        """The kinds of its points: run, image, code, perspective."""
        if self.object is None:
            return set()
        return {trace.meta for trace in self.object.data if trace.meta}

    def ids(self, kind: str) -> set[Any]:
        """Return the ids of all points of a kind."""
        if self.object is None:
            return set()
        return {id_ for trace in self.object.data if trace.meta == kind for id_ in trace.customdata}

    def draw(self, figure: go.Figure) -> None:
        """Show a figure instead of the current one."""
        height = int(figure.layout.height or DEFAULT_HEIGHT_PX)
        self.object = figure.update_layout(
            height=height,
            paper_bgcolor=TRANSPARENT,
            plot_bgcolor=TRANSPARENT,
            modebar=TOOLBAR_COLORS,
            font_family=FONT_FAMILY,
        )
        can_select = self.on_select is not None and self.kinds - CLICK_ONLY_KINDS
        option = "modeBarButtonsToAdd" if can_select else "modeBarButtonsToRemove"
        buttons = [*TOOLBAR_CONFIG.get(option, ()), *SELECT_BUTTONS]
        config = json.dumps({**TOOLBAR_CONFIG, option: buttons})
        data = f'{{"config": {config}, "figure": {figure.to_json()}}}'
        self.body.param.update(data=data, height=height, visible=True)

    def mark(self, kind: str, ids: Collection[Any]) -> None:
        """Highlight the points with these ids; no ids remove the highlight."""
        self._marked = json.dumps({"kind": kind, "ids": list(ids)})
        self.body.param.update(view=self._marked)

    def _on_view(self, text: str) -> None:
        view = json.loads(text)
        if text == self._marked or "kind" not in view:
            return
        if "ids" not in view and self.on_click is not None:
            self.on_click(str(view["kind"]), view["id"])
        elif "ids" in view and self.on_select is not None:
            self.on_select(str(view["kind"]), view["ids"])
