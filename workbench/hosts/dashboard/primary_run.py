"""In the dashboard: which run fills every tab, and which step of its evidence is looked at."""

from typing import TYPE_CHECKING

import panel_material_ui as pmui

from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

LAST = 0  # in the menu of steps: the last one that was collected


class PrimaryRunPicker:
    """Two menus; a choice in one changes the session's view."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.run = pmui.Select(
            label="leading run", options=list(session.bench.runs), sizing_mode="stretch_width"
        )
        self.step = pmui.Select(
            label="evidence of step", options={"last": LAST}, value=LAST, width=150
        )
        self.run.param.watch(lambda event: self._lead(event.new), "value")
        self.step.param.watch(
            lambda event: session.loud(lambda: session.go(step=event.new or None)), "value"
        )
        self.parts = [self.run, self.step]

    def put(self, state: ViewState) -> None:
        """Offer what there is, and show what the state says."""
        self.run.options = list(self.session.bench.runs)
        if state.runs:
            self.run.value = state.runs[0]
            steps = self.session.bench.collected(state.runs[0])
            options = {f"last ({steps[-1]:,})" if steps else "last": LAST} | {
                f"{s:,}": s for s in steps[:-1]
            }
            self.step.param.update(
                options=options, value=state.step or LAST, disabled=len(options) < 2
            )

    def move(self, by: int) -> None:
        """Look at the evidence so many steps of it further on, or at the first or the last."""
        state = self.session.state
        steps = self.session.bench.collected(state.runs[0]) if state.runs else []
        at = steps.index(state.step) if state.step in steps else len(steps) - 1
        to = min(max(at + by, 0), len(steps) - 1)
        if to != at:
            self.session.go(step=None if to == len(steps) - 1 else steps[to])

    def _lead(self, name: str) -> None:
        runs = self.session.state.runs
        if name != next(iter(runs), None):  # a step of one run is none of another's
            others = (other for other in runs if other != name)
            self.session.loud(lambda: self.session.go(runs=(name, *others), step=None))
