"""The content of a tab: while it is being computed, once it is there, or why it is missing."""

from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, wait
from typing import Any

import panel as pn
import panel_material_ui as pmui
from markupsafe import Markup

from workbench.analysis import analyses
from workbench.core.errors import NotApplicable, UserError
from workbench.core.html_templates import marked, render_text
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.workspace.compute import ComputeJob
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

MESSAGE_STYLES = {"info": ("ℹ", "#0072b2"), "warning": ("⚠", "#d55e00"), "error": ("✖", "#d55e00")}
SHOW_MESSAGE_AFTER_S = 0.1  # the server waits that long for a result before it shows a message
MESSAGE = (
    '<div role="status" style="{{ style }}"><span aria-label="{{ kind }}" '
    'style="color: {{ color }}">{{ symbol }}</span>&ensp;{{ text }}</div>'
)


class AsyncResult:
    """The result of one tab, computed after the page has loaded and drawn when it is there.

    Parameters
    ----------
    name : str
        What is computed: the name of an analysis or of a tab.
    content : pn.Column
        The part of the page that shows the result; hidden while there is none.
    draw : callable
        Shows a result in `content`.
    workspace, compute
        The folder of runs and this visitor's access to the compute queue.
    key : callable, optional
        What the result of a view depends on; by default that of an analysis.
    compute_view : callable, optional
        Computes the result of a view; by default an analysis.
    """

    def __init__(
        self,
        name: str,
        content: pn.Column,
        draw: Callable[[Any], None],
        workspace: Workspace,
        compute: ComputeClient,
        *,
        key: Callable[[ViewState], Hashable] | None = None,
        compute_view: Callable[[ViewState], Any] | None = None,
    ) -> None:
        self.name = name
        self.content = content
        self.draw = draw
        self.workspace = workspace
        self.compute = compute
        self.key_of = key or workspace.key
        self.compute_view = compute_view or workspace.result
        # Empty without a message: a pane that becomes visible while the page builds it is an error.
        self.message = pn.pane.HTML("", margin=0)
        self.retry = pmui.Button(label="compute", variant="outlined", size="small", visible=False)
        self.retry.on_click(lambda _: self.show(self.view))
        content.visible = False
        self.body = pn.Column(self.message, self.retry, content, sizing_mode="stretch_width")
        self.view = ViewState()
        self.key: Hashable = None  # of the result that is shown or being computed
        self.job: ComputeJob | None = None
        self.result: Any = None

    def show(self, view: ViewState) -> None:
        """Show the result of a view, unless it is shown or being computed already."""
        self.view = view
        # Nothing is computed for a page that only requested the document.
        self.compute.lifecycle.after_load(self._request)

    def _request(self) -> None:
        view = self.view
        try:
            key = self.key_of(view)
        except UserError as error:
            self._release()
            self._show_error(error)
            return
        if key == self.key:
            return
        self._release()
        self.key = key
        self._wait(self.compute.submit(key, view, lambda: self.compute_view(view)), view)

    def _wait(self, job: ComputeJob, view: ViewState) -> None:
        self.job = job
        if wait([job.future], SHOW_MESSAGE_AFTER_S).done:
            self._finish(job)
            return
        name = self.name.replace("_", " ")
        self._show_message(f"Computing {name} of {view.runs[0]} …", hide=self.result is None)
        self.content.loading = True
        self.compute.when_done(job, lambda: self._finish(job))

    def _finish(self, job: ComputeJob) -> None:
        if job is not self.job:  # another result has been requested since
            return
        self.job = None
        self.content.loading = False
        try:
            self.result = job.future.result()
            self.draw(self.result)
            self.content.visible = True
            self.message.object = ""
            self.retry.visible = False
        except CancelledError:
            self.key = None
            self._show_message("The computation was stopped before it was finished.")
            self.retry.visible = True
        except UserError as error:
            self._show_error(error)
        except Exception as error:
            self.key = None
            self._show_message(
                f"{self.name} failed: {error}. The server's log contains the traceback.", "error"
            )

    def _release(self) -> None:
        """Stop waiting for the result that was requested before."""
        job, self.job = self.job, None
        if job is not None:
            self.compute.release(job)
            self.content.loading = False

    def _show_error(self, error: UserError) -> None:
        self.key = None
        if not isinstance(error, NotApplicable):
            self._show_message(str(error), "warning")
            return
        primary = self.view.runs[0] if self.view.runs else ""
        is_analysis = self.name in analyses()
        other = self.workspace.applicable(self.name, primary) if is_analysis else None
        advice = f" It applies to {other}; make that the primary run." if other else ""
        self._show_message(f"{error}{advice}")

    def _show_message(self, text: str, kind: str = "info", *, hide: bool = True) -> None:
        symbol, color = MESSAGE_STYLES[kind]
        style = (
            f"border: 1px solid {color}; border-left-width: 4px; border-radius: 4px; "
            "padding: 10px 16px; margin: 5px 10px"
        )
        self.message.object = render_text(
            MESSAGE, style=style, kind=kind, color=color, symbol=symbol, text=Markup(marked(text))
        )
        self.retry.visible = False
        if hide:
            self.result = None
            self.content.visible = False
