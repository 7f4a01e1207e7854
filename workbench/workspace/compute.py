"""Analyses, and what models show, computed in a process of their own, one after another.

A host asks, looks how far they are, and may stop them. Who asks for what is being computed waits for the same job; when
nobody waits any more, it is stopped. Results come back by pickle over a pipe to our own child, and nowhere else.
"""

import multiprocessing
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from workbench.analysis.base import Result
from workbench.core.errors import UserError
from workbench.workspace.compute_worker import ComputeRequest, ReportWriter, work

KEPT = 64  # results held in memory
TICK = 0.05  # seconds between looks at whether a job was stopped
PATIENCE = 0.6  # seconds a worker is given to stop by itself
RECENT = 20  # parts of the work that time left is told from


class ComputeJob:
    """What a ViewState asks for, or the report of several: `future` holds it, or the UserError that says why not."""

    def __init__(self, key: Hashable, state: ComputeRequest) -> None:
        self.key, self.state = key, state
        self.future: Future[Any] = (
            Future()
        )  # an analysis's Result, what a tab shows, or a report's path
        self.asked, self.began = time.monotonic(), 0.0
        self.waiting: set[Hashable] = set()
        self._ticks: deque[tuple[float, int, int]] = deque(maxlen=RECENT + 1)

    @property
    def name(self) -> str:
        """What is computed, in a word or two."""
        if isinstance(self.state, tuple):
            return "report"
        return (self.state.tab or self.state.analysis).replace("_", " ")

    @property
    def of(self) -> str:
        """Of what, in a few words."""
        if isinstance(self.state, tuple):
            return f"{len(self.state)} view{'s' if len(self.state) > 1 else ''}"
        more = f" and {len(self.state.runs) - 1} more" if len(self.state.runs) > 1 else ""
        return ", ".join(self.state.runs[:1]) + more

    @property
    def running(self) -> bool:
        """Whether it is its turn."""
        return self.began > 0 and not self.future.done()

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None where the analysis does not say."""
        return None if not self._ticks else self._ticks[-1][1] / max(1, self._ticks[-1][2])

    def begin(self) -> None:
        """It is its turn."""
        self.began = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        """So many parts of it are finished."""
        if self._ticks and done < self._ticks[-1][1]:
            self._ticks.clear()  # another pass over the data
        self._ticks.append((time.monotonic(), done, total))

    def left(self) -> tuple[float, float] | None:
        """Seconds left, from and to, by the middle half of the latest parts; None before two of them."""
        ticks = np.array([(at, done / max(1, total)) for at, done, total in list(self._ticks)])
        gone = np.diff(ticks, axis=0) if len(ticks) > 2 else np.empty((0, 2))
        gone = gone[gone[:, 1] > 0]
        if not len(gone):
            return None
        low, high = np.percentile(gone[:, 0] / gone[:, 1], [25, 75]) * (1 - ticks[-1, 1])
        passed = time.monotonic() - ticks[-1, 0]
        return max(0.0, low - passed), max(0.0, high - passed)

    def said(self) -> str:
        """How it stands, in a few words: 62 %, 14–19 s left."""
        now = time.monotonic()
        if not self.running:
            return f"waits for another computation, {now - self.asked:.0f} s"
        gone = f"{now - self.began:.0f} s so far"
        if self.share is None or (left := self.left()) is None:
            return gone
        low, high = left
        ahead = (
            f"{low:.0f}–{max(high, low + 1):.0f} s left"
            if high > 10
            else f"about {max(1.0, high):.0f} s left"
        )
        return f"{100 * self.share:.0f} %, {ahead}"


class ComputeQueue:
    """The queue of a folder of runs before one warm worker. Any thread may ask; `close` ends the worker."""

    def __init__(self, folder: str | Path, write_report: ReportWriter | None = None) -> None:
        self.folder, self._write_report = str(folder), write_report
        self._changed = threading.Condition()
        self._open: OrderedDict[Hashable, ComputeJob] = (
            OrderedDict()
        )  # the first one is being computed
        self._kept: OrderedDict[Hashable, Result] = OrderedDict()
        self._closed = False
        self._worker = Worker(self.folder, self._write_report)
        threading.Thread(target=self._serve, name="jobs", daemon=True).start()

    def ask(self, key: Hashable, state: ComputeRequest, who: Hashable) -> ComputeJob:
        """The job of what `key` tells from all else: finished, being computed, or queued now."""
        with self._changed:
            if key in self._kept:
                self._kept.move_to_end(key)
                job = ComputeJob(key, state)
                job.future.set_result(self._kept[key])
                return job
            job = self._open.setdefault(key, ComputeJob(key, state))
            job.waiting.add(who)
            self._changed.notify()
            return job

    def leave(self, job: ComputeJob, who: Hashable) -> None:
        """Somebody no longer waits; when nobody does, the job is stopped and its place in the queue is free."""
        with self._changed:
            job.waiting.discard(who)
            if job.waiting or job.future.done():
                return
            if self._open.get(job.key) is job:
                del self._open[job.key]
        job.future.cancel()

    def of(self, who: Hashable) -> list[ComputeJob]:
        """What somebody waits for, in the order of the queue."""
        with self._changed:
            return [job for job in self._open.values() if who in job.waiting]

    def close(self) -> None:
        """End the worker, and every job with it."""
        with self._changed:
            self._closed, left = True, list(self._open.values())
            self._open.clear()
            self._changed.notify()
        for job in left:
            job.future.cancel()
        self._worker.end()

    def _serve(self) -> None:
        while self._turn():
            pass  # and nothing of a turn is held while the next is waited for: a job knows the page that asked for it

    def _turn(self) -> bool:
        """Compute what is next; whether there may be more."""
        job = self._next()
        if job is None:
            return False
        job.begin()
        told = self._computed(job)
        with self._changed:
            if self._open.get(job.key) is job:
                del self._open[job.key]
            if isinstance(told, Result):
                self._kept[job.key] = told
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        with suppress(InvalidStateError):  # it was stopped as it ended
            failed = isinstance(told, Exception)
            job.future.set_exception(told) if failed else job.future.set_result(told)
        return True

    def _next(self) -> ComputeJob | None:
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._closed)
            return None if self._closed else next(iter(self._open.values()))

    def _computed(self, job: ComputeJob) -> Any:
        """What the worker makes of a job. One that died, or goes on when it is told to stop, is replaced."""
        stopped: float | None = None
        lost = UserError(
            "The process that computed this ended, perhaps for want of memory; another has been started."
        )
        if not self._worker.process.is_alive():
            self._worker = Worker(self.folder, self._write_report)
        try:
            self._worker.pipe.send(job.state)
            while stopped is None or time.monotonic() - stopped < PATIENCE:
                wait([self._worker.pipe, self._worker.process.sentinel], TICK)
                if self._worker.pipe.poll():
                    told = self._worker.pipe.recv()
                    if not isinstance(told, tuple):
                        return told
                    job.tell(*told)
                elif not self._worker.process.is_alive():
                    break
                if stopped is None and job.future.cancelled():
                    stopped = time.monotonic()
                    self._worker.pipe.send(None)
        except (OSError, EOFError):
            pass
        self._worker.end()
        if not self._closed:
            self._worker = Worker(self.folder, self._write_report)
        return lost


class Worker:
    """A process that computes, and our end of the pipe to it."""

    def __init__(self, folder: str, write_report: ReportWriter | None) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would take the server's threads and sockets along
        self.pipe, theirs = context.Pipe()
        self.process: Any = context.Process(
            target=work, args=(folder, theirs, write_report), name="workbench-analyses", daemon=True
        )
        self.process.start()
        theirs.close()

    def end(self) -> None:
        """End it now, whatever it does."""
        self.process.terminate()
        self.process.join(0.3)
        if self.process.is_alive():
            self.process.kill()
        with suppress(OSError):
            self.pipe.close()
