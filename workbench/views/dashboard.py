"""The dashboard: a list of runs and a tab for every analysis, over one folder. Reads files; needs no torch.

One `Session` a browser tab. What it shows is a ViewState; the address bar always holds it, so a link is a view.
"""

import html
import math
from pathlib import Path
from typing import Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from workbench import analysis
from workbench.analysis.style import TOOLBAR, themed
from workbench.errors import NotApplicable, UserError
from workbench.views.bench import Bench
from workbench.views.controls import Control, controls
from workbench.views.live_dashboard import Live
from workbench.views.state import ViewState

GUIDE = """No runs in `{folder}` yet. Train one, and reload this page:

    workbench train softvq-digits --out {folder}/first
"""


LIVE = "&tab=live"  # in the address: the Live tab has no analysis


def serve(folder: str | Path, *, port: int = 8765, address: str = "127.0.0.1", show: bool = True) -> None:
    """Serve the dashboard of a folder of runs until interrupted. Raises RunError if the folder does not exist."""
    import socket

    Bench(folder)  # refuse a wrong folder before a server starts
    if port:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                raise UserError(f"port {port} is in use; give another with --port, or 0 for a free one.")
    pn.extension("plotly", "tabulator", notifications=True)
    pn.config.nthreads = 4
    pn.serve({"/": lambda: Session(folder).page()}, port=port, address=address, show=show, title="workbench")


class Session:
    """One visitor's view: the state, and the widgets that show and change it."""

    def __init__(self, folder: str | Path) -> None:
        self.bench, self.dark = Bench(folder), False
        self.notice = pmui.Alert("", severity="warning", visible=False)
        self.state = self._asked_for()
        self.runs = self._run_list()
        self.tabs = {name: Tab(self, name) for name in analysis.analyses()}
        self.live = Live()
        self.groups = {group: Group(self, names) for group, names in analysis.groups().items()}
        titles = list(self.groups)
        self.pages = pmui.Tabs(
            *((title.capitalize(), group.body) for title, group in self.groups.items()),
            ("Live", self.live.body),
            active=len(titles) if self.at_live else titles.index(self._group_of(self.state.analysis)),
            dynamic=False,
        )
        self.pages.param.watch(lambda _: self._turned(titles), "active")

    def page(self) -> pn.viewable.Viewable:
        """The whole page."""
        page = pmui.Page(
            title="workbench", sidebar=self._sidebar(), sidebar_width=550, main=[self.notice, self._main()]
        )
        self.dark = page.dark_theme
        page.param.watch(lambda event: self._repaint(event.new), "dark_theme")
        pn.state.onload(lambda: self.go())
        return page

    def go(self, **changes: Any) -> None:
        """Change the state, put it into the address bar, and show the tab it names."""
        self.state = self.state.change(**changes)
        if pn.state.location is not None:
            pn.state.location.search = "?" + self.state.to_query() + LIVE * self.at_live
        if self.at_live and self.state.runs:
            self.live.show(self.bench.run(self.state.runs[0]), dark=self.dark)
        elif self.bench.runs:
            self.tabs[self.state.analysis].show(self.state)

    def _turned(self, titles: list[str]) -> None:
        self.at_live = self.pages.active == len(titles)
        if self.at_live:
            self.go()
        else:
            self.live.hide()
            self.go(analysis=self.groups[titles[self.pages.active]].active)

    def _group_of(self, name: str) -> str:
        return next(group for group, names in analysis.groups().items() if name in names)

    def _repaint(self, dark: bool) -> None:
        self.dark = dark
        self.live.paint(dark=dark)
        for tab in self.tabs.values():
            tab.paint()

    def _asked_for(self) -> ViewState:
        """The view of the address bar, or a first look."""
        first = self.bench.first_look()
        query = pn.state.location.search or "" if pn.state.location is not None else ""
        self.at_live, query = LIVE in query, query.replace(LIVE, "")
        try:
            asked = ViewState.from_query(query)
            for name in asked.runs:
                self.bench.run(name)
            return asked if asked.runs else asked.change(runs=first.runs)
        except UserError as error:
            self._say(f"This link could not be followed: {error}")
            return first

    def _say(self, text: str) -> None:
        self.notice.object, self.notice.visible = html.escape(text), True

    def _run_list(self) -> pn.widgets.Tabulator:
        table = self.bench.table()
        shown = table[["run", "kind", "tokens", "state"]].copy()
        shown["PSNR (dB)"] = ["" if math.isnan(psnr) else f"{psnr:.1f}" for psnr in table["PSNR (dB)"]]
        chosen = [i for i, name in enumerate(table["run"]) if name in self.state.runs]
        runs = pn.widgets.Tabulator(
            shown,
            selection=chosen,
            selectable="checkbox",
            show_index=False,
            disabled=True,
            layout="fit_data_table",
            max_height=600,
            sizing_mode="stretch_width",
        )
        runs.param.watch(lambda event: self._select(table, event.new), "selection")
        return runs

    def _select(self, table: pd.DataFrame, rows: list[int]) -> None:
        """The run that was leading stays so while it is selected; the sliders and menus keep their values."""
        names = [table["run"][row] for row in rows]
        kept = [name for name in self.state.runs if name in names]
        self.go(runs=tuple(kept + [name for name in names if name not in kept]))

    def _lead(self, name: str) -> None:
        self.go(runs=(name, *(other for other in self.state.runs if other != name)))

    def _sidebar(self) -> list[Any]:
        if not self.bench.runs:
            return []
        leading = pmui.Select(label="leading run", options=list(self.bench.runs), value=self.state.runs[0])
        leading.param.watch(lambda event: self._lead(event.new), "value")
        note = pn.pane.Markdown(
            "The leading run fills every tab; the others join it in *Token budget*.", styles={"opacity": "0.8"}
        )
        refused = [pmui.Alert(html.escape(sentence), severity="error") for sentence in self.bench.refused]
        # In a column: placed in the page itself, a table is drawn twice and forgets which rows are selected.
        return [pmui.Column(leading, note, self.runs, *refused, sizing_mode="stretch_width")]

    def _main(self) -> pn.viewable.Viewable:
        if not self.bench.runs:
            return pn.pane.Markdown(GUIDE.format(folder=self.bench.folder))
        return self.pages


class Group:
    """The analyses of one group, a tab each; the group's own tab shows the one that was looked at last."""

    def __init__(self, session: Session, names: tuple[str, ...]) -> None:
        self.names, self.body = names, session.tabs[names[0]].body
        if len(names) == 1:
            return
        tabs = [(_title(name), session.tabs[name].body) for name in names]
        chosen = names.index(session.state.analysis) if session.state.analysis in names else 0
        self.body = pmui.Tabs(*tabs, active=chosen, dynamic=False, color="secondary")
        self.body.param.watch(lambda event: session.go(analysis=names[event.new]), "active")

    @property
    def active(self) -> str:
        """The analysis that is shown."""
        return self.names[self.body.active] if len(self.names) > 1 else self.names[0]


class Tab:
    """One analysis: its controls in a row, its figure, what it says, and its numbers."""

    def __init__(self, session: Session, name: str) -> None:
        self.session, self.name = session, name
        told = session.state.controls if session.state.analysis == name else {}
        self.widgets = {c.name: _widget(c, told.get(c.name, c.default)) for c in controls(analysis.get(name))}
        for widget in self.widgets.values():
            widget.param.watch(self._changed, "value_throttled" if hasattr(widget, "value_throttled") else "value")
        self.figure = pn.pane.Plotly(None, config=TOOLBAR, sizing_mode="stretch_width")
        self.summary = pn.pane.Markdown("", sizing_mode="stretch_width")
        self.table = pn.widgets.Tabulator(
            pd.DataFrame(), disabled=True, show_index=False, pagination="remote", page_size=15, layout="fit_data_table"
        )
        self.sentence = pmui.Alert("", severity="info", visible=False)
        self.result = pn.Column(
            self.summary, self.figure, pmui.Accordion(("table", self.table)), sizing_mode="stretch_width"
        )
        row = pn.FlexBox(*self.widgets.values(), gap="16px")
        self.body = pn.Column(row, self.sentence, self.result, sizing_mode="stretch_width", min_height=500)
        self.shown: ViewState | None = None

    def values(self) -> dict[str, Any]:
        """The controls as they stand."""
        return {name: widget.value for name, widget in self.widgets.items()}

    def show(self, state: ViewState) -> None:
        """Compute what the state asks for, and show it, or the sentence that says why not."""
        state = state.change(controls=self.values())
        if state == self.shown:
            return
        self.body.loading = True
        if self.shown is None:  # nothing to look at meanwhile
            self._say(
                f"Computing {self.name.replace('_', ' ')} of {state.runs[0] if state.runs else 'no run'} …", "info"
            )
        try:
            result = self.session.bench.result(state)
            self.summary.object, self.table.value = html.escape(result.summary()), result.table()
            self.result.visible, self.sentence.visible = True, False
            self.shown = state
            self.paint()
        except UserError as error:
            self._say(str(error), "info" if isinstance(error, NotApplicable) else "warning")
        except Exception as error:
            self._say(f"{self.name} failed: {type(error).__name__}: {error}. The server's log says where.", "error")
            raise
        finally:
            self.body.loading = False

    def paint(self) -> None:
        """Draw the figure of what is shown, in the page's light or dark."""
        if self.shown is not None:
            figure = themed(self.session.bench.result(self.shown).figure(), dark=self.session.dark)
            self.figure.param.update(object=figure, height=int(figure.layout.height or 480))

    def _say(self, sentence: str, kind: str) -> None:
        self.sentence.severity, self.sentence.object = kind, html.escape(sentence)
        self.result.visible, self.sentence.visible = False, True

    def _changed(self, event: Any) -> None:
        self.session.go(analysis=self.name, controls=self.values())


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _widget(control: Control, value: Any) -> pn.widgets.Widget:
    if control.kind == "flag":
        return pmui.Checkbox(label=control.label, value=value)
    if control.kind == "choice":
        return pmui.Select(label=control.label, options=list(control.choices), value=value, width=160)
    slider, kind = (pmui.IntSlider, int) if control.kind == "integer" else (pmui.FloatSlider, float)
    bounds = {"start": kind(control.low), "end": kind(control.high), "step": kind(control.step)}
    return slider(label=control.label, value=value, width=220, **bounds)
