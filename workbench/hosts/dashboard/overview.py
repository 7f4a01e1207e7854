"""The first tab: which run to choose, cost and quality of the selected runs, and the findings."""

from pathlib import Path

import panel as pn

from workbench.analysis.diagnosis.checks import SYMBOLS, Checks
from workbench.core.html_templates import marked, render
from workbench.hosts.dashboard.analysis_tab import AnalysisTab
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.decision_card import DecisionCard
from workbench.hosts.dashboard.help_pages import CHECKS_ADDRESS
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.run_table import readable_color
from workbench.workspace.tab_options import overview_controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

TAB = "overview"
FINDINGS_TEMPLATE = Path(__file__).parent / "templates" / "findings.html.j2"
MAX_FINDINGS = 10
STATUS_COLORS = {"error": "#d55e00", "warning": "#d55e00", "info": "#0072b2"}


class Overview:
    """The decision above a token budget and the findings of the checks.

    The last two are one above the other on a narrow page.
    """

    def __init__(self, state: DashboardState, workspace: Workspace, compute: ComputeClient) -> None:
        self.decision = DecisionCard(TAB, state, workspace, compute)
        self.budget = AnalysisTab("token_budget", state, workspace, compute, tab=TAB, compact=True)
        self.findings = pn.pane.HTML("", sizing_mode="stretch_width")
        content = pn.Column(self.findings, sizing_mode="stretch_width")
        self.checks = AsyncResult("checks", content, self._show_findings, workspace, compute)
        self.budget.body.styles = {"flex": "3 1 520px", "min-width": "0"}
        self.checks.body.styles = {"flex": "2 1 300px", "min-width": "0"}
        details = pn.FlexBox(
            self.budget.body,
            self.checks.body,
            gap="24px",
            align_items="flex-start",
            sizing_mode="stretch_width",
        )
        self.body = pn.Column(self.decision.body, details, sizing_mode="stretch_width")

    def show(self, view: ViewState) -> None:
        """Compute all three for the runs of a view."""
        values = overview_controls(view.tab_options if view.tab == TAB else {})
        self.decision.show(view, values["decision"])
        self.budget.show(view.change(tab_options=values["token_budget"]))
        self.checks.show(ViewState(runs=view.runs, step=view.step, analysis="checks"))

    def hide(self) -> None:
        """Do nothing: the tab has no timers."""

    def move_slider(self, steps: int) -> None:
        """Move the first slider of the token budget."""
        self.budget.move_slider(steps)

    def _show_findings(self, checks: Checks) -> None:
        self.findings.object = render(
            FINDINGS_TEMPLATE,
            groups=checks.groups[:MAX_FINDINGS],
            num_hidden=max(0, len(checks.groups) - MAX_FINDINGS),
            num_passed=checks.counts["passed"],
            symbols=SYMBOLS,
            styles={status: readable_color(color) for status, color in STATUS_COLORS.items()},
            address=CHECKS_ADDRESS,
            marked=marked,
        )
