"""The views collected for a report, and the button that writes the report."""

import html
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import quote

import panel as pn
import panel_material_ui as pmui

from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.reports.from_views import view_title
from workbench.hosts.reports.report import report
from workbench.workspace.compute import ComputeJob
from workbench.workspace.view_state import ViewState

REPORTS_FOLDER = "reports"  # in the folder of runs, and in the dashboard's address


def report_pages(folder: str | Path) -> tuple[str, Any, dict[str, str]]:
    """Return the tornado route of the reports in a folder of runs.

    A report may come from anywhere: its scripts run in a sandbox and cannot access the dashboard.
    """
    from tornado.web import HTTPError, StaticFileHandler

    class SandboxedFileHandler(StaticFileHandler):
        def set_extra_headers(self, path: str) -> None:
            self.set_header(
                "Content-Security-Policy", "sandbox allow-scripts allow-downloads allow-popups"
            )

        def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
            if "\0" in absolute_path:  # no file has such a name, and the system would complain
                raise HTTPError(404)
            return super().validate_absolute_path(root, absolute_path)

    path = str(Path(folder).resolve() / REPORTS_FOLDER)
    return rf"/{REPORTS_FOLDER}/(.*\.html)", SandboxedFileHandler, {"path": path}


class ReportBuilderCard:
    """A list of views in the sidebar, and a button that writes them as a report."""

    def __init__(self, state: DashboardState, folder: Path, compute: ComputeClient) -> None:
        self.state = state
        self.folder = folder
        self.compute = compute
        self.views: list[ViewState] = []
        self.add_button = pmui.Button(label="add to report (r)", variant="outlined", size="small")
        self.write_button = pmui.Button(
            label="Write report", variant="contained", size="small", visible=False
        )
        self.add_button.on_click(lambda _: self.add())
        self.write_button.on_click(lambda _: self._write())
        self.list = pn.Column(sizing_mode="stretch_width", margin=0)
        self.message = pn.pane.HTML("")
        row = pn.FlexBox(self.add_button, self.write_button, gap="8px")
        self.body = pn.Column(row, self.list, self.message, sizing_mode="stretch_width", margin=0)

    def add(self) -> None:
        """Add the current view, unless it is in the list."""
        if self.state.view.tab == "train":
            self.message.object = "The form of the tab Train cannot be part of a report."
            return
        if self.state.view not in self.views:
            self.views.append(self.state.view)
            self._draw()

    def remove(self, view: ViewState) -> None:
        """Remove a view from the list."""
        self.views.remove(view)
        self._draw()

    def _draw(self) -> None:
        self.list.objects = [self._row(view) for view in self.views]
        self.write_button.visible = bool(self.views)
        self.message.object = ""

    def _row(self, view: ViewState) -> pn.Row:
        name = html.escape(view_title(view))
        address = f"?{html.escape(view.to_query())}"
        return linked_row(name, address, f"remove: {name}", lambda: self.remove(view))

    def _write(self) -> None:
        views = tuple(self.views)
        self.write_button.loading = True
        self.message.object = "Writing the report …"
        job = self.compute.submit(
            ("report", time.monotonic_ns()),
            views,
            lambda: report("views", folder=self.folder, views=views),
        )
        self.compute.when_done(job, lambda: self._finish(job))

    def _finish(self, job: ComputeJob) -> None:
        try:
            path: Path = job.future.result()
            address = f"/{REPORTS_FOLDER}/{quote(path.name)}"
            name = html.escape(path.name)
            link = f'<a href="{address}" target="_blank" style="color: inherit">{name}</a>'
            self.message.object = f"Report written: {link}, in {html.escape(str(path.parent))}"
        except CancelledError:
            self.message.object = "Stopped: no report was written."
        except Exception as error:  # the worker's log has the traceback
            self.message.object = html.escape(str(error))
        finally:
            self.write_button.loading = False


def linked_row(name: str, address: str, description: str, remove: Any) -> pn.Row:
    """Return a link with a button that removes it; name and address are escaped HTML."""
    button = pmui.Button(
        label="×", variant="text", size="small", width=36, margin=0, description=description
    )
    button.on_click(lambda _: remove())
    link = pn.pane.HTML(
        f'<a href="{address}" style="color: inherit">{name}</a>', sizing_mode="stretch_width"
    )
    return pn.Row(button, link, margin=0, sizing_mode="stretch_width")
