"""Many independent tasks on Dask: on this machine, or on the workers of a scheduler."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from workbench.core.errors import UserError
from workbench.core.progress_bar import progress_bar
from workbench.core.safe_path import ignore_current_folder

if TYPE_CHECKING:
    from dask.distributed import Client, LocalCluster

STOP_FILE = ".stop"  # in the folder of a sweep; running tasks end when it appears
SCHEDULER_TIMEOUT_S = 5
CLUSTER_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.worker.memory.terminate": False,
    # Pages of status and logs, which need no certificate.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
STOP_TIMEOUT_S = 10  # after Ctrl-C, until tasks that still run are abandoned
POLL_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """Outcome of a task. `error` is empty if it has succeeded."""

    name: str
    error: str
    seconds: float


@contextmanager
def connect(scheduler: str | None, max_workers: int, memory_bytes: int) -> "Iterator[Client]":
    """Connect to a scheduler, or start one with as many local workers as memory allows.

    Parameters
    ----------
    scheduler : str or None
        The address of a Dask scheduler; None starts workers on this machine.
    max_workers : int
        The largest number of local workers.
    memory_bytes : int
        The memory that a task needs.

    Yields
    ------
    Client
        The client.

    Raises
    ------
    UserError
        If no scheduler answers.
    """
    import psutil
    from dask.distributed import Client

    if scheduler:
        try:
            with _silent_logs(), Client(scheduler, timeout=SCHEDULER_TIMEOUT_S) as client:
                yield client
        except OSError as error:
            raise UserError(f"No Dask scheduler answers at {scheduler}: {error}.") from None
        return
    workers = max(1, min(max_workers, psutil.virtual_memory().available // memory_bytes))
    with local_cluster(workers) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def _silent_logs() -> Iterator[None]:
    """Leave out the log of Dask in the block: a lost scheduler is reported by one sentence."""
    handlers = logging.getLogger("distributed").handlers
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def local_cluster(workers: int) -> "Iterator[LocalCluster]":
    """Run single-threaded worker processes on this machine during the block.

    The processes connect over TCP with temporary certificates that exist in their memory only.
    Without them, any user of the machine could run code in the workers.

    Parameters
    ----------
    workers : int
        Number of processes.

    Yields
    ------
    LocalCluster
        The cluster.
    """
    import dask
    from dask.distributed import LocalCluster, Security

    threads = str(max(1, (os.cpu_count() or 1) // workers))
    thread_limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    with dask.config.set(CLUSTER_SETTINGS):
        with _ignore_interrupts(), ignore_current_folder():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                security=Security.temporary(),
                dashboard_address=None,
                memory_limit=0,  # memory_guard enforces the limit
                silence_logs=logging.CRITICAL,
                env={name: os.environ.get(name, threads) for name in thread_limits},
            )
        with cluster:
            yield cluster


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all of them.

    This process decides when they end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def run_tasks(
    client: "Client",
    function: Callable[..., TaskOutcome],
    tasks: Mapping[str, tuple[Any, ...]],
    stop_file: Path,
    *,
    description: str,
    unit: str,
    total: int,
) -> list[TaskOutcome]:
    """Run tasks as workers become free, with a progress bar; after Ctrl-C wait until they end.

    Parameters
    ----------
    client : Client
        The client of the scheduler.
    function : callable
        Runs a task in a worker, and returns its outcome. It must end when the stop file appears.
    tasks : mapping of str to tuple
        The arguments of the tasks, by their names.
    stop_file : Path
        The file that is created after Ctrl-C.
    description, unit : str
        Texts of the progress bar.
    total : int
        Number of all tasks, with those that were complete before.

    Returns
    -------
    list of TaskOutcome
        The outcomes, in the order in which the tasks ended. A task whose worker or scheduler is
        lost has an error.
    """
    from dask.distributed import wait

    futures = {
        client.submit(function, *arguments, pure=False): name for name, arguments in tasks.items()
    }
    unfinished = set(futures)
    outcomes: list[TaskOutcome] = []
    bar = progress_bar(total=total, initial=total - len(tasks), desc=description, unit=unit)
    with _stop_on_interrupt(stop_file) as interrupts, closing(bar):
        while unfinished:
            if interrupts and time.monotonic() > interrupts[0] + STOP_TIMEOUT_S:
                break  # the tasks end with their workers
            # CancelledError means that the scheduler is gone.
            with suppress(TimeoutError, CancelledError):
                wait(list(unfinished), timeout=POLL_INTERVAL_S, return_when="FIRST_COMPLETED")
            for future in [future for future in unfinished if future.done()]:
                unfinished.remove(future)
                if future.status == "finished":
                    outcome = future.result()
                else:
                    outcome = TaskOutcome(
                        name=futures[future], error="its worker was lost", seconds=0.0
                    )
                outcomes.append(outcome)
                bar.update()
                bar.write(f"{outcome.name}  {outcome.seconds:.0f} s  {outcome.error or 'done'}")
    if interrupts:
        raise KeyboardInterrupt
    return outcomes


@contextmanager
def _stop_on_interrupt(stop_file: Path) -> Iterator[list[float]]:
    """Create the stop file on the first Ctrl-C, and interrupt on the second.

    Raising immediately could interrupt Dask's client anywhere and leave one of its locks taken.

    Yields
    ------
    list of float
        Empty until the first Ctrl-C; then its time.
    """
    interrupts: list[float] = []
    previous_handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not callable(previous_handler):  # or interrupts are ignored
        yield interrupts
        return

    def handle(signal_number: int, frame: FrameType | None) -> None:
        stop_file.touch()
        interrupts.append(time.monotonic())
        signal.signal(signal.SIGINT, previous_handler)

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous_handler)
