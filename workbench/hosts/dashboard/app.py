"""The dashboard of one visitor: a list of runs and a tab for each analysis. It needs no torch.

The address of the page always describes the view, so that a link opens the same view.
"""

import html
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import panel as pn
import panel_material_ui as pmui

from workbench import analysis
from workbench.core.errors import UserError
from workbench.core.glossary import group_title
from workbench.core.html_templates import render_text
from workbench.hosts.dashboard.address import AddressBar, view_of_address
from workbench.hosts.dashboard.analysis_tab import AnalysisTab
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.explore_tabs import MODULES, ExploreTab
from workbench.hosts.dashboard.jobs_card import JobsCard
from workbench.hosts.dashboard.keyboard import Keyboard
from workbench.hosts.dashboard.live_tab import LiveTab
from workbench.hosts.dashboard.overview import Overview
from workbench.hosts.dashboard.page import make_page
from workbench.hosts.dashboard.page_lifecycle import PageLifecycle
from workbench.hosts.dashboard.primary_run import PrimaryRunPicker
from workbench.hosts.dashboard.report_builder_card import ReportBuilderCard
from workbench.hosts.dashboard.run_list import RunList
from workbench.hosts.dashboard.runs_page import TAB, RunsPage
from workbench.hosts.dashboard.saved_card import SavedViewsCard
from workbench.hosts.dashboard.settings_service import SettingsService
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.tabs import TAB_STYLE, AnalysisGroup, LazyTabs, TabPage
from workbench.hosts.dashboard.train_tab import TrainTab
from workbench.hosts.dashboard.training_queue_card import TAB as TRAIN
from workbench.launch.training_queue import TrainingQueue
from workbench.workspace.compute import ComputeQueue
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

GUIDE = """<p>There are no runs in <code>{{ folder }}</code> yet. Train one here, or with this
command, and reload the page:</p>
<pre>workbench train softvq-photos --out {{ folder }}/first</pre>
"""
SIDEBAR_NOTE = "Every tab shows the primary run and compares the other selected runs with it."
SIDEBAR_WIDTH_PX = 380
TAB_NAMES = ("overview", TAB, *MODULES, *analysis.groups(), "live", TRAIN)
TAB_TITLES = tuple("Runs" if name == TAB else group_title(name) for name in TAB_NAMES)
STEPS_OF_KEYS = {"ArrowLeft": -1, "ArrowRight": 1, "Shift+ArrowLeft": -10, "Shift+ArrowRight": 10}
DOT = " · "
CHIP_STYLE = (
    "display: inline-block; margin: 2px 6px 2px 0; padding: 1px 10px; border-radius: 12px;"
    " border: 1px solid rgba(128, 128, 128, 0.45); overflow-wrap: anywhere"
)
CHIPS = (
    '{% for part in parts %}<span style="{{ style }}">{{ part }}</span>'
    '{% if not loop.last %}<span style="font-size: 0">{{ dot }}</span>{% endif %}{% endfor %}'
)
REFRESH_INTERVAL_MS = 3000  # between two checks of the folder of runs


class Session:
    """One visitor's page: the state, and the cards that show and change it.

    Parameters
    ----------
    folder : str or Path
        The folder of runs.
    queue : ComputeQueue, optional
        Computes the results; without it, they are computed in the calling thread.
    trust : sequence of str, optional
        Modules and packages outside of this package that may be imported to load a run's model.
    trainings : TrainingQueue, optional
        The server's queue of trainings; without it, this visitor cannot start trainings.
    settings : SettingsService, optional
        Describes and checks the settings of trainings.
    """

    def __init__(
        self,
        folder: str | Path,
        queue: ComputeQueue | None = None,
        trust: Sequence[str] = (),
        *,
        trainings: TrainingQueue | None = None,
        settings: SettingsService | None = None,
    ) -> None:
        self.workspace = Workspace(folder, trust)
        self.trainings = trainings
        self.settings = settings
        self.lifecycle = PageLifecycle()
        self.compute = ComputeClient(queue, self.lifecycle)
        location = pn.state.location
        query = "" if location is None else location.search or ""
        view, notice = view_of_address(query, self.workspace)
        self.state = DashboardState(view, self.lifecycle.after_load)
        self.state.notice = notice
        self._timer: pn.io.PeriodicCallback | None = None
        self._page: Callable[[], pmui.Page | None] = lambda: None

        self.notice = pmui.Alert("", severity="warning", visible=False)
        self.about = pn.pane.HTML("", sizing_mode="stretch_width", styles={"opacity": "0.8"})
        self.jobs = JobsCard(self.compute)
        self.reports = ReportBuilderCard(self.state, self.workspace.folder, self.compute)
        self.saved_views = SavedViewsCard(self.state, self.workspace.folder)
        self.runs = RunList(self.state, self.workspace)
        self.primary_run = PrimaryRunPicker(self.state, self.workspace)
        self.refused = pmui.Column(*self._refused(), sizing_mode="stretch_width", margin=0)
        self.keyboard = Keyboard(
            on_key=lambda key: self.lifecycle.after_load(lambda: self.press(key)),
            on_address=lambda query: self.lifecycle.after_load(lambda: self.follow(query)),
            on_narrow=lambda: self.lifecycle.after_load(self.close_sidebar),
        )
        self.address = AddressBar(self.state, self.workspace, self.keyboard.write_address)

        groups = analysis.groups()
        self._group_of = {name: group for group, names in groups.items() for name in names}
        self.analyses = LazyTabs({name: partial(self._analysis, name) for name in self._group_of})
        self.pages: LazyTabs[TabPage] = LazyTabs(
            {
                "overview": self._overview,
                TAB: self._table,
                **{tab: partial(self._explore, tab) for tab in MODULES},
                **{group: partial(self._group, names) for group, names in groups.items()},
                "live": self._live,
                TRAIN: self._train,
            }
        )
        self._titles = list(self.pages)
        frames = {title: self.pages.frames[title] for title in self._titles}
        self._open_page = self._title_of(view)
        self.tabs = pmui.Tabs(
            *zip(TAB_TITLES, frames.values(), strict=True),
            active=self._titles.index(self._open_page),
            dynamic=False,
            sx=TAB_STYLE,
        )
        self.tabs.param.watch(lambda event: self._open(self._titles[event.new]), "active")
        self.state.param.watch(lambda _: self._show_view(), "view")
        self.state.param.watch(lambda _: self._show_notice(), "notice")
        self.state.param.watch(lambda _: self._show_runs(), "runs_version")
        self._show_notice()

    def page(self) -> pn.viewable.Viewable:
        """Return the page, which shows results once it has loaded."""
        page = make_page(
            header=[pn.layout.HSpacer(), self.keyboard.module],
            sidebar=self._sidebar(),
            sidebar_width=SIDEBAR_WIDTH_PX,
            sidebar_resizable=True,
            main=[self.notice, *self._main(), self.keyboard.help, self.jobs.body],
        )
        self._page = weakref.ref(page)
        self.state.dark = page.dark_theme
        page.param.watch(lambda event: self._set_theme(dark=event.new), "dark_theme")
        # A page that is closed before it has loaded must not keep its session alive.
        reference = weakref.ref(self)

        def start() -> None:
            session = reference()
            if session is not None:
                session._start()

        self.lifecycle.begin(start)
        if self.workspace.runs:
            self.address.update()
        self._show_view()
        if pn.state.curdoc is not None:
            pn.state.on_session_destroyed(lambda _: self.close())
        return page

    def follow(self, query: str) -> None:
        """Show the view of an address, as when a person goes back in the browser's history."""
        self.address.follow(query)

    def press(self, key: str) -> None:
        """Perform the action of a key; see `keyboard.KEYS`."""
        if key.isdigit():
            self.runs.toggle(int(key))
        elif key in STEPS_OF_KEYS:
            self.primary_run.move(STEPS_OF_KEYS[key])
        elif key in ("[", "]"):
            self.pages[self._open_page].move_slider(1 if key == "]" else -1)
        elif key == "r":
            self.reports.add()

    def close_sidebar(self) -> None:
        """Close the sidebar, whose button opens it again."""
        page = self._page()
        if page is not None:
            page.sidebar_open = False

    def refresh(self) -> None:
        """Show the runs of the folder as they are now, if anything has changed."""
        if not self.workspace.is_stale():
            return
        self.workspace.refresh()
        self.state.renew_runs()

    def _show_runs(self) -> None:
        self._replace_missing_runs()
        self.refused.objects = self._refused()

    def _replace_missing_runs(self) -> None:
        """Deselect runs that can no longer be read, and show a message."""
        view = self.state.view
        missing = [name for name in view.runs if name not in self.workspace.runs]
        if not missing:
            return
        names = ", ".join(missing)
        verb = "is" if len(missing) == 1 else "are"
        self.state.notice = f"{names} {verb} no longer shown: deleted, moved or damaged."
        remaining = tuple(name for name in view.runs if name in self.workspace.runs)
        self.state.select_runs(remaining or self.workspace.default_view().runs)

    def close(self) -> None:
        """Stop reading and computing for a visitor who has left."""
        self.lifecycle.end()
        if self._timer is not None:
            self._timer.stop()
        self.jobs.hide()
        for page in self.pages.made.values():
            page.hide()
        self.compute.release_all()

    def _start(self) -> None:
        if self.workspace.runs:
            self._timer = pn.state.add_periodic_callback(self.refresh, REFRESH_INTERVAL_MS)

    def _show_view(self) -> None:
        """Open the tab of the view and show the view in it."""
        view = self.state.view
        title = self._title_of(view)
        if title != self._open_page:
            self.pages[self._open_page].hide()
            self._open_page = title
        self.tabs.active = self._titles.index(title)
        if not self.workspace.runs:
            self.pages[TRAIN].show(view)
            return
        try:
            self.about.object = _chips(self.workspace.about(view))
        except UserError:
            self.about.object = ""
        self.pages[title].show(view)

    def _show_notice(self) -> None:
        self.notice.object = html.escape(self.state.notice)
        self.notice.visible = bool(self.state.notice)

    def _set_theme(self, *, dark: bool) -> None:
        def change() -> None:
            self.state.dark = dark

        self.lifecycle.after_load(change)

    def _title_of(self, view: ViewState) -> str:
        return view.tab or self._group_of[view.analysis]

    def _open(self, title: str) -> None:
        """Open a tab that a person has chosen."""
        names = analysis.groups().get(title)
        if names is None:
            self.state.open_tab(title)
        else:
            self.state.open_group(tuple(names))

    def _analysis(self, name: str) -> AnalysisTab:
        return AnalysisTab(name, self.state, self.workspace, self.compute)

    def _group(self, names: tuple[str, ...]) -> TabPage:
        return AnalysisGroup(names, self.state, self.analyses)

    def _overview(self) -> TabPage:
        return Overview(self.state, self.workspace, self.compute)

    def _table(self) -> TabPage:
        return RunsPage(self.state, self.workspace)

    def _explore(self, tab: str) -> TabPage:
        return ExploreTab(tab, self.state, self.workspace, self.compute)

    def _live(self) -> TabPage:
        return LiveTab(self.state, self.workspace, self.lifecycle)

    def _train(self) -> TabPage:
        return TrainTab(self.state, self.workspace, self.lifecycle, self.trainings, self.settings)

    def _sidebar(self) -> list[pn.viewable.Viewable]:
        if not self.workspace.runs:
            return []
        parts = [
            *self.primary_run.parts,
            pn.pane.HTML(SIDEBAR_NOTE, styles={"opacity": "0.8"}),
            self.runs.body,
            self.reports.body,
            self.saved_views.body,
            self.refused,
        ]
        # In a column: placed in the page itself, a table is drawn twice and forgets its selected
        # rows.
        return [pmui.Column(*parts, sizing_mode="stretch_width")]

    def _refused(self) -> list[pmui.Alert]:
        return [
            pmui.Alert(html.escape(reason), severity="error") for reason in self.workspace.refused
        ]

    def _main(self) -> list[pn.viewable.Viewable]:
        if not self.workspace.runs:
            guide = pn.pane.HTML(render_text(GUIDE, folder=self.workspace.folder))
            return [guide, *self._refused(), self.pages.frames[TRAIN]]
        return [self.about, self.tabs]


def _chips(text: str) -> str:
    """Return a text as HTML, with a frame around each of its parts; copied, it is the same text."""
    return render_text(CHIPS, parts=text.split(DOT), style=CHIP_STYLE, dot=DOT)
