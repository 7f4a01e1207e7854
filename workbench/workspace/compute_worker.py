"""Compute requests in a worker process, which reports progress and stops on request."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from workbench import analysis
from workbench.analysis.base import Result
from workbench.core.errors import UserError
from workbench.core.progress import Cancelled, Listener, progress_listener
from workbench.workspace.tab_content import TabContent, tab_content
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """The views of a report, and the text of its author.

    Attributes
    ----------
    views : tuple of ViewState
        The views in their order.
    notes : tuple of str
        Markdown above each view; empty for a view without a note.
    title, author : str
        Title and author of the page.
    conclusion : str
        Markdown below the views.
    """

    views: tuple[ViewState, ...]
    notes: tuple[str, ...] = ()
    title: str = ""
    author: str = ""
    conclusion: str = ""


ComputeRequest = ViewState | ReportRequest
# Writes a report of views of a folder of runs. It is sent to the worker process by name, so it has
# to be a function of a module.
ReportWriter = Callable[[Path, ReportRequest], Path]
Answer = Result | TabContent | Path | Exception
MIN_REPORT_INTERVAL_S = 0.05
# The server and the browser have priority: they may share a machine with the worker.
NICENESS = 5


def run_worker(
    folder: str,
    pipe: Connection,
    write_report: ReportWriter | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Answer requests until the other end of the pipe is closed.

    Meanwhile it sends tuples (done, total) as progress, and stops when it receives None.

    Parameters
    ----------
    folder : str
        The folder of runs.
    pipe : Connection
        Receives a `ComputeRequest` and sends its result or the exception.
    write_report : callable, optional
        Writes a report of views; None refuses requests for reports.
    trust : sequence of str, optional
        Modules and packages outside of this package that may be imported.
    """
    # Ctrl-C in a terminal reaches all processes; the server ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_server()
    analysis.analyses()  # import them before the first request
    with suppress(AttributeError, OSError):  # not every system has it
        os.nice(NICENESS)
    workspace = Workspace(folder, trust)
    try:
        while True:
            request = pipe.recv()
            # None stops a computation that has just ended.
            if request is not None:
                _send(_answer(workspace, request, pipe, write_report), pipe)
    except (EOFError, OSError):
        return


def end_with_server() -> None:
    """End this process when the server has ended, whatever is being computed."""
    server = multiprocessing.parent_process()
    if server is None:
        return

    def wait() -> None:
        server.join()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-server", daemon=True).start()


def _answer(
    workspace: Workspace,
    request: ComputeRequest,
    pipe: Connection,
    write_report: ReportWriter | None,
) -> Answer:
    try:
        with progress_listener(_listener(pipe)):
            if isinstance(request, ReportRequest):
                if write_report is None:
                    return UserError("Reports cannot be written here.")
                return write_report(workspace.folder, request)
            if workspace.is_stale():  # a new generator changes results of its tokenizer
                workspace.refresh()
            if request.tab:
                return tab_content(workspace, request)
            return workspace.result(request)
    except UserError as error:
        return error
    except Exception as error:
        traceback.print_exc()
        return RuntimeError(f"{type(error).__name__}: {error}")


def _send(answer: Answer, pipe: Connection) -> None:
    try:
        pipe.send(answer)
    except OSError:
        raise
    except Exception as error:  # it cannot be pickled
        pipe.send(RuntimeError(f"{type(answer).__name__} cannot be sent: {error}"))


def _listener(pipe: Connection) -> Listener:
    """Return a listener that sends progress, and stops the computation on request."""
    last_s = 0.0

    def listen(done: int, total: int) -> None:
        nonlocal last_s
        now = time.monotonic()
        if now - last_s < MIN_REPORT_INTERVAL_S:
            return
        last_s = now
        try:
            pipe.send((done, total))
            is_stopped = pipe.poll() and pipe.recv() is None
        except (EOFError, OSError):  # the server has ended
            raise SystemExit from None
        if is_stopped:
            raise Cancelled("The computation was stopped.")

    return listen
