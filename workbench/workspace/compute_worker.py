"""What the worker process does: compute what it is sent, say how far it is, stop when it is told to."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from workbench import analysis
from workbench.analysis.base import Result
from workbench.core.errors import UserError
from workbench.core.progress import Cancelled, progress_listener
from workbench.workspace.tab_content import TabContent, tab_content
from workbench.workspace.view_state import ViewState
from workbench.workspace.workspace import Workspace

ComputeRequest = ViewState | tuple[ViewState, ...]  # what a view shows, or a report of several
# Writes a report of views of a folder of runs; a function of a module, since it is sent to the worker process.
ReportWriter = Callable[[Path, tuple[ViewState, ...]], Path]
PAUSE = 0.05  # seconds between two things said
YIELDS = 5  # to what a person looks at meanwhile: the server, and the browser where it is on the same machine


def work(folder: str, pipe: Connection, write_report: ReportWriter | None = None) -> None:
    """Answer every ViewState with what it asks for or an exception, until the other end of the pipe is closed; several
    of them, with the report of them.

    Meanwhile (done, total) tells how far it is, and whatever arrives means: stop.
    """
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches all; the server ends this one
    analysis.analyses()  # import them before anybody waits
    with suppress(AttributeError, OSError):  # where there is no such thing
        os.nice(YIELDS)
    bench = Workspace(folder)
    try:
        while True:
            asked = pipe.recv()
            if asked is not None:  # else: told to stop what was finished already
                _send(_answer(bench, asked, pipe, write_report), pipe)
    except (EOFError, OSError):
        return


def _answer(
    bench: Workspace,
    asked: ComputeRequest,
    pipe: Connection,
    write_report: ReportWriter | None,
) -> Result | TabContent | Path | Exception:
    try:
        with progress_listener(_listener(pipe)):
            if isinstance(asked, tuple):
                if write_report is None:
                    return UserError("This process cannot write reports.")
                return write_report(bench.folder, asked)
            if not bench.runs.keys() >= set(asked.runs):
                bench.refresh()
            return tab_content(bench, asked) if asked.tab else bench.result(asked)
    except UserError as error:
        return error
    except Exception as error:
        traceback.print_exc()
        return RuntimeError(f"{type(error).__name__}: {error}")


def _send(answer: Result | TabContent | Path | Exception, pipe: Connection) -> None:
    try:
        pipe.send(answer)
    except OSError:
        raise
    except Exception as error:  # it cannot be put into a message
        pipe.send(RuntimeError(f"{type(answer).__name__} cannot be sent: {error}"))


def _listener(pipe: Connection) -> Callable[[int, int], None]:
    last = 0.0

    def listen(done: int, total: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last < PAUSE:
            return
        last = now
        try:
            pipe.send((done, total))
            stop = pipe.poll() and pipe.recv() is None
        except (EOFError, OSError):  # nobody is there any more
            raise SystemExit from None
        if stop:
            raise Cancelled("This was stopped.")

    return listen
