"""A run's paperwork while it trains: requests answered, lines logged, checkpoints written, time left told."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.storage.control import make_command
from workbench.storage.run import Run
from workbench.training.config import TrainConfig, learning_rate
from workbench.training.control_listener import ControlListener
from workbench.training.overrides import Override, WeightOverrides
from workbench.training.state import TrainState


@dataclass(frozen=True)
class TrainRecord:
    """Where training stands, every few steps."""

    step: int
    steps: int
    terms: dict[
        str, float
    ]  # mean since the last record of the objective's terms times their multipliers
    seconds_left: float | None  # from the speed of the latest records
    saved: bool  # a checkpoint of this step has been written
    sample: bool  # somebody asked for pictures of this step, or a checkpoint was written
    evaluate: bool  # somebody asked for evidence of this step, of which there is a checkpoint
    model: nn.Module = field(repr=False)  # the running average of the weights


@dataclass(frozen=True)
class ControlState:
    """What was asked, as every process must follow it."""

    changes: tuple[Override, ...] = ()
    paused: bool = False
    stopping: bool = False


class RunRecorder:
    """Written by the one process that owns the run; the others only compute."""

    def __init__(self, run: Run, config: TrainConfig, step: int, steering: WeightOverrides) -> None:
        self.run, self.config, self.step, self.steering = run, config, step, steering
        self.paused = self.stopping = self.sampling = self.evaluating = False
        self.terms: list[dict[str, Tensor]] = []  # since the last record
        self.names: list[str] = []  # of the objective's terms
        self.means: dict[str, float] = {}  # of the last record
        self.recent: deque[tuple[int, float]] = deque([(step, time.monotonic())], maxlen=20)
        run.rewind(step)
        run.event("resumed" if step else "started", step)
        self.mailbox = ControlListener(run)
        self._report("running")

    def note(self, step: int, terms: dict[str, Tensor], gradient: Tensor) -> None:
        """Take note of a step."""
        self.step, self.names = step, list(terms)
        self.terms.append(
            {name: value.detach() for name, value in {**terms, "gradient": gradient}.items()}
        )

    def hear(self) -> ControlState:
        """Do what has been asked since the last step, and record it; a pause lasts until resume or stop."""
        changes, paused = [], self.paused
        for wish in self.mailbox.take():
            try:
                change = self._obey(wish)
            except UserError as error:
                self.run.event("refused", self.step, id=wish["id"], why=str(error))
                continue
            if change:
                self.steering.change(change)
                changes.append(change)
        if paused and not self.paused:
            self.recent.clear()
        if paused != self.paused or changes:
            self._report("paused" if self.paused else "running")
        return ControlState(tuple(changes), self.paused, self.stopping)

    def due(self, step: int) -> bool:
        """Whether a record is: on the log's rhythm, at a checkpoint, or because somebody asked."""
        asked = self.sampling or self.evaluating or self.stopping
        return asked or (
            bool(self.terms) and (step % self.config.log_every == 0 or self._saving(step))
        )

    def record(self, step: int, learner: TrainState) -> TrainRecord:
        """Log the mean of the terms, save if it is time to, and say where training stands."""
        if self.terms:  # none, where a paused run is asked for something
            self.means = self._means()
            self.recent.append((step, time.monotonic()))
            rate = self.steering.weight(None, step - 1) * learning_rate(self.config, step - 1)
            self.run.log(step, **self.means, lr=rate, time=time.time())
            self._report("paused" if self.paused else "running")
        sample, evaluate = self.sampling, self.evaluating
        saving = self._saving(step) or evaluate
        self.sampling = self.evaluating = False
        if saving:
            self.save(step, learner)
        left = self._seconds_left()
        return TrainRecord(
            step,
            self.config.steps,
            self.means,
            left,
            saving,
            sample or saving,
            evaluate,
            learner.ema,
        )

    def save(self, step: int, learner: TrainState) -> None:
        """Write a checkpoint, unless this step has one."""
        if step not in self.run.steps:
            self.run.save(step, learner.state())
            self.run.event("saved", step)

    def leave(self, state: str, **more: Any) -> None:
        """The last word."""
        self.mailbox.close()
        for wish in self.mailbox.take():
            self.run.event(
                "refused", self.step, id=wish["id"], why=f"The run had {state} before it could."
            )
        self.run.event(state, self.step, **more)
        self._report(state)

    def _obey(self, wish: dict[str, Any]) -> Override | None:
        """Record one request, and do it or return what it changes. Raises UserError for what cannot be done."""
        told = make_command(
            wish["command"], self.names, term=wish.get("term"), value=wish.get("value")
        )
        command = told.pop("command")
        self.run.event(command, self.step, id=wish["id"], **told)
        self.stopping |= command == "stop"
        self.sampling |= command == "sample"
        self.evaluating |= command == "evaluate"
        if command in ("pause", "resume", "stop"):
            self.paused = command == "pause"
        return Override(self.step, told.get("term"), told["value"]) if "value" in told else None

    def _saving(self, step: int) -> bool:
        return step % self.config.save_every == 0 or step == self.config.steps or self.stopping

    def _means(self) -> dict[str, float]:
        names, rows = (
            list(self.terms[0]),
            [torch.stack([v.float() for v in terms.values()]) for terms in self.terms],
        )
        means = dict(
            zip(names, torch.stack(rows).mean(dim=0).tolist(), strict=True)
        )  # the one wait for the device
        self.terms = []
        for name, value in means.items():
            if not math.isfinite(value):
                kept = (
                    f"the checkpoint of step {self.run.steps[-1]} is kept"
                    if self.run.steps
                    else "nothing was saved yet"
                )
                raise UserError(
                    f"The {name} term became {value} by step {self.step}; {kept}. Try a lower lr."
                )
        return means

    def _seconds_left(self) -> float | None:
        if len(self.recent) < 2:
            return None
        (first, began), (last, ended) = self.recent[0], self.recent[-1]
        return (self.config.steps - self.step) * (ended - began) / max(1, last - first)

    def _report(self, state: str) -> None:
        more = {"seconds_left": self._seconds_left() if state == "running" else None}
        more |= {"weights": {name: self.steering.weight(name, self.step) for name in self.names}}
        more |= {"lr": self.steering.weight(None, self.step)}
        self.mailbox.report(state, self.step, steps=self.config.steps, **more)
