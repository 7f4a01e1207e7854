"""In a notebook: what takes long is computed in a thread beside the cells; words say how far, a button stops it.

Widgets' callbacks are answered one after another, so one that computes by itself would keep the button from acting.
"""

import html
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from workbench.core.errors import UserError
from workbench.core.progress import Cancelled, progress_listener
from workbench.workspace.compute import ComputeJob
from workbench.workspace.view_state import ViewState

QUICK = 0.4  # seconds that are waited for without a word
PERIOD = 0.3  # seconds between two things said


class BackgroundTask:
    """The line and the button; one computation at a time, a new one stops the one before."""

    def __init__(self) -> None:
        self.said = widgets.HTML()
        self.cancel = widgets.Button(
            description="cancel", layout={"display": "none", "width": "auto"}
        )
        self.cancel.on_click(lambda _: self.stop())
        self.body = widgets.HBox(
            [self.said, self.cancel], layout={"align_items": "center", "grid_gap": "4px 12px"}
        )
        self._turn = threading.Lock()  # who says something last is who ended it
        self._job: ComputeJob | None = None
        self._thread: threading.Thread | None = None
        self._cell_waits = False  # then the button would only be heard when that has ended

    def compute(self, what: str, make: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Begin to `make`, then `show` it; returns when that is done, or a moment has passed."""
        self.stop()
        self._job = job = ComputeJob(None, ViewState())
        job.begin()
        self.said.value = f"<em>{html.escape(what)} …</em>"
        self._thread = threading.Thread(target=self._run, args=(job, make, show), daemon=True)
        self._thread.start()
        self._thread.join(QUICK)
        if self._thread.is_alive():
            threading.Thread(target=self._tell, args=(job, what), daemon=True).start()

    def wait(self) -> bool:
        """Until all is there, or was stopped, as by an interrupt; whether all is there."""
        job, self._cell_waits = self._job, True
        try:
            while job is not None and not job.future.done():
                self._thread.join(PERIOD / 3)
        except KeyboardInterrupt:
            self.stop()
        finally:
            self._cell_waits = False
        return job is None or not job.future.cancelled()

    def stop(self) -> None:
        """What is being computed is no longer waited for: it ends with the part it is at."""
        with self._turn:
            if self._job is not None and self._job.future.cancel():
                self._end("<em>stopped</em>")

    def _run(self, job: ComputeJob, make: Callable[[], Any], show: Callable[[Any], None]) -> None:
        said = ""

        def heard(done: int, total: int) -> None:
            job.tell(done, total)
            if job.future.cancelled():
                raise Cancelled("This was stopped.")

        try:
            with progress_listener(heard):
                found = make()
            if job is self._job and not job.future.cancelled():
                show(found)
        except UserError as error:
            said = f"<p><em>{html.escape(str(error))}</em></p>"
        except Exception as error:
            said = f"<p><em>failed: {html.escape(f'{type(error).__name__}: {error}')}</em></p>"
            raise
        finally:
            with self._turn:
                if job is self._job and not job.future.cancelled():
                    job.future.set_result(None)
                    self._end(said)

    def _tell(self, job: ComputeJob, what: str) -> None:
        while True:
            with self._turn:
                if job.future.done():
                    return
                self.cancel.layout.display = "none" if self._cell_waits else ""
                how = "; interrupt the cell (■) to stop it" if self._cell_waits else ""
                self.said.value = f"<em>{html.escape(what)} … {html.escape(job.said())}{how}</em>"
            time.sleep(PERIOD)

    def _end(self, said: str) -> None:
        self.said.value, self.cancel.layout.display = said, "none"
