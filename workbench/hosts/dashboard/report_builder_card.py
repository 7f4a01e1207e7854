"""The views collected for a report, and the button that writes the report."""

import html
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from urllib.parse import quote

import panel as pn
import panel_material_ui as pmui

from workbench.core.glossary import tooltip
from workbench.core.html_templates import render_text
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.hosts.dashboard.state import DashboardState
from workbench.hosts.dashboard.widgets import linked_row, text_area, text_line
from workbench.hosts.reports import write_views_report
from workbench.hosts.reports.from_views import view_title
from workbench.workspace.compute import ComputeJob
from workbench.workspace.compute_worker import ReportRequest
from workbench.workspace.view_state import ViewState

Action = Callable[[], None]
REPORTS_FOLDER = "reports"  # in the folder of runs, and in the dashboard's address
WRITTEN = (
    'Report written: <a href="{{ address }}" target="_blank" style="color: inherit">'
    "{{ path.name }}</a>, in {{ path.parent }}"
)


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


class ReportEntry:
    """A view of the report, and the note above it.

    Parameters
    ----------
    view : ViewState
        The view that the report shows.
    remove, move_up : callable
        What the buttons of its row do.
    """

    def __init__(self, view: ViewState, remove: Action, move_up: Action) -> None:
        self.view = view
        name = view_title(view)
        row = linked_row(name, f"?{view.to_query()}", f"remove: {name}", remove)
        up = pmui.Button(
            label="↑", variant="text", size="small", width=36, margin=0, description=f"up: {name}"
        )
        up.on_click(lambda _: move_up())
        row.insert(1, up)
        self.note = text_area("Note", tooltip("note of a view"))
        self.body = pn.Column(row, self.note, sizing_mode="stretch_width", margin=0)


class ReportBuilderCard:
    """The views of a report in the sidebar, with the text of its author, and the button to write.

    Parameters
    ----------
    state : DashboardState
        The state of the page.
    folder : Path
        The folder of runs.
    compute : ComputeClient
        Writes the report.
    """

    def __init__(self, state: DashboardState, folder: Path, compute: ComputeClient) -> None:
        self.state = state
        self.folder = folder
        self.compute = compute
        self.entries: list[ReportEntry] = []
        self.add_button = pmui.Button(label="add to report (r)", variant="outlined", size="small")
        self.write_button = pmui.Button(
            label="Write report", variant="contained", size="small", visible=False
        )
        self.add_button.on_click(lambda _: self.add())
        self.write_button.on_click(lambda _: self._write())
        self.title = text_line("Title", tooltip("title of a report"))
        self.author = text_line("Author", tooltip("author of a report"))
        self.conclusion = text_area("Conclusion", tooltip("conclusion of a report"))
        self.list = pn.Column(sizing_mode="stretch_width", margin=0)
        self.message = pn.pane.HTML("")
        row = pn.FlexBox(self.add_button, self.write_button, gap="8px")
        self.body = pn.Column(row, self.list, self.message, sizing_mode="stretch_width", margin=0)

    @property
    def views(self) -> list[ViewState]:
        """The views in their order."""
        return [entry.view for entry in self.entries]

    def add(self) -> None:
        """Add the current view, unless it is in the list."""
        view = self.state.view
        if view.tab == "train":
            self.message.object = "The form of the tab Train cannot be part of a report."
            return
        if view not in self.views:
            remove, move_up = (lambda: self.remove(view)), (lambda: self.move_up(view))
            self.entries.append(ReportEntry(view, remove, move_up))
            self._draw()

    def remove(self, view: ViewState) -> None:
        """Remove a view from the list."""
        self.entries = [entry for entry in self.entries if entry.view != view]
        self._draw()

    def move_up(self, view: ViewState) -> None:
        """Move a view before the one above it."""
        position = self.views.index(view)
        if position:
            self.entries.insert(position - 1, self.entries.pop(position))
            self._draw()

    def request(self) -> ReportRequest:
        """Return the report as it is written now."""
        return ReportRequest(
            views=tuple(self.views),
            notes=tuple(str(entry.note.value or "") for entry in self.entries),
            title=str(self.title.value or ""),
            author=str(self.author.value or ""),
            conclusion=str(self.conclusion.value or ""),
        )

    def _draw(self) -> None:
        bodies = [entry.body for entry in self.entries]
        text = [self.title, self.author, *bodies, self.conclusion]
        self.list.objects = text if bodies else []
        self.write_button.visible = bool(bodies)
        self.message.object = ""

    def _write(self) -> None:
        request = self.request()
        self.write_button.loading = True
        self.message.object = "Writing the report …"
        job = self.compute.submit(
            ("report", time.monotonic_ns()),
            request,
            lambda: write_views_report(self.folder, request),
        )
        self.compute.when_done(job, lambda: self._finish(job))

    def _finish(self, job: ComputeJob) -> None:
        try:
            path: Path = job.future.result()
            address = f"{REPORTS_FOLDER}/{quote(path.name)}"  # a proxy may add a prefix
            self.message.object = render_text(WRITTEN, address=address, path=path)
        except CancelledError:
            self.message.object = "Stopped: no report was written."
        except Exception as error:  # the worker's log has the traceback
            self.message.object = html.escape(str(error))
        finally:
            self.write_button.loading = False
