"""Compute results in a worker process, one after another.

A host submits a request, follows its progress and may release it. A host that submits a request
that is already being computed waits for the same job; a job is stopped once no host waits for it.
Results are pickled by the worker process of this queue only, and sent through a private pipe.
"""

import multiprocessing
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from workbench.analysis.base import Result
from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.core.progress import ProgressEstimate, format_duration_range
from workbench.core.safe_path import ignore_current_folder
from workbench.workspace.compute_worker import (
    ComputeRequest,
    ReportRequest,
    ReportWriter,
    run_worker,
)

MAX_CACHED_RESULTS = 64
POLL_INTERVAL_S = 0.05
STOP_TIMEOUT_S = 0.6  # a worker that has not stopped by itself after this time is replaced
TERMINATE_TIMEOUT_S = 0.3
EXACT_BELOW_S = 10  # a shorter remaining time is shown as one number


class ComputeJob:
    """A request, its progress and its result.

    Attributes
    ----------
    key : Hashable
        What the result depends on.
    request : ViewState or ReportRequest
        The view to compute, or the report to write.
    future : Future
        Holds an analysis's `Result`, a `TabContent`, or the path of a report; or the exception.
    owners : set
        The hosts or visitors that wait for the result.
    """

    def __init__(self, key: Hashable, request: ComputeRequest) -> None:
        self.key = key
        self.request = request
        self.future: Future[Any] = Future()
        self.owners: set[Hashable] = set()
        self.estimate = ProgressEstimate()
        self._submitted_s = time.monotonic()
        self._started_s: float | None = None

    @property
    def name(self) -> str:
        """A short name of the computation."""
        if isinstance(self.request, ReportRequest):
            return "report"
        return (self.request.tab or self.request.analysis).replace("_", " ")

    @property
    def subject(self) -> str:
        """The runs or views that it is computed from, in a few words."""
        if isinstance(self.request, ReportRequest):
            count = len(self.request.views)
            return counted(count, "view")
        runs = self.request.runs
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        return ", ".join(runs[:1]) + more

    @property
    def is_running(self) -> bool:
        """True while the result is being computed."""
        return self._started_s is not None and not self.future.done()

    @property
    def fraction(self) -> float | None:
        """The finished fraction, 0 to 1; None if the computation reports no progress."""
        return self.estimate.fraction

    def start(self) -> None:
        """Record that the computation begins."""
        self._started_s = time.monotonic()

    def report(self, done: int, total: int) -> None:
        """Record that `done` of `total` parts are finished."""
        self.estimate.report(done, total)

    def status_text(self) -> str:
        """Return the progress in a few words: `62 %, 14–19 s left`."""
        if self._started_s is None or self.future.done():
            waited = time.monotonic() - self._submitted_s
            return f"waiting for another computation, {waited:.0f} s"
        return progress_text(self.estimate, self._started_s)


def progress_text(estimate: ProgressEstimate, started_s: float) -> str:
    """Return progress and remaining time in a few words, or the elapsed time without an estimate.

    Parameters
    ----------
    estimate : ProgressEstimate
        Estimate of the computation.
    started_s : float
        Start of the computation, in the time of `time.monotonic`.
    """
    now = time.monotonic()
    fraction, remaining = estimate.fraction, estimate.seconds_left(now_s=now)
    if fraction is None or remaining is None:
        return f"{now - started_s:.0f} s so far"
    low, high = remaining
    if high > EXACT_BELOW_S:
        return f"{100 * fraction:.0f} %, {format_duration_range(low, max(high, low + 1))} left"
    return f"{100 * fraction:.0f} %, about {max(1.0, high):.0f} s left"


class ComputeQueue:
    """The queue of a folder of runs in front of one worker process; safe to use from any thread.

    Parameters
    ----------
    folder : str or Path
        The folder of runs.
    write_report : callable, optional
        Writes a report of views; None refuses requests for reports.
    trust : sequence of str, optional
        Modules and packages outside of this package that may be imported.
    """

    def __init__(
        self,
        folder: str | Path,
        write_report: ReportWriter | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        self.folder = str(folder)
        self._write_report = write_report
        self._trust = tuple(trust)
        self._changed = threading.Condition()
        # The first job is the one that is being computed.
        self._jobs: OrderedDict[Hashable, ComputeJob] = OrderedDict()
        self._results: LRUCache[Hashable, Result] = LRUCache(maxsize=MAX_CACHED_RESULTS)
        self._is_closed = False
        self._worker = Worker(self.folder, write_report, self._trust)
        threading.Thread(target=self._serve, name="compute-queue", daemon=True).start()

    def submit(self, key: Hashable, request: ComputeRequest, owner: Hashable) -> ComputeJob:
        """Return the job of a request, which may be finished or running already.

        Parameters
        ----------
        key : Hashable
            What the result depends on: requests with equal keys share a job.
        request : ViewState or ReportRequest
            The view to compute, or the report to write.
        owner : Hashable
            The host or visitor that waits for the result, until `release`.
        """
        with self._changed:
            if key in self._results:
                job = ComputeJob(key, request)
                job.future.set_result(self._results[key])
                return job
            job = self._jobs.setdefault(key, ComputeJob(key, request))
            job.owners.add(owner)
            self._changed.notify()
            return job

    def release(self, job: ComputeJob, owner: Hashable) -> None:
        """Stop waiting for a job; the last owner stops the computation."""
        with self._changed:
            job.owners.discard(owner)
            if job.owners or job.future.done():
                return
            if self._jobs.get(job.key) is job:
                del self._jobs[job.key]
        job.future.cancel()

    def pending_for(self, owner: Hashable) -> list[ComputeJob]:
        """Return the jobs that an owner waits for, in the order of the queue."""
        with self._changed:
            return [job for job in self._jobs.values() if owner in job.owners]

    def close(self) -> None:
        """Cancel all jobs and end the worker."""
        with self._changed:
            self._is_closed = True
            jobs = list(self._jobs.values())
            self._jobs.clear()
            self._changed.notify()
        for job in jobs:
            job.future.cancel()
        self._worker.end()

    def _serve(self) -> None:
        # Each job is computed in a call of its own: no local variable holds a finished job, and
        # with it the page that submitted it, while the next one is waited for.
        while self._compute_next():
            pass

    def _compute_next(self) -> bool:
        """Wait for the next job and compute it; False after `close`."""
        job = self._next_job()
        if job is None:
            return False
        job.start()
        result = self._compute(job)
        with self._changed:
            if self._jobs.get(job.key) is job:
                del self._jobs[job.key]
            if isinstance(result, Result):
                self._results[job.key] = result
        # The job may have been cancelled at its end.
        with suppress(InvalidStateError):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        return True

    def _next_job(self) -> ComputeJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            return None if self._is_closed else next(iter(self._jobs.values()))

    def _compute(self, job: ComputeJob) -> Any:
        """Return the worker's result or exception; a worker that is lost is replaced."""
        if not self._worker.process.is_alive():
            self._worker = Worker(self.folder, self._write_report, self._trust)
        worker = self._worker
        stopped_s: float | None = None
        try:
            worker.pipe.send(job.request)
            while stopped_s is None or time.monotonic() - stopped_s < STOP_TIMEOUT_S:
                wait([worker.pipe, worker.process.sentinel], POLL_INTERVAL_S)
                if worker.pipe.poll():
                    message = worker.pipe.recv()
                    if not isinstance(message, tuple):
                        return message
                    job.report(*message)
                elif not worker.process.is_alive():
                    break
                if stopped_s is None and job.future.cancelled():
                    stopped_s = time.monotonic()
                    worker.pipe.send(None)
        except (OSError, EOFError):
            pass
        worker.end()
        if not self._is_closed:
            self._worker = Worker(self.folder, self._write_report, self._trust)
        return UserError(
            "The worker process ended before the result was computed, possibly because it ran out "
            "of memory. A new worker has been started."
        )


class Worker:
    """A worker process, and this end of the pipe to it."""

    pipe: Connection
    process: SpawnProcess

    def __init__(
        self, folder: str, write_report: ReportWriter | None, trust: tuple[str, ...]
    ) -> None:
        # A forked process would inherit the threads and sockets of the server.
        context = multiprocessing.get_context("spawn")
        self.pipe, worker_pipe = context.Pipe()
        self.process = context.Process(
            target=run_worker,
            args=(folder, worker_pipe, write_report, trust),
            name="workbench-compute",
            daemon=True,
        )
        with ignore_current_folder():
            self.process.start()
        worker_pipe.close()

    def end(self) -> None:
        """End the process immediately, even during a computation."""
        self.process.terminate()
        self.process.join(TERMINATE_TIMEOUT_S)
        if self.process.is_alive():
            self.process.kill()
        with suppress(OSError):
            self.pipe.close()
