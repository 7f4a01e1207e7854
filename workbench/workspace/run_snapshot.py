"""Read the state of a training run from its files, never from the process that writes them."""

import io
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from workbench.analysis.plotting.image_grid import compose
from workbench.core.errors import RunError
from workbench.core.progress import ProgressEstimate, format_duration_range
from workbench.storage.files import STEP_NAME, load_array
from workbench.storage.jsonl import JsonlTail, is_event, is_log_record
from workbench.storage.run import ACTIVE_STATES, Run
from workbench.storage.training_log import TrainingLog

NUM_RECENT_RECORDS = 20  # records that speed and remaining time are estimated from
EVALUATION_EVENTS = ("evaluate", "evaluated", "not evaluated")
PREVIEW_COLUMNS = 8


@dataclass(frozen=True)
class RunSnapshot:
    """The state of a run at one moment.

    Attributes
    ----------
    name : str
        Name of the run.
    status : dict
        The contents of `status.json`.
    history : DataFrame
        One row per record of the log.
    events : list of dict
        The events of the run, oldest first.
    preview_steps : tuple of int
        Steps that have preview images, ascending.
    checkpoint_steps : tuple of int
        Steps that have a checkpoint, ascending.
    log : TrainingLog
        The records of the history with the statistics of training.
    """

    name: str
    status: dict[str, Any]
    history: pd.DataFrame
    events: list[dict[str, Any]]
    preview_steps: tuple[int, ...]
    checkpoint_steps: tuple[int, ...]
    log: TrainingLog

    @property
    def state(self) -> str:
        """State of the run, as `Run.status` has it."""
        return self.status["state"]

    @property
    def is_listening(self) -> bool:
        """True if a process acts on requests."""
        return self.state in ACTIVE_STATES

    @property
    def terms(self) -> list[str]:
        """Names of the logged terms of the objective."""
        return list(self.log.terms)

    @property
    def multipliers(self) -> dict[str, float]:
        """The multipliers in force: of the learning rate (`lr`), then of each term."""
        return {"lr": self.status.get("lr", 1.0), **self.status.get("weights", {})}


class RunFollower:
    """Takes snapshots of one run; each reads only the new lines of its logs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._log = JsonlTail(run.folder / "log.jsonl", is_log_record)
        self._statistics = JsonlTail(run.folder / "statistics.jsonl", is_log_record)
        self._events = JsonlTail(run.folder / "events.jsonl", is_event)

    def snapshot(self) -> RunSnapshot:
        """Read the present state of the run.

        Raises
        ------
        RunError
            If the run was deleted, or a file of it cannot be read.
        """
        if not self.run.folder.is_dir():
            raise RunError(f"{self.run.folder} does not exist any more: it was deleted or moved.")
        # The status comes first: then every record that it refers to has been written.
        status = self.run.status()
        folder = self.run.folder
        log = TrainingLog(
            run=self.run.name,
            records=tuple(self._log.read()),
            statistics=tuple(self._statistics.read()),
            events=tuple(self._events.read()),
            training=self.run.config.training,
        )
        return RunSnapshot(
            name=self.run.name,
            status=status,
            history=pd.DataFrame(list(log.records)),
            events=list(log.events),
            log=log,
            preview_steps=_steps_of(folder.glob("samples/step-*.npy")),
            checkpoint_steps=_steps_of(folder.glob("step-*.safetensors")),
        )


def steps_per_second(history: pd.DataFrame) -> pd.Series:
    """Return the training speed between each record and the one before."""
    if len(history) < 2 or "time" not in history:
        return pd.Series(dtype=float)
    seconds, steps = history["time"].diff(), history["step"].diff()
    return (steps / seconds)[(seconds > 0) & (steps > 0)]


def seconds_left(snapshot: RunSnapshot) -> tuple[float, float] | None:
    """Estimate the remaining seconds from the recent speeds.

    Returns
    -------
    (float, float) or None
        Lower and upper estimate; None with fewer than two speeds.
    """
    return _estimate(snapshot).seconds_left()


def _estimate(snapshot: RunSnapshot) -> ProgressEstimate:
    """Return the progress according to the latest records."""
    estimate = ProgressEstimate(snapshot.status["steps"], max_reports=NUM_RECENT_RECORDS)
    recent = snapshot.history.tail(NUM_RECENT_RECORDS + 1)
    if "time" in recent:
        recent = recent.dropna(subset=["time"])
        for step, at in zip(recent["step"], recent["time"], strict=True):
            estimate.report(float(step), time_s=float(at))
    return estimate


def status_line(snapshot: RunSnapshot) -> str:
    """Return state, heartbeat, step, speed and remaining time in one line."""
    status = snapshot.status
    parts = [snapshot.state]
    if snapshot.is_listening:
        age = max(0.0, time.time() - status.get("time", 0))
        parts.append(f"heartbeat {age:.0f} s ago")
    if snapshot.state != "imported":
        parts.append(f"step {status['step']:,} of {status['steps']:,}")
    if snapshot.state == "running":
        speeds = _estimate(snapshot).speeds()
        if speeds:
            parts.append(f"{_format_speed(median(speeds))} steps/s")
        remaining = seconds_left(snapshot)
        if remaining is not None:
            parts.append(f"{format_duration_range(*remaining)} left")
    return " · ".join(parts)


def hint(snapshot: RunSnapshot) -> str:
    """Return advice on what to do next; empty if there is nothing to do."""
    if snapshot.is_listening:
        evaluations = [e for e in snapshot.events if e["event"] in EVALUATION_EVENTS]
        if evaluations and evaluations[-1]["event"] == "evaluate":
            step = evaluations[-1]["step"]
            return f"Collecting evidence of step {step:,}; training continues afterwards."
        if snapshot.history.empty:
            return "Training has started; the first record has not been logged yet."
        return ""
    if snapshot.state == "imported":
        return "This model was trained elsewhere, so there is no training to follow."
    if snapshot.state == "new":
        return "This run is not being trained. Run the command that created it to start it."
    if snapshot.state == "stopped":
        return f"Training was stopped. {_restart_advice(snapshot)}"
    if snapshot.state == "interrupted":
        exited = "The training process exited without recording a final state."
        return f"{exited} {_restart_advice(snapshot)}"
    if snapshot.state == "failed":
        reason = "See the terminal it ran in, or train.log, for the reason."
        for event in snapshot.events:
            if event["event"] == "failed" and "why" in event:
                reason = event["why"]
        return f"Training failed. {reason}"
    return ""


def _restart_advice(snapshot: RunSnapshot) -> str:
    command = "The command that started it"
    if not snapshot.checkpoint_steps:
        return f"{command} starts it from the beginning, because it had no checkpoint yet."
    return f"{command} resumes from its last checkpoint, step {snapshot.checkpoint_steps[-1]:,}."


def command_reply(snapshot: RunSnapshot, *request_ids: int) -> str:
    """Return the outcome of requests, in a few words each."""
    return " · ".join(_reply(snapshot, request_id) for request_id in request_ids)


def _reply(snapshot: RunSnapshot, request_id: int) -> str:
    for event in reversed(snapshot.events):
        if event.get("id") == request_id:
            if event["event"] == "refused":
                return f"✗ {event['why']}"
            return f"✓ {event_label(event)} at step {event['step']:,}"
    if snapshot.status.get("answered", 0) >= request_id:
        return "✓ received; takes effect after the current step"
    if snapshot.is_listening:
        return "sent; waiting for the run …"
    return f"✗ The run is {snapshot.state}, so no process acts on requests."


def event_label(event: Mapping[str, Any]) -> str:
    """Return an event in a word or two."""
    if "value" not in event:
        return event["event"]
    return f"{event.get('term') or 'lr'} × {event['value']:g}"


def preview_png(run: Run, step: int) -> bytes:
    """Return the preview images of a step as one PNG; empty if they are missing or damaged."""
    from PIL import Image

    try:
        images = load_array(run.folder / "samples" / f"step-{step:06d}.npy")
        rows = [images[i : i + PREVIEW_COLUMNS] for i in range(0, len(images), PREVIEW_COLUMNS)]
        grid = compose(rows)
        buffer = io.BytesIO()
        Image.fromarray(grid).save(buffer, "PNG")
    except (OSError, ValueError, IndexError, TypeError, RunError):
        return b""
    return buffer.getvalue()


def _steps_of(paths: Iterable[Path]) -> tuple[int, ...]:
    """Return the steps in the names of files, ascending."""
    matches = (STEP_NAME.fullmatch(path.stem) for path in paths)
    return tuple(sorted(int(match[1]) for match in matches if match))


def _format_speed(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
