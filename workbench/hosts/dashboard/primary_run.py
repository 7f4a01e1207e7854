"""Two menus: the primary run, which fills every tab, and the step of its evidence."""

import panel_material_ui as pmui

from workbench.core.glossary import tooltip
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.workspace import Workspace

LAST_STEP = 0  # the value of "last" in the menu of steps


class PrimaryRunPicker:
    """The menus follow the view, and a choice in one of them changes it."""

    def __init__(self, state: DashboardState, workspace: Workspace) -> None:
        self.state = state
        self.workspace = workspace
        self.run = pmui.Select(
            label="Primary run",
            options=list(workspace.runs),
            sizing_mode="stretch_width",
            description=tooltip("primary run"),
        )
        self.step = pmui.Select(
            label="Evidence of step",
            options={"last": LAST_STEP},
            value=LAST_STEP,
            width=180,
            description=tooltip("evidence of step"),
        )
        self.parts = [self.run, self.step]
        self.renew()
        self.run.param.watch(lambda event: state.make_primary(event.new), "value")
        self.step.param.watch(lambda event: state.change(step=event.new or None), "value")
        state.param.watch(lambda _: self.renew(), ["view", "runs_version"])

    def renew(self) -> None:
        """Offer the runs and the steps that exist, and show those of the view."""
        primary = self.state.primary
        if primary is None:
            self.run.options = list(self.workspace.runs)
            return
        # A run or a step that no longer exists stays in its menu: the menu would otherwise
        # choose another one.
        runs = dict.fromkeys([*self.workspace.runs, primary])
        self.run.param.update(options=list(runs), value=primary)
        steps = self.workspace.collected(primary) if primary in self.workspace.runs else []
        options = {f"last ({steps[-1]:,})" if steps else "last": LAST_STEP}
        options |= {f"{step:,}": step for step in steps[:-1]}
        step = self.state.view.step
        if step is not None and step not in options.values():
            options[f"{step:,}"] = step
        self.step.param.update(options=options, value=step or LAST_STEP, disabled=len(options) < 2)

    def move(self, by: int) -> None:
        """Show the evidence of a later step, or of an earlier one if `by` is negative."""
        view = self.state.view
        is_known = view.runs[:1] and view.runs[0] in self.workspace.runs
        steps = self.workspace.collected(view.runs[0]) if is_known else []
        last = len(steps) - 1
        position = steps.index(view.step) if view.step in steps else last
        target = min(max(position + by, 0), last)
        if target != position:
            self.state.change(step=None if target == last else steps[target])
