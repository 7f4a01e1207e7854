"""The card at the top of the overview: which of the selected runs to choose, and why."""

from typing import Any

import panel as pn

from workbench import analysis
from workbench.analysis.base import Result
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.widgets import control_widget, watch_widget
from workbench.workspace.controls import controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

NAME = "decision"


class DecisionCard:
    """The decision for a goal that is selected in a menu."""

    def __init__(self, workspace: Workspace, compute: ComputeClient) -> None:
        self.view = ViewState()
        self.widgets = {
            control.name: control_widget(control, control.default)
            for control in controls(analysis.get(NAME))
        }
        for widget in self.widgets.values():
            watch_widget(widget, self._on_goal)
        self.card = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10))
        content = pn.Column(self.card, sizing_mode="stretch_width", margin=0)
        self.result = AsyncResult(NAME, content, self._draw, workspace, compute)
        row = pn.FlexBox(*self.widgets.values(), gap="16px", styles={"padding-top": "8px"})
        self.body = pn.Column(row, self.result.body, sizing_mode="stretch_width")

    def show(self, view: ViewState) -> None:
        """Compute the decision between the runs of a view."""
        self.view = view
        values = {name: widget.value for name, widget in self.widgets.items()}
        self.result.show(ViewState(runs=view.runs, step=view.step, analysis=NAME, controls=values))

    def _on_goal(self, _: Any) -> None:
        self.show(self.view)

    def _draw(self, result: Result) -> None:
        self.card.object = result._repr_html_()
