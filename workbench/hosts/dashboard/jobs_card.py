"""The computations of this visitor: their progress, and a button that cancels them."""

from collections.abc import Callable

import panel as pn
import panel_material_ui as pmui

from workbench.core.html_templates import render_text
from workbench.hosts.dashboard.compute_client import ComputeClient
from workbench.workspace.compute import ComputeJob

POLL_INTERVAL_MS = 250
CORNER = {
    "position": "fixed",
    "bottom": "16px",
    "right": "16px",
    "z-index": "1200",
    "max-width": "calc(100vw - 32px)",
}
TITLE = "<b>{{ name }}</b> of {{ subject }}"


class JobsCard:
    """A card in the corner of the page, visible while something is being computed."""

    def __init__(self, compute: ComputeClient) -> None:
        self.compute = compute
        self.rows: dict[ComputeJob, JobRow] = {}
        self.body = pmui.Paper(elevation=6, visible=False, width=380, styles=CORNER, margin=0)
        self._timer: pn.io.PeriodicCallback | None = None
        compute.on_wait(self.watch)

    def watch(self) -> None:
        """Show the jobs from now on, until none is left."""
        self.refresh()
        if self._timer is None and pn.state.curdoc is not None and self.rows:
            self._timer = pn.state.add_periodic_callback(self.refresh, POLL_INTERVAL_MS)

    def refresh(self) -> None:
        """Show the jobs that this visitor waits for."""
        jobs = self.compute.pending()
        if jobs != list(self.rows):
            self.rows = {job: self.rows.get(job) or self._row(job) for job in jobs}
            self.body.objects = [row.body for row in self.rows.values()]
        for row in self.rows.values():
            row.refresh()
        self.body.visible = bool(jobs)
        if not jobs:
            self.hide()

    def hide(self) -> None:
        """Stop the timer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()

    def _row(self, job: ComputeJob) -> "JobRow":
        return JobRow(job, lambda: self._cancel(job))

    def _cancel(self, job: ComputeJob) -> None:
        self.compute.release(job)
        self.refresh()


class JobRow:
    """One job: its name, a progress bar, the remaining time and a button."""

    def __init__(self, job: ComputeJob, cancel: Callable[[], None]) -> None:
        self.job = job
        title = render_text(TITLE, name=job.name.capitalize(), subject=job.subject)
        self.status = pn.pane.HTML("", margin=(0, 10))
        self.bar = pmui.LinearProgress(
            value=0, variant="indeterminate", sizing_mode="stretch_width", margin=(4, 10)
        )
        button = pmui.Button(label="cancel", variant="outlined", size="small", width=80)
        button.on_click(lambda _: cancel())
        header = pn.Row(
            pn.pane.HTML(title, sizing_mode="stretch_width", margin=(8, 10, 0, 10)), button
        )
        self.body = pn.Column(
            header, self.bar, self.status, sizing_mode="stretch_width", margin=(0, 0, 8, 0)
        )

    def refresh(self) -> None:
        """Show the progress of the job."""
        fraction = self.job.fraction if self.job.is_running else None
        self.status.object = self.job.status_text()
        self.bar.param.update(
            value=round(100 * (fraction or 0)),
            variant="indeterminate" if fraction is None else "determinate",
        )
