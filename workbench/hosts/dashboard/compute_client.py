"""One visitor's computations: submitted to the server's queue and released when the page closes."""

from collections.abc import Callable, Hashable
from typing import Any

from workbench.core.errors import UserError
from workbench.hosts.dashboard.page_lifecycle import PageLifecycle
from workbench.workspace.compute import ComputeJob, ComputeQueue
from workbench.workspace.compute_worker import ComputeRequest


class ComputeClient:
    """Submits computations for one visitor.

    Parameters
    ----------
    queue : ComputeQueue or None
        The queue of the server; None computes in the calling thread.
    lifecycle : PageLifecycle
        Forwards the end of a job to the page.
    """

    def __init__(self, queue: ComputeQueue | None, lifecycle: PageLifecycle) -> None:
        self.queue = queue
        self.lifecycle = lifecycle
        self.owner = object()  # identifies this visitor in the queue
        self._on_wait: list[Callable[[], None]] = []

    def on_wait(self, listener: Callable[[], None]) -> None:
        """Call a function whenever this visitor begins to wait for a job."""
        self._on_wait.append(listener)

    def submit(
        self, key: Hashable, request: ComputeRequest, compute: Callable[[], Any]
    ) -> ComputeJob:
        """Submit a request to the queue. Without a queue, `compute` runs at once."""
        if self.queue is not None:
            return self.queue.submit(key, request, self.owner)
        job = ComputeJob(key, request)
        try:
            job.future.set_result(compute())
        except UserError as error:
            job.future.set_exception(error)
        return job

    def when_done(self, job: ComputeJob, action: Callable[[], None]) -> None:
        """Run an action in the page when a job is done; until then, the jobs card shows it."""
        for listener in self._on_wait:
            self.lifecycle.after_load(listener)
        if job.future.done():
            action()
        else:
            job.future.add_done_callback(lambda _: self.lifecycle.call_soon(action))

    def pending(self) -> list[ComputeJob]:
        """Return the jobs that this visitor waits for, in the order of the queue."""
        return [] if self.queue is None else self.queue.pending_for(self.owner)

    def release(self, job: ComputeJob) -> None:
        """Stop waiting for a job; it is cancelled if no other visitor waits for it."""
        if self.queue is not None:
            self.queue.release(job, self.owner)

    def release_all(self) -> None:
        """Stop waiting for every job."""
        for job in self.pending():
            self.release(job)
