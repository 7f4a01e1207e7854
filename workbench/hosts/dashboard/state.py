"""The state of one visitor's dashboard: a single `param` object that every card observes.

A card changes the state and never another card. Setting a widget to the value that the state has
changes nothing, so that a widget that follows the state causes no further change.
"""

from collections.abc import Callable, Mapping
from typing import Any

import param

from workbench.workspace.controls import Value
from workbench.workspace.view_state import ViewState

Action = Callable[[], None]
ViewChange = Callable[[ViewState], ViewState]


def run_now(action: Action) -> None:
    """Run an action immediately; the scheduler of a state without a page."""
    action()


class DashboardState(param.Parameterized):
    """The view, the theme, the address, the notice and the version of the runs of one visitor.

    Parameters
    ----------
    view : ViewState
        The view that is shown first.
    schedule : callable, optional
        Runs a change of the view, at the latest when the page has loaded. Immediately by default.
    """

    view = param.ClassSelector(
        default=ViewState(), class_=ViewState, allow_None=False, doc="What the visitor looks at."
    )
    dark = param.Boolean(default=False, doc="Whether the page has its dark theme.")
    address = param.String(default="", doc="The query in the browser's address bar.")
    notice = param.String(default="", doc="A warning above the tabs; empty hides it.")
    runs_version = param.Integer(
        default=0, doc="Increases whenever the runs of the folder are read again."
    )

    def __init__(self, view: ViewState, schedule: Callable[[Action], None] = run_now) -> None:
        super().__init__(view=view)
        self._schedule = schedule
        self._controls: dict[str, Mapping[str, Value]] = {}  # last ones of each analysis
        self._tab_options: dict[str, Mapping[str, Value]] = {}  # last ones of each tab
        self._remember(view)

    @property
    def primary(self) -> str | None:
        """The name of the primary run; None if no run is selected."""
        return next(iter(self.view.runs), None)

    def update(self, change: ViewChange) -> None:
        """Replace the view by the result of a function of it, once changes reach the page."""
        self._schedule(lambda: self._set(change(self.view)))

    def change(self, **changes: Any) -> None:
        """Change fields of the view."""
        self.update(lambda view: view.change(**changes))

    def open_analysis(self, name: str, **changes: Any) -> None:
        """Open the tab of an analysis with its most recent controls."""

        def change(view: ViewState) -> ViewState:
            if not view.tab and view.analysis == name:
                return view.change(**changes)
            controls = self._controls.get(name, {})
            return view.change(**{"tab": "", "analysis": name, "controls": controls, **changes})

        self.update(change)

    def open_analysis_of_run(self, name: str, run: str) -> None:
        """Open an analysis, with one of the selected runs as the primary run."""
        runs = self.view.runs
        if run not in runs or run == runs[0]:
            self.open_analysis(name)
            return
        other_runs = tuple(other for other in runs if other != run)
        self.open_analysis(name, runs=(run, *other_runs), step=None)

    def open_group(self, names: tuple[str, ...]) -> None:
        """Open the analysis of a group that was open last, or its first one."""

        def change(view: ViewState) -> ViewState:
            if not view.tab and view.analysis in names:
                return view
            visited = [name for name in self._controls if name in names]
            name = visited[-1] if visited else names[0]
            controls = self._controls.get(name, {})
            return view.change(tab="", analysis=name, controls=controls)

        self.update(change)

    def open_tab(self, tab: str, **changes: Any) -> None:
        """Open a tab that is not an analysis, with its most recent options."""

        def change(view: ViewState) -> ViewState:
            if view.tab == tab:
                return view.change(**changes)
            options = self._tab_options.get(tab, {})
            return view.change(**{"tab": tab, "tab_options": options, **changes})

        self.update(change)

    def set_tab_option(self, tab: str, name: str, value: Value, default: Value) -> None:
        """Set one option of an open tab. The address does not contain an option at its default."""

        def change(view: ViewState) -> ViewState:
            if view.tab != tab:
                return view
            options = {key: other for key, other in view.tab_options.items() if key != name}
            if value != default:
                options[name] = value
            return view.change(tab_options=options)

        self.update(change)

    def renew_runs(self) -> None:
        """Notify the cards that the runs of the folder were read again."""
        self.runs_version += 1

    def select_runs(self, names: tuple[str, ...]) -> None:
        """Select runs, the primary run first. The step is kept if the primary run is."""
        self.update(
            lambda view: view.change(
                runs=names, step=view.step if names[:1] == view.runs[:1] else None
            )
        )

    def make_primary(self, name: str) -> None:
        """Put a run before the other selected runs and show its last evidence."""

        def change(view: ViewState) -> ViewState:
            if view.runs[:1] == (name,):
                return view
            other_runs = tuple(other for other in view.runs if other != name)
            return view.change(runs=(name, *other_runs), step=None)

        self.update(change)

    def follow_address(self, view: ViewState) -> None:
        """Show the view of an address that the browser already has."""
        self._remember(view)
        self.param.update(view=view, address=view.to_query())

    def _set(self, view: ViewState) -> None:
        self._remember(view)
        if view != self.view:
            self.view = view

    def _remember(self, view: ViewState) -> None:
        self._controls.pop(view.analysis, None)  # inserted again as the latest
        self._controls[view.analysis] = view.controls
        if view.tab:
            self._tab_options[view.tab] = view.tab_options
