"""In the dashboard: the views that were put aside for a report, and the report they become."""

import html
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import panel as pn
import panel_material_ui as pmui

from workbench.hosts.reports.from_views import named
from workbench.hosts.reports.report import report
from workbench.workspace.view_state import ViewState

if TYPE_CHECKING:
    from workbench.hosts.dashboard.app import Session

REPORTS = "reports"  # in the folder of runs, and in the dashboard's address


def pages_of(folder: str | Path) -> tuple[str, Any, dict[str, str]]:
    """Where a server finds the reports of a folder of runs, there or not yet, as tornado takes it.

    They may come from anywhere: their scripts run as those of a stranger's page would, and reach nothing of ours.
    """
    from tornado.web import StaticFileHandler

    class Sandboxed(StaticFileHandler):
        def set_extra_headers(self, path: str) -> None:
            self.set_header(
                "Content-Security-Policy", "sandbox allow-scripts allow-downloads allow-popups"
            )

    return rf"/{REPORTS}/(.*\.html)", Sandboxed, {"path": str(Path(folder).resolve() / REPORTS)}


class ReportBuilderCard:
    """A list of views in the sidebar, and a button that has the session's jobs write them."""

    def __init__(self, session: "Session") -> None:
        self.session = session
        self.views: list[ViewState] = []
        self.put = pmui.Button(label="add to report (r)", variant="outlined", size="small")
        self.write = pmui.Button(
            label="Write report", variant="contained", size="small", visible=False
        )
        self.put.on_click(lambda _: self.add(session.state))
        self.write.on_click(lambda _: self._write())
        self.list, self.said = pn.Column(sizing_mode="stretch_width", margin=0), pn.pane.HTML("")
        row = pn.FlexBox(self.put, self.write, gap="8px")
        self.body = pn.Column(row, self.list, self.said, sizing_mode="stretch_width", margin=0)

    def add(self, state: ViewState) -> None:
        """Put a view in, once."""
        if state not in self.views:
            self.views.append(state)
            self._draw()

    def drop(self, state: ViewState) -> None:
        """Take a view out."""
        self.views.remove(state)
        self._draw()

    def _draw(self) -> None:
        self.list.objects = [self._row(state) for state in self.views]
        self.write.visible, self.said.object = bool(self.views), ""

    def _row(self, state: ViewState) -> Any:
        name = html.escape(named(state))
        out = pmui.Button(
            label="×",
            variant="text",
            size="small",
            width=36,
            margin=0,
            description=f"take out: {name}",
        )
        out.on_click(lambda _: self.drop(state))
        link = f'<a href="?{html.escape(state.to_query())}" style="color: inherit">{name}</a>'
        return pn.Row(
            out,
            pn.pane.HTML(link, sizing_mode="stretch_width"),
            margin=0,
            sizing_mode="stretch_width",
        )

    def _write(self) -> None:
        views, session = tuple(self.views), self.session
        if session.jobs is None:
            self._end(lambda: report("views", folder=session.bench.folder, views=views))
            return
        self.write.loading, self.said.object = True, "Writing the report …"
        job = session.jobs.ask(("report", time.monotonic_ns()), views, session.me)
        session.when_loaded(session.card.watch)
        job.future.add_done_callback(lambda _: session.later(lambda: self._end(job.future.result)))

    def _end(self, written: Callable[[], Path]) -> None:
        try:
            page = written()
            name = html.escape(page.name)
            link = f'<a href="/{REPORTS}/{quote(page.name)}" target="_blank" style="color: inherit">{name}</a>'
            self.said.object = f"Written: {link}, in {html.escape(str(page.parent))}"
        except CancelledError:
            self.said.object = "Stopped: no report was written."
        except Exception as error:  # the worker's log says more of what is not ours
            self.said.object = html.escape(str(error))
        finally:
            self.write.loading = False
