"""In the dashboard, the first tab: what the selected runs cost and how good they are, and what the checks found."""

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import panel as pn

from workbench.analysis.checks.checks import SYMBOLS, Check, Checks
from workbench.hosts.dashboard.analysis_tab import AnalysisTab
from workbench.hosts.dashboard.async_result import AsyncResult
from workbench.workspace.controls import Value
from workbench.workspace.run_table import highlighted
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

MOST = 10  # findings
COLOURS = {"error": "#d55e00", "warning": "#d55e00", "info": "#0072b2"}


class Overview:
    """A token budget and the checks' findings: side by side, or one above the other where the page is narrow."""

    def __init__(self, session: "Session") -> None:
        told = session.state.looks if session.state.tab == "overview" else {}
        self.session = session
        self.budget = AnalysisTab(session, "token_budget", told, self._moved, table=False)
        self.list = pn.pane.HTML("", sizing_mode="stretch_width")
        self.checks = AsyncResult(
            session, "checks", pn.Column(self.list, sizing_mode="stretch_width"), self._found
        )
        self.budget.body.styles = {"flex": "3 1 520px", "min-width": "0"}
        self.checks.body.styles = {"flex": "2 1 300px", "min-width": "0"}
        parts = [self.budget.body, self.checks.body]
        self.body = pn.FlexBox(
            *parts, gap="24px", align_items="flex-start", sizing_mode="stretch_width"
        )

    def show(self, state: ViewState) -> None:
        """Compute both for the state's runs: the checks when the page is there, as they would hold up its drawing."""
        self.budget.show(state)
        self.session.when_loaded(self._check)

    def hide(self) -> None:
        """Nothing here goes on by itself."""

    def put(self, told: Mapping[str, Value]) -> None:
        """Move the controls to what is told."""
        self.budget.put(told)

    def told(self) -> dict[str, Value]:
        """The controls that were moved."""
        return self.budget.told()

    def paint(self, *, dark: bool) -> None:
        """Draw in the page's light or dark."""
        self.budget.paint(dark=dark)

    def _check(self) -> None:
        if self.session.state.tab == "overview":
            self.checks.ask(self.session.state, {})

    def _moved(self) -> None:
        self.session.go(tab="overview", looks=self.told())

    def _found(self, checks: Checks) -> None:
        found = checks.findings
        items = "".join(_finding(check) for check in found[:MOST])
        items += (
            f"<p>and {len(found) - MOST} more, in the tab Checks.</p>" if len(found) > MOST else ""
        )
        passed = f"<p style='opacity: 0.8'>✓ {checks.counts['passed']} checks passed.</p>"
        self.list.object = f"<h3 style='margin: 0 0 12px'>Checks</h3>{items}{passed}"


def _finding(check: Check) -> str:
    """A finding as a paragraph: a symbol and a word say how grave it is, and colour repeats it."""
    head = f"<b style='{highlighted(COLOURS[check.status])}'>{SYMBOLS[check.status]} {check.status}</b>"
    head += f" · <b>{html.escape(check.run)}</b> · {check.code} {html.escape(check.name)}"
    said = f"{html.escape(check.finding.found)}<br><em>{html.escape(check.finding.advice)}</em>"
    return f"<p style='margin: 0 0 12px'>{head}<br>{said}</p>"
