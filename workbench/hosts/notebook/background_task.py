"""Compute in a thread next to the cells, with a line that shows the progress and a cancel button.

JupyterLab runs the callbacks of widgets one after another: a callback that computes would keep the
button from acting.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as widgets

from workbench.core.errors import UserError
from workbench.core.html_templates import render_text
from workbench.core.progress import Cancelled, ProgressEstimate, progress_listener
from workbench.workspace.compute import progress_text

SHOW_PROGRESS_AFTER_S = 0.4
UPDATE_INTERVAL_S = 0.3
WAIT_INTERVAL_S = 0.1
STATUS = "<em>{{ text }}</em>"
MESSAGE = "<p><em>{{ text }}</em></p>"


@dataclass(eq=False)
class Computation:
    """One computation: what is computed, its progress and its end."""

    title: str
    compute: Callable[[], Any]
    show: Callable[[Any], None]
    end: Future[None] = field(default_factory=Future)
    estimate: ProgressEstimate = field(default_factory=ProgressEstimate)
    started_s: float = field(default_factory=time.monotonic)

    def progress_text(self) -> str:
        """Return the progress in words: `62 %, 14–19 s left`, or the elapsed time."""
        return progress_text(self.estimate, self.started_s)


class BackgroundTask:
    """A status line and a cancel button for one computation at a time.

    A new computation stops the one before it.
    """

    def __init__(self) -> None:
        self.status = widgets.HTML()
        self.cancel = widgets.Button(
            description="cancel", layout={"display": "none", "width": "auto"}
        )
        self.cancel.on_click(lambda _: self.stop())
        self.body = widgets.HBox(
            [self.status, self.cancel], layout={"align_items": "center", "grid_gap": "4px 12px"}
        )
        # Held while a computation ends, so that its end is the last status that it shows.
        self._lock = threading.Lock()
        self._computation: Computation | None = None
        self._cell_waits = False  # then JupyterLab runs no callback of the button

    def start(self, title: str, compute: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Begin a computation, and return when it is done or after a moment.

        Parameters
        ----------
        title : str
            What the status line shows, such as "computing latent map".
        compute : callable
            Computes in a thread and may report progress.
        show : callable
            Shows what `compute` has returned.
        """
        self.stop()
        computation = Computation(title, compute, show)
        self._computation = computation
        self.status.value = render_text(STATUS, text=f"{title} …")
        thread = threading.Thread(target=self._run, args=(computation,), daemon=True)
        thread.start()
        thread.join(SHOW_PROGRESS_AFTER_S)
        if thread.is_alive():
            threading.Thread(target=self._report, args=(computation,), daemon=True).start()

    def wait(self) -> bool:
        """Wait until the computation has ended, or stop it on an interrupt.

        Returns
        -------
        bool
            Whether it was completed.
        """
        computation = self._computation
        if computation is None:
            return True
        self._cell_waits = True
        try:
            while not computation.end.done():
                time.sleep(WAIT_INTERVAL_S)
        except KeyboardInterrupt:
            self.stop()
        finally:
            self._cell_waits = False
        return not computation.end.cancelled()

    def stop(self) -> None:
        """Cancel the computation, which ends at its next report of progress."""
        with self._lock:
            if self._computation is not None and self._computation.end.cancel():
                self._show_end(render_text(STATUS, text="stopped"))

    def _run(self, computation: Computation) -> None:
        message = ""

        def on_progress(done: int, total: int) -> None:
            computation.estimate.report(done, total)
            if computation.end.cancelled():
                raise Cancelled("The computation was stopped.")

        try:
            with progress_listener(on_progress):
                result = computation.compute()
            if computation is self._computation and not computation.end.cancelled():
                computation.show(result)
        except UserError as error:
            message = render_text(MESSAGE, text=str(error))
        except Exception as error:
            message = render_text(MESSAGE, text=f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            with self._lock:
                if computation is self._computation and not computation.end.cancelled():
                    computation.end.set_result(None)
                    self._show_end(message)

    def _report(self, computation: Computation) -> None:
        """Show the progress until the computation has ended."""
        while True:
            with self._lock:
                if computation.end.done():
                    return
                self.cancel.layout.display = "none" if self._cell_waits else ""
                advice = "; interrupt the cell (■) to stop it" if self._cell_waits else ""
                text = f"{computation.title} … {computation.progress_text()}{advice}"
                self.status.value = render_text(STATUS, text=text)
            time.sleep(UPDATE_INTERVAL_S)

    def _show_end(self, message: str) -> None:
        self.status.value = message
        self.cancel.layout.display = "none"
