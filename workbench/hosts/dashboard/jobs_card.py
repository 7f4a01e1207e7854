"""In the dashboard: what is being computed for this visitor, how far it is, and a button to stop it."""

import html
from collections.abc import Hashable
from typing import Any

import panel as pn
import panel_material_ui as pmui

from workbench.workspace.compute import ComputeJob, ComputeQueue

PERIOD = 250  # milliseconds between looks, while there is something to look at
PLACE = {"position": "fixed", "bottom": "16px", "right": "16px", "z-index": "1200"}


class JobsCard:
    """A card in the corner of the page, there while something is being computed."""

    def __init__(self, jobs: ComputeQueue | None, who: Hashable) -> None:
        self.jobs, self.who, self.rows = jobs, who, {}
        self.body = pmui.Paper(elevation=6, visible=False, width=380, styles=PLACE, margin=0)
        self._timer: Any = None

    def watch(self) -> None:
        """Look from now on, until nothing is left."""
        self.look()
        if self._timer is None and pn.state.curdoc is not None and self.rows:
            self._timer = pn.state.add_periodic_callback(self.look, PERIOD)

    def look(self) -> None:
        """Show what there is to wait for."""
        jobs = [] if self.jobs is None else self.jobs.of(self.who)
        if jobs != list(self.rows):
            self.rows = {
                job: self.rows.get(job) or Row(job, lambda job=job: self.stop(job)) for job in jobs
            }
            self.body.objects = [row.body for row in self.rows.values()]
        for row in self.rows.values():
            row.look()
        self.body.visible = bool(jobs)
        if not jobs:
            self.hide()

    def stop(self, job: ComputeJob) -> None:
        """Wait for a job no longer; it ends where nobody else does."""
        self.jobs.leave(job, self.who)
        self.look()

    def hide(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()


class Row:
    """One job: what it is, a bar, how long it will be, a button."""

    def __init__(self, job: ComputeJob, stop: Any) -> None:
        self.job = job
        name = f"<b>{html.escape(job.name.capitalize())}</b> of {html.escape(job.of)}"
        self.said = pn.pane.HTML("", margin=(0, 10))
        self.bar = pmui.LinearProgress(
            value=0, variant="indeterminate", sizing_mode="stretch_width", margin=(4, 10)
        )
        button = pmui.Button(label="cancel", variant="outlined", size="small", width=80)
        button.on_click(lambda _: stop())
        top = pn.Row(pn.pane.HTML(name, sizing_mode="stretch_width", margin=(8, 10, 0, 10)), button)
        self.body = pn.Column(
            top, self.bar, self.said, sizing_mode="stretch_width", margin=(0, 0, 8, 0)
        )

    def look(self) -> None:
        """How far it is."""
        share = self.job.share if self.job.running else None
        self.said.object = self.job.said()
        self.bar.param.update(
            value=round(100 * (share or 0)),
            variant="indeterminate" if share is None else "determinate",
        )
