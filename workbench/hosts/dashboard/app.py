"""The dashboard: a list of runs and a tab for every analysis, over one folder. Reads files; needs no torch.

One `Session` a browser tab. What it shows is a ViewState; the address bar always holds it, so a link is a view.
"""

import html
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from param.parameterized import discard_events

from workbench import analysis
from workbench.core.errors import UserError
from workbench.hosts.dashboard.analysis_tab import AnalysisTab
from workbench.hosts.dashboard.explore_tabs import MODULES, ExploreTab
from workbench.hosts.dashboard.jobs_card import JobsCard
from workbench.hosts.dashboard.keyboard import Keyboard
from workbench.hosts.dashboard.overview import Overview
from workbench.hosts.dashboard.page_lifecycle import PageLifecycle
from workbench.hosts.dashboard.primary_run import PrimaryRunPicker
from workbench.hosts.dashboard.report_builder_card import ReportBuilderCard, pages_of
from workbench.hosts.dashboard.run_list import RunList
from workbench.hosts.dashboard.saved_card import SavedViewsCard
from workbench.hosts.dashboard.tabs import AnalysisGroup, LazyTabs, LiveTab, TabPage
from workbench.hosts.reports import write_views_report
from workbench.workspace.compute import ComputeQueue
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

GUIDE = """<p>No runs in <code>{folder}</code> yet. Train one, and reload this page:</p>
<pre>workbench train softvq-digits --out {folder}/first</pre>
"""
SIDEBAR = 380  # pixels
NARROW = {
    "& .MuiTab-root": {"minWidth": 0, "px": "10px"}
}  # so that all tabs are in sight on a usual screen
STEPS = {"ArrowLeft": -1, "ArrowRight": 1, "Shift+ArrowLeft": -10, "Shift+ArrowRight": 10}
GLANCE = 3000  # milliseconds between looks at how the runs stand


def serve(
    folder: str | Path, *, port: int = 8765, address: str = "127.0.0.1", show: bool = True
) -> None:
    """Serve the dashboard of a folder of runs until interrupted. Raises RunError if the folder does not exist."""
    import socket

    Workspace(folder)  # refuse a wrong folder before a server starts
    if port:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                raise UserError(
                    f"port {port} is in use; give another with --port, or 0 for a free one."
                )
    pn.extension("plotly", "tabulator")
    jobs = ComputeQueue(folder, write_report=write_views_report)
    try:
        how = {
            "address": address,
            "show": show,
            "title": "workbench",
            "extra_patterns": [pages_of(folder)],
        }
        pn.serve({"/": lambda: Session(folder, jobs).page()}, port=port, **how)
    finally:
        jobs.close()


class Session:
    """One visitor's view: the state, and the widgets that show and change it.

    Without `jobs` everything is computed where it is asked for.
    """

    def __init__(self, folder: str | Path, jobs: ComputeQueue | None = None) -> None:
        self.bench, self.jobs, self.dark = Workspace(folder), jobs, False
        self.me, self.basket, self.saved = (
            object(),
            ReportBuilderCard(self),
            SavedViewsCard(self),
        )  # me: who waits for jobs
        self.visit = PageLifecycle()
        self.later, self.when_loaded = self.visit.later, self.visit.when_loaded
        self._timer: Any = None
        self._quiet = False
        self.notice = pmui.Alert("", severity="warning", visible=False)
        location = pn.state.location
        self.state = self._asked_for("" if location is None else location.search or "")
        self.card = JobsCard(jobs, self.me)
        self.keyboard = Keyboard(
            lambda key: self.when_loaded(lambda: self._pressed(key)), self.follow
        )
        self.runs = RunList(self.bench, self.state.runs, self._selected)
        self.tabs = LazyTabs({name: partial(self._tab, name) for name in analysis.analyses()})
        explored = {tab: partial(ExploreTab, self, tab) for tab in MODULES}
        places = {"overview": partial(Overview, self), **explored, "live": partial(LiveTab, self)}
        self.places: LazyTabs[TabPage] = LazyTabs(places)
        self.groups = LazyTabs(
            {
                group: partial(AnalysisGroup, self, names)
                for group, names in analysis.groups().items()
            }
        )
        self.titles = ["overview", *MODULES, *self.groups.make, "live"]
        frames = self.places.frames | self.groups.frames
        self.pages = pmui.Tabs(
            *((name.capitalize(), frames[name]) for name in self.titles), dynamic=False, sx=NARROW
        )
        self.pages.param.watch(lambda _: self._turned(), "active")
        self.about = pn.pane.HTML("", sizing_mode="stretch_width", styles={"opacity": "0.8"})
        self.leading = PrimaryRunPicker(self)

    def page(self) -> pn.viewable.Viewable:
        """The whole page."""
        page = pmui.Page(
            title="workbench",
            header=[pn.layout.HSpacer(), self.keyboard.module],
            sidebar=self._sidebar(),
            sidebar_width=SIDEBAR,
            main=[self.notice, *self._main(), self.keyboard.help, self.card.body],
        )
        self.dark, watcher = (
            page.dark_theme,
            page.param.watch(lambda event: self._repaint(event.new), "dark_theme"),
        )
        me = weakref.ref(
            self
        )  # a page that is closed before it has loaded is not kept for its loading
        self.visit.begin(lambda: me() and me()._loaded())
        self._go()  # what is quickly found comes with the page, the rest is computed while it is sent
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda _: (self.close(), _emptied(page, watcher)))
        return page

    def go(self, **changes: Any) -> None:
        """Change the state, put it into the address bar, and show the tab it names; that of an analysis, if given."""
        self.when_loaded(lambda: self._go(**changes))

    def _go(self, **changes: Any) -> None:
        before = self.state.tab
        self.state = self.state.change(**({"tab": ""} if "analysis" in changes else {}), **changes)
        if not self.state.tab:
            self.state = self.state.change(controls=self.tabs[self.state.analysis].told())
        if before != self.state.tab and before in self.places:
            self.places[before].hide()
        self._reflect()
        if not self.bench.runs:
            return
        if not self._quiet:
            self.keyboard.write(self.state.to_query())
        try:
            self.about.object = html.escape(self.bench.about(self.state))
        except UserError:
            self.about.object = ""
        (self.places[self.state.tab] if self.state.tab else self.tabs[self.state.analysis]).show(
            self.state
        )

    def follow(self, query: str) -> None:
        """Show what an address asks for, as when somebody goes back in the browser's history."""
        self.when_loaded(lambda: self._follow(query))

    def _follow(self, query: str) -> None:
        before, self.notice.visible = self.state.tab, False
        self.state = self._asked_for(query)
        if before != self.state.tab and before in self.places:
            self.places[before].hide()
        with self._quietly():
            if self.state.tab:
                self.places[self.state.tab].put(self.state.looks)
            else:
                self.tabs[self.state.analysis].put(self.state.controls)
            self._go()

    def turned(self, name: str) -> None:
        """Somebody has turned to an analysis."""
        self.loud(lambda: self.go(analysis=name))

    def close(self) -> None:
        """The visitor has left: nothing is read or computed for them any more."""
        self.visit.end()
        if self._timer is not None:
            self._timer.stop()
        self.card.hide()
        for place in self.places.made.values():
            place.hide()
        for job in [] if self.jobs is None else self.jobs.of(self.me):
            self.jobs.leave(job, self.me)

    def _loaded(self) -> None:
        if self.bench.runs:
            self._timer = pn.state.add_periodic_callback(self.refresh, GLANCE)

    def refresh(self) -> None:
        """Show the list of runs as they stand now, where anything changed."""
        if self.bench.stale():
            self.bench.refresh()
            self.runs.renew()
            with self._quietly():
                self.leading.put(self.state)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Within, widgets that move are following the state, not a person."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def loud(self, act: Callable[[], None]) -> None:
        """Do what a person asked for; not what a widget says that follows the state."""
        if not self._quiet:
            act()

    def _reflect(self) -> None:
        """Let the widgets around the tabs say what the state says."""
        with self._quietly():
            self.runs.put(self.state.runs)
            self.pages.active = self._at()
            if not self.state.tab:
                self.groups[self._group_of(self.state.analysis)].turn(self.state.analysis)
            self.leading.put(self.state)

    def _tab(self, name: str) -> AnalysisTab:
        told = self.state.controls if self.state.analysis == name else {}
        return AnalysisTab(self, name, told, lambda: self.turned(name))

    def _at(self) -> int:
        return self.titles.index(self.state.tab or self._group_of(self.state.analysis))

    def _turned(self) -> None:
        self.loud(lambda: self.when_loaded(self._turn))

    def _turn(self) -> None:
        title = self.titles[self.pages.active]
        if title in self.places:
            self.go(tab=title, looks=self.places[title].told())
        else:
            self.go(analysis=self.groups[title].active)

    def _group_of(self, name: str) -> str:
        return next(group for group, names in analysis.groups().items() if name in names)

    def _repaint(self, dark: bool) -> None:
        self.dark = dark
        self.when_loaded(self._paint)

    def _paint(self) -> None:
        for shown in (*self.places.made.values(), *self.tabs.made.values()):
            shown.paint(dark=self.dark)

    def _asked_for(self, query: str) -> ViewState:
        """The view an address asks for, or a first look."""
        first = self.bench.default_view().change(tab="overview")
        try:
            asked = ViewState.from_query(query)
            for name in asked.runs:
                self.bench.run(name)
            asked = asked if asked.runs else asked.change(runs=first.runs)
            if asked.step is not None and asked.runs:
                self.bench.run(asked.runs[0]).evidence(asked.step)
        except UserError as error:
            self._say(f"This link could not be followed: {error}")
            return first
        named = "analysis=" in query or asked.tab
        return asked if named else asked.change(tab="overview")

    def _say(self, text: str) -> None:
        self.notice.object, self.notice.visible = html.escape(text), True

    def _selected(self, names: tuple[str, ...]) -> None:
        """The run that was leading stays so while it is selected; the sliders and menus keep their values."""
        same = names[:1] == self.state.runs[:1]
        self.loud(lambda: self.go(runs=names, step=self.state.step if same else None))

    def _pressed(self, key: str) -> None:
        """What a key does; see keyboard.KEYS."""
        if key.isdigit():
            self.runs.toggle(int(key))
        elif key in STEPS:
            self.leading.move(STEPS[key])
        elif key in ("[", "]") and not self.state.tab:
            self.tabs[self.state.analysis].step(1 if key == "]" else -1)
        elif key in ("[", "]") and self.state.tab == "lens":
            self.places["lens"].step(1 if key == "]" else -1)
        elif key == "r":
            self.basket.add(self.state)

    def _sidebar(self) -> list[Any]:
        if not self.bench.runs:
            return []
        note = pn.pane.HTML(
            "The leading run fills every tab; the other selected ones are compared with it.",
            styles={"opacity": "0.8"},
        )
        parts = [
            *self.leading.parts,
            note,
            self.runs.body,
            self.basket.body,
            self.saved.body,
            *self._refused(),
        ]
        # In a column: placed in the page itself, a table is drawn twice and forgets which rows are selected.
        return [pmui.Column(*parts, sizing_mode="stretch_width")]

    def _refused(self) -> list[Any]:
        return [
            pmui.Alert(html.escape(sentence), severity="error") for sentence in self.bench.refused
        ]

    def _main(self) -> list[pn.viewable.Viewable]:
        if not self.bench.runs:
            return [
                pn.pane.HTML(GUIDE.format(folder=html.escape(str(self.bench.folder)))),
                *self._refused(),
            ]
        return [self.about, self.pages]


def _emptied(page: pmui.Page, watcher: Any) -> None:
    """Take everything out of a page that was closed: the library keeps the page itself."""
    page.param.unwatch(watcher)
    with discard_events(page):
        page.param.update(header=[], sidebar=[], main=[])
