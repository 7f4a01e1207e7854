"""A queue of trainings, each in a process of its own, at most some of them at the same time.

The processes are those of `wb.start`: they continue when the queue is closed. Trainings that wait
then are stored in the folder of runs; a later queue shows them, and starts them on request. Several
queues of one folder, each in a process of its own, do not see each other's trainings.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any, Literal

from workbench.core.errors import UserError
from workbench.launch.stored_queue import (
    RUN_NAME,
    StoredTraining,
    store_queue,
    take_over_queue,
)
from workbench.launch.subprocess import LOG_NAME, launch
from workbench.launch.trainables import parse_target
from workbench.storage.run import Run

QueueState = Literal["held", "waiting", "starting", "running", "ended", "refused"]
STORED_STATES = ("held", "waiting", "starting")
POLL_INTERVAL_S = 0.5
LOG_BYTES = 16_384  # of the end of a log, in which its last lines are searched
RESUMABLE_STATES = ("new", "stopped", "interrupted", "failed")


@dataclass
class QueuedTraining:
    """A training in the queue.

    Attributes
    ----------
    folder : Path
        The folder of its run.
    target : str
        The recipe, or `module:Class`.
    settings : dict
        Changed settings by name.
    state : {"held", "waiting", "starting", "running", "ended", "refused"}
        The state of its process. One that waited in an earlier queue is held until `start`.
    error : str
        The reason why it was refused, or why its process failed.
    """

    folder: Path
    target: str
    settings: dict[str, Any] = field(default_factory=dict)
    state: QueueState = "waiting"
    error: str = ""
    process: Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.folder.name

    @property
    def is_active(self) -> bool:
        """True while a process starts or trains."""
        return self.state in ("starting", "running")


class TrainingQueue:
    """Trainings of a folder of runs; safe to use from any thread.

    Parameters
    ----------
    folder : str or Path
        The folder of runs.
    trust : sequence of str
        Modules outside of this package that may be imported.
    limit : int
        Trainings at the same time.

    Attributes
    ----------
    problem : str
        Why the trainings that waited in an earlier queue cannot be read; empty if they can. The
        queue is not stored then.
    """

    def __init__(self, folder: str | Path, trust: Sequence[str] = (), limit: int = 1) -> None:
        self.folder = Path(folder)
        self.trust = tuple(trust)
        self.limit = limit
        self.problem = ""
        self._trainings: list[QueuedTraining] = []
        try:
            self._trainings = [
                QueuedTraining(
                    folder=self.folder / stored.name,
                    target=stored.target,
                    settings=stored.settings,
                    state="held",
                )
                for stored in take_over_queue(self.folder)
            ]
        except UserError as error:
            self.problem = str(error)
        self._was_stored = bool(self._trainings)
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    @property
    def trainings(self) -> tuple[QueuedTraining, ...]:
        """The trainings in the order in which they were submitted."""
        with self._changed:
            return tuple(self._trainings)

    def submit(
        self, target: str, trials: Mapping[str, Mapping[str, Any]]
    ) -> tuple[QueuedTraining, ...]:
        """Put new trainings into the queue.

        Parameters
        ----------
        target : str
            The recipe, or `module:Class`.
        trials : mapping
            The changed settings of each run, by its name.

        Raises
        ------
        UserError
            If a name is not valid or in use; then nothing is submitted.
        """
        trainings = tuple(
            QueuedTraining(folder=self.folder / name, target=target, settings=dict(settings))
            for name, settings in trials.items()
        )
        with self._changed:
            for name in trials:
                self._check_name(name)
            self._add(trainings)
        return trainings

    def resume(self, name: str, steps: int | None = None) -> QueuedTraining:
        """Put a run of the folder into the queue that was stopped or is to be trained longer.

        Parameters
        ----------
        name : str
            The name of the run.
        steps : int, optional
            The number of steps to train to; those that it has by default.

        Raises
        ------
        UserError
            If the run cannot be resumed.
        """
        run = Run(self.folder / name)
        check_resumable(run, steps)
        settings = dict(run.config.changes)
        if steps is not None and steps != run.config.training.get("steps"):
            settings["steps"] = steps
        training = QueuedTraining(
            folder=self.folder / name,
            target=run.config.recipe or run.config.class_path,
            settings=settings,
        )
        with self._changed:
            if self._find_unfinished(name):
                raise UserError(f"{name} is in the queue already.")
            self._trainings = [other for other in self._trainings if other.name != name]
            self._add((training,))
        return training

    def start(self, training: QueuedTraining) -> None:
        """Let a training that is held wait for its turn."""
        with self._changed:
            if training.state == "held":
                training.state = "waiting"
                self._notify()

    def stop(self, training: QueuedTraining) -> None:
        """Stop a training with a checkpoint; one that has not started leaves the queue."""
        with self._changed:
            if not training.is_active:
                if training in self._trainings:
                    self._trainings.remove(training)
                    self._store()
                return
        Run(training.folder).ask("stop")

    def close(self) -> None:
        """Start no more trainings. Running ones continue; waiting ones stay stored."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
            with suppress(UserError):  # their owner ends, so that others take them over anyway
                self._store()

    def _add(self, trainings: Sequence[QueuedTraining]) -> None:
        self._store((*self._trainings, *trainings))
        self._trainings += trainings
        self._notify()

    def _notify(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="trainings", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _store(self, trainings: Sequence[QueuedTraining] | None = None) -> None:
        """Store what has not started, of these trainings or those of the queue."""
        if self.problem:
            return
        waiting = [
            StoredTraining(name=training.name, target=training.target, settings=training.settings)
            for training in (self._trainings if trainings is None else trainings)
            if training.state in STORED_STATES
        ]
        if waiting or self._was_stored:
            store_queue(self.folder, waiting, is_closed=self._is_closed)
        self._was_stored = bool(waiting)

    def _check_name(self, name: str) -> None:
        if not RUN_NAME.fullmatch(name):
            raise UserError(
                f"`{name}` is not a name of a run. Use letters, digits and . - _ = +, at most 100."
            )
        if self._find_unfinished(name) or (self.folder / name).exists():
            raise UserError(f"There is a run {name} already. Choose another name.")

    def _find_unfinished(self, name: str) -> bool:
        return any(
            training.name == name and (training.is_active or training.state in STORED_STATES)
            for training in self._trainings
        )

    def _serve(self) -> None:
        while True:
            training = self._next()
            if training is None:
                return
            self._start(training)

    def _next(self) -> QueuedTraining | None:
        """Wait for a training that may start; None once the queue is closed."""
        with self._changed:
            while not self._is_closed:
                for training in self._trainings:
                    _update(training)
                num_active = sum(training.is_active for training in self._trainings)
                waiting = [item for item in self._trainings if item.state == "waiting"]
                if waiting and num_active < self.limit:
                    waiting[0].state = "starting"
                    return waiting[0]
                self._changed.wait(POLL_INTERVAL_S if num_active or waiting else None)
        return None

    def _start(self, training: QueuedTraining) -> None:
        try:
            target = parse_target(training.target, self.trust)
            launched = launch(target, training.folder, settings=training.settings)
        except UserError as error:
            training.error = str(error)
            training.state = "refused"
        else:
            training.process = launched.process
            training.state = "running" if launched.process is not None else "ended"
        with self._changed, suppress(UserError):  # at worst, the file names a run that exists
            self._store()


def check_resumable(run: Run, steps: int | None = None) -> None:
    """Raise UserError unless a run was stopped, or is to be trained for more steps.

    Parameters
    ----------
    run : Run
        The run whose training is to go on.
    steps : int, optional
        The number of steps to train to; those that it has by default.
    """
    state = run.status()["state"]
    if state == "imported":
        raise UserError(f"{run.name} was imported: it has no training to resume.")
    if state in RESUMABLE_STATES:
        return
    if state != "finished":
        raise UserError(f"{run.name} is {state}: another process trains it.")
    before = run.config.training.get("steps", 0)
    if steps is None or steps <= before:
        raise UserError(
            f"{run.name} has finished its {before:,} steps. Give more steps to train it longer."
        )


def log_tail(folder: Path, lines: int = 30) -> str:
    """Return the last lines of the output of a training; empty without a log.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    lines : int
        The largest number of lines.
    """
    try:
        with (folder / LOG_NAME).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    # A bar of a terminal overwrites its line.
    rows = [row.rstrip("\r").rpartition("\r")[2] for row in text.split("\n")]
    return "\n".join([row for row in rows if row.strip()][-lines:])


def _is_stopped(folder: Path) -> bool:
    """Return True if a run was stopped on request; False also if it is missing or damaged."""
    try:
        return bool(Run(folder).status()["state"] == "stopped")
    except UserError:
        return False


def _update(training: QueuedTraining) -> None:
    """Notice that a process has ended, and why."""
    process = training.process
    if process is None or process.poll() is None:
        return
    if process.returncode != 0 and not _is_stopped(training.folder):
        last = log_tail(training.folder, 1).removeprefix("workbench: ")
        training.error = last or f"The process ended with code {process.returncode}."
    # Last: a reader of the state may read the error next.
    training.process = None
    training.state = "ended"
