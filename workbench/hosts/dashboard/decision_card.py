"""The card at the top of the overview: which of the selected runs to choose, and why."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import panel as pn

from workbench import analysis
from workbench.analysis.base import Result
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.widgets import control_widget, set_value, watch_widget
from workbench.workspace.controls import Value, controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

NAME = "decision"


class DecisionCard:
    """The decision for a goal, which is an option of the tab.

    Parameters
    ----------
    tab : str
        The tab that shows the card.
    state, workspace, compute
        The visitor's state, the folder of runs and the access to the compute queue.
    """

    def __init__(
        self, tab: str, state: DashboardState, workspace: Workspace, compute: ComputeClient
    ) -> None:
        self.tab = tab
        self.state = state
        self.controls = {control.name: control for control in controls(analysis.get(NAME))}
        self.widgets = {
            name: control_widget(control, control.default)
            for name, control in self.controls.items()
        }
        for name, widget in self.widgets.items():
            watch_widget(widget, partial(self._on_control, name))
        self.card = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10))
        content = pn.Column(self.card, sizing_mode="stretch_width", margin=0)
        self.result = AsyncResult(NAME, content, self._draw, workspace, compute)
        row = pn.FlexBox(*self.widgets.values(), gap="16px", styles={"padding-top": "8px"})
        self.body = pn.Column(row, self.result.body, sizing_mode="stretch_width")

    def show(self, view: ViewState, values: Mapping[str, Value]) -> None:
        """Compute the decision between the runs of a view, with these controls."""
        for name, widget in self.widgets.items():
            set_value(widget, values.get(name, self.controls[name].default))
        self.result.show(ViewState(runs=view.runs, step=view.step, analysis=NAME, controls=values))

    def _on_control(self, name: str, event: Any) -> None:
        self.state.set_tab_option(self.tab, name, event.new, self.controls[name].default)

    def _draw(self, result: Result) -> None:
        self.card.object = result._repr_html_()
