"""In the dashboard: what a tab beside the analyses is, the one that follows a run, and the groups of analyses."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import panel as pn
import panel_material_ui as pmui

from workbench.hosts.dashboard.live_tab import Live
from workbench.workspace.controls import Value
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session


class HasBody(Protocol):
    """What can be put into a page."""

    body: Any


Thing = TypeVar("Thing", bound=HasBody)


class TabPage(Protocol):
    """A tab beside the analyses. What is set in it stands in the state's `looks`."""

    body: Any

    def show(self, state: ViewState) -> None:
        """Show the state's runs."""

    def hide(self) -> None:
        """Another tab is looked at."""

    def put(self, told: Mapping[str, Value]) -> None:
        """Move the controls to what is told."""

    def told(self) -> dict[str, Value]:
        """The controls that were moved."""

    def paint(self, *, dark: bool) -> None:
        """Draw in the page's light or dark."""


class LazyTabs(Generic[Thing]):
    """Things with a `body` by name, each made when it is first asked for, and a frame for each that is there at once.

    To make them all takes a visitor seconds. What is made has all it contains before it is put into its frame: a part
    that a page is still building does not hear of another.
    """

    def __init__(self, make: Mapping[str, Callable[[], Thing]]) -> None:
        self.make, self.made = make, dict[str, Thing]()
        self.frames = {
            name: pn.Column(sizing_mode="stretch_width", min_height=400) for name in make
        }

    def __contains__(self, name: str) -> bool:
        return name in self.make

    def __getitem__(self, name: str) -> Thing:
        if name not in self.made:
            self.made[name] = self.make[name]()
            self.frames[name].append(self.made[name].body)
        return self.made[name]

    def items(self) -> Iterator[tuple[str, Thing]]:
        """Everything by its name, made now where it was not."""
        return ((name, self[name]) for name in self.make)

    def values(self) -> list[Thing]:
        """Everything, made now where it was not."""
        return [thing for _, thing in self.items()]


class AnalysisGroup:
    """The analyses of one group, a tab each; the group's own tab shows the one that was looked at last."""

    def __init__(self, session: "Session", names: tuple[str, ...]) -> None:
        self.names, asked = names, session.state.analysis
        session.tabs[asked if asked in names else names[0]]
        self.body: Any = session.tabs.frames[names[0]]
        if len(names) == 1:
            return
        tabs = [(name.replace("_", " ").capitalize(), session.tabs.frames[name]) for name in names]
        self.body = pmui.Tabs(*tabs, dynamic=False, color="secondary")
        self.turn(asked)
        self.body.param.watch(lambda event: session.turned(names[event.new]), "active")

    def turn(self, name: str) -> None:
        """Show the tab of an analysis, where it is one of these."""
        if len(self.names) > 1 and name in self.names:
            self.body.active = self.names.index(name)

    @property
    def active(self) -> str:
        """The analysis that is shown."""
        return self.names[self.body.active] if len(self.names) > 1 else self.names[0]


class LiveTab:
    """The Live tab as a place: it follows the leading run while it is looked at."""

    def __init__(self, session: "Session") -> None:
        self.session, self.live = session, Live()
        self.body, self.hide, self.paint = self.live.body, self.live.hide, self.live.paint

    def show(self, state: ViewState) -> None:
        """Follow the leading run."""
        if state.runs:
            self.live.show(self.session.bench.run(state.runs[0]), dark=self.session.dark)
            self.session.when_loaded(self._follow)

    def put(self, told: Mapping[str, Value]) -> None:
        """Nothing of it stands in the address."""

    def told(self) -> dict[str, Value]:
        """Nothing of it stands in the address."""
        return {}

    def _follow(self) -> None:
        if self.session.state.tab == "live":
            self.live.follow()
