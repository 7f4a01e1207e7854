"""The tabs of the page, each made when it is opened first, and the groups of analyses."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

import panel as pn
import panel_material_ui as pmui

from workbench.core.glossary import analysis_title
from workbench.hosts.dashboard.analysis_tab import AnalysisTab
from workbench.hosts.dashboard.state import DashboardState
from workbench.workspace.view_state import ViewState

# All tabs are visible, in two rows if one is too short; on a phone they scroll. Each tab has a line
# of its own, because the one that Material moves below the selected tab is only in the last row.
TAB_STYLE = {
    "& .MuiTab-root": {"minWidth": 0, "px": "7px", "textTransform": "none"},
    "@media (min-width: 600px)": {
        "& [role=tablist]": {"flexWrap": "wrap"},
        "& .MuiTabScrollButton-root, & .MuiTabs-indicator": {"display": "none"},
        "& .MuiTab-root": {"minHeight": "40px", "borderBottom": "2px solid transparent"},
        "& .MuiTab-root.Mui-selected": {"borderBottomColor": "primary.main"},
    },
}


class TabPage(Protocol):
    """The content of a tab."""

    body: Any

    def show(self, view: ViewState) -> None:
        """Show a view of this tab."""

    def hide(self) -> None:
        """Stop what runs only while the tab is open."""

    def move_slider(self, steps: int) -> None:
        """Move the first slider of the tab by a number of its steps."""


Page = TypeVar("Page", bound=TabPage)


class LazyTabs(Generic[Page]):
    """Tabs by name, each made when it is first used, in a frame that exists from the start.

    To make all of them would take seconds. A tab has all its parts before it is put into its
    frame: a part that the page is still building does not receive another one.
    """

    def __init__(self, make: Mapping[str, Callable[[], Page]]) -> None:
        self._make = make
        self.made: dict[str, Page] = {}
        self.frames = {
            name: pn.Column(sizing_mode="stretch_width", min_height=400) for name in make
        }

    def __contains__(self, name: str) -> bool:
        return name in self._make

    def __getitem__(self, name: str) -> Page:
        if name not in self.made:
            self.made[name] = self._make[name]()
            self.frames[name].append(self.made[name].body)
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)


class AnalysisGroup:
    """The analyses of one group, a tab each; a group of one analysis has no tabs."""

    def __init__(
        self, names: tuple[str, ...], state: DashboardState, analyses: LazyTabs[AnalysisTab]
    ) -> None:
        self.names = names
        self.analyses = analyses
        current = state.view.analysis if state.view.analysis in names else names[0]
        analyses[current]  # made before its frame is put into the page
        self.body: Any = analyses.frames[names[0]]
        if len(names) > 1:
            titles = [analysis_title(name) for name in names]
            frames = [analyses.frames[name] for name in names]
            tabs = zip(titles, frames, strict=True)
            self.body = pmui.Tabs(*tabs, dynamic=False, sx=TAB_STYLE)
            self.body.active = names.index(current)
            self.body.param.watch(lambda event: state.open_analysis(names[event.new]), "active")

    def show(self, view: ViewState) -> None:
        """Open the tab of the view's analysis."""
        if len(self.names) > 1:
            self.body.active = self.names.index(view.analysis)
        self.analyses[view.analysis].show(view)

    def hide(self) -> None:
        """Do nothing: the analyses have no timers."""

    def move_slider(self, steps: int) -> None:
        """Move the first slider of the open analysis."""
        name = self.names[self.body.active] if len(self.names) > 1 else self.names[0]
        self.analyses[name].move_slider(steps)
