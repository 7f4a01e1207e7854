"""A run while it trains, as any host shows it: read from its files, never from the process that writes them."""

import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.analysis.plotting.image_grid import compose
from workbench.storage.run import Run

LISTENING = ("running", "paused")  # states in which somebody answers requests
RECENT = 20  # records that speed and time left are told from
NOT_TERMS = ("step", "lr", "gradient", "time")
QUIET = (
    "started",
    "saved",
    "evaluated",
    "finished",
    "stopped",
)  # events that curves need no line for


@dataclass(frozen=True)
class RunSnapshot:
    """How a run stands at one moment."""

    name: str
    status: dict[str, Any]
    history: pd.DataFrame  # a row a record
    events: list[dict[str, Any]]
    pictured: tuple[int, ...]  # the steps that have pictures
    saved: tuple[int, ...]  # the steps that have a checkpoint

    @property
    def state(self) -> str:
        """new, running, paused, stopped, failed, interrupted or finished."""
        return self.status["state"]

    @property
    def listening(self) -> bool:
        """Whether there is a process that answers requests."""
        return self.state in LISTENING

    @property
    def terms(self) -> list[str]:
        """The objective's terms, as logged."""
        return [name for name in self.history.columns if name not in NOT_TERMS]

    @property
    def multipliers(self) -> dict[str, float]:
        """What is in force: that of the learning rate, then each term's."""
        return {"lr": self.status.get("lr", 1.0), **self.status.get("weights", {})}


class Follower:
    """Looks at one run again and again; reads of its logs only what is new."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._log, self._events = (
            JsonlTail(run.folder / "log.jsonl"),
            JsonlTail(run.folder / "events.jsonl"),
        )

    def look(self) -> RunSnapshot:
        """How the run stands now."""
        status = (
            self.run.status()
        )  # first: a record may be newer than it, but none that it speaks of is missed
        history = pd.DataFrame(self._log.read())
        folder, events = self.run.folder, list(self._events.read())
        pictured, saved = (
            _numbered(folder.glob("samples/step-*.npy")),
            _numbered(folder.glob("step-*.safetensors")),
        )
        return RunSnapshot(self.run.name, status, history, events, pictured, saved)


class JsonlTail:
    """A log's lines, without torn ones and the one still being written; all are read again where it was rewritten."""

    def __init__(self, path: Path) -> None:
        self.path, self._records, self._file, self._offset = path, [], None, 0

    def read(self) -> list[dict[str, Any]]:
        """All lines so far, oldest first."""
        try:
            with self.path.open("rb") as file:
                told = os.fstat(file.fileno())
                if told.st_ino != self._file or told.st_size < self._offset:
                    self._records, self._file, self._offset = [], told.st_ino, 0
                file.seek(self._offset)
                raw = file.read()
        except FileNotFoundError:
            self._records, self._file, self._offset = [], None, 0
            return []
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._records += [record for line in whole.splitlines() if (record := _parsed(line))]
        return self._records


def speeds(history: pd.DataFrame) -> pd.Series:
    """Steps a second, of each record since the one before."""
    if len(history) < 2:
        return pd.Series(dtype=float)
    taken, done = history["time"].diff(), history["step"].diff()
    return (done / taken)[(taken > 0) & (done > 0)]


def seconds_left(look: RunSnapshot) -> tuple[float, float] | None:
    """From the quartiles of the latest records' speeds; None where there are too few."""
    recent = speeds(look.history.tail(RECENT + 1))
    if len(recent) < 2:
        return None
    slow, fast = np.percentile(recent, [25, 75])
    steps = look.status["steps"] - look.status["step"]
    return steps / fast, steps / slow


def status_line(look: RunSnapshot) -> str:
    """One line: state, sign of life, step, speed, time left."""
    status, said = look.status, [look.state]
    if look.listening:
        said = [f"{look.state}, alive {max(0.0, time.time() - status.get('time', 0)):.0f} s ago"]
    said.append(f"step {status['step']:,} of {status['steps']:,}")
    if look.state == "running":
        recent = speeds(look.history.tail(RECENT + 1))
        said += [f"{_rounded(float(recent.median()))} steps/s"] if len(recent) else []
        left = seconds_left(look)
        said += [f"{format_duration_range(*left)} left"] if left else []
    return " · ".join(said)


def hint(look: RunSnapshot) -> str:
    """What a person should know or do next, in a sentence; "" where there is nothing to say."""
    busy = [
        event
        for event in look.events
        if event["event"] in ("evaluate", "evaluated", "not evaluated")
    ]
    if look.listening and busy and busy[-1]["event"] == "evaluate":
        return f"Collecting evidence of step {busy[-1]['step']:,}; training goes on afterwards."
    if look.listening and look.history.empty:
        return "Training; its first record is on its way."
    again = "The command that started it starts it anew: it had no checkpoint yet."
    if look.saved:
        again = f"The command that started it goes on from its last checkpoint, of step {look.saved[-1]:,}."
    why = next(
        (
            event["why"]
            for event in reversed(look.events)
            if event["event"] == "failed" and "why" in event
        ),
        None,
    )
    ending = {
        "new": "Nobody trains this run yet; the command that made it starts it.",
        "stopped": f"It was stopped. {again}",
        "interrupted": f"Its process is gone without a word. {again}",
        "failed": f"It failed. {why or 'The terminal it ran in, or train.log, says why.'}",
    }
    return ending.get(look.state, "")


def command_reply(look: RunSnapshot, *numbers: int) -> str:
    """What became of requests, in a few words each."""
    return " · ".join(_answer(look, number) for number in numbers)


def _answer(look: RunSnapshot, number: int) -> str:
    found = next((event for event in reversed(look.events) if event.get("id") == number), None)
    if found and found["event"] == "refused":
        return f"✗ {found['why']}"
    if found:
        return f"✓ {label(found)} at step {found['step']:,}"
    if look.status.get("answered", 0) >= number:
        return "✓ heard; it happens after the present step"
    return "asked …" if look.listening else f"✗ The run is {look.state}; nobody is there to answer."


def label(event: Mapping[str, Any]) -> str:
    """An event in a word or two."""
    if "value" not in event:
        return event["event"]
    return f"{event.get('term') or 'lr'} × {event['value']:g}"


def apply(run: Run, wanted: Mapping[str, float | str]) -> list[int]:
    """Ask for the multipliers (of `lr` and of terms) that are not those in force; returns the requests' numbers.

    Raises UserError for a value that cannot be one.
    """
    status = run.status()
    force = {"lr": status.get("lr", 1.0), **status.get("weights", {})}
    changed = {
        name: value for name, value in wanted.items() if not _equal(value, force.get(name, 1.0))
    }
    of_rate = [run.ask("lr", value=changed.pop("lr"))] if "lr" in changed else []
    return of_rate + [run.ask("weight", term=name, value=value) for name, value in changed.items()]


def preview_image(run: Run, step: int, *, columns: int = 8) -> bytes:
    """The pictures of a step as one PNG; none of it is there for a step without pictures, or damaged ones."""
    from PIL import Image

    try:
        images = np.load(run.folder / "samples" / f"step-{step:06d}.npy")
        mosaic = compose([images[at : at + columns] for at in range(0, len(images), columns)])
    except (OSError, ValueError, IndexError):
        return b""
    buffer = io.BytesIO()
    Image.fromarray(mosaic).save(buffer, "PNG")
    return buffer.getvalue()


def format_duration_range(low: float, high: float) -> str:
    """A range of seconds as people say it: 40–50 s, 3–4 min, 1.5–2.0 h."""
    unit, name, digits = next(
        u for u in ((1, "s", 0), (60, "min", 0), (3600, "h", 1)) if high < 90 * u[0] or u[2]
    )
    ends = f"{low / unit:.{digits}f}", f"{high / unit:.{digits}f}"
    return f"{'–'.join(dict.fromkeys(ends))} {name}"


def _numbered(found: Iterable[Path]) -> tuple[int, ...]:
    """The steps that files are of, ascending."""
    return tuple(sorted(int(path.stem[5:]) for path in found if path.stem[5:].isdigit()))


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _equal(typed: float | str, number: float) -> bool:
    try:
        return float(typed) == number
    except ValueError:
        return False


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
