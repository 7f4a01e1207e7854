"""The first tab: which run to choose, cost and quality of the selected runs, and the findings."""

import html

import panel as pn

from workbench.analysis.diagnosis.checks import SYMBOLS, Checks, Group
from workbench.hosts.dashboard.analysis_tab import AnalysisTab
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.decision_card import DecisionCard
from workbench.hosts.dashboard.help_pages import check_link
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.run_table import readable_color
from workbench.workspace.tab_options import overview_controls
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

TAB = "overview"
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
        groups = checks.groups
        items = "".join(_finding_html(group) for group in groups[:MAX_FINDINGS])
        if len(groups) > MAX_FINDINGS:
            items += f"<p>{len(groups) - MAX_FINDINGS} more in the tab Checks.</p>"
        passed = f"<p style='opacity: 0.8'>✓ {checks.counts['passed']} checks passed.</p>"
        self.findings.object = f"<h3 style='margin: 0 0 12px'>Checks</h3>{items}{passed}"


def _finding_html(group: Group) -> str:
    """Return a finding as a paragraph: a symbol and a word for its severity, and a color."""
    check = group.check
    color = readable_color(STATUS_COLORS[check.status])
    head = (
        f"<b style='{color}'>{SYMBOLS[check.status]} {check.status}</b>"
        f" · <b>{html.escape(group.run_text)}</b> · {check_link(check.code)}"
        f" {html.escape(check.name)}"
    )
    text = ""
    if check.finding is not None:
        observation = html.escape(check.finding.observation)
        text = f"{observation}<br><em>{html.escape(check.finding.advice)}</em>"
    return f"<p style='margin: 0 0 12px'>{head}<br>{text}</p>"
