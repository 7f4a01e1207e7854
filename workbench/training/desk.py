"""A run's paperwork while it trains: requests answered, lines logged, checkpoints written, time left told."""

import math
import time
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.runs import Run
from workbench.training.learner import Learner
from workbench.training.plan import Plan, learning_rate


@dataclass(frozen=True)
class Progress:
    """Where training stands, every few steps."""

    step: int
    steps: int
    terms: dict[str, float]  # mean of the objective's terms since the last record
    seconds_left: float | None  # from the speed of the latest records
    saved: bool  # a checkpoint of this step has been written
    sample: bool  # somebody asked for pictures of this step, or a checkpoint was written
    model: nn.Module = field(repr=False)  # the running average of the weights


class Desk:
    """Written by the one process that owns the run; the others only compute."""

    def __init__(self, run: Run, plan: Plan, step: int) -> None:
        self.run, self.plan, self.step = run, plan, step
        self.stopping = self.sampling = False
        self.answered = max((request["id"] for request in run.asked()), default=0)  # older ones were not for us
        self.terms: list[dict[str, Tensor]] = []  # since the last record
        self.recent: deque[tuple[int, float]] = deque([(step, time.monotonic())], maxlen=20)
        self.looked = time.monotonic()
        run.rewind(step)
        run.event("resumed" if step else "started", step)
        self._report("running")

    def attend(self, step: int, terms: dict[str, Tensor]) -> None:
        """Take note of a step, and answer what has been asked; a pause lasts until resume or stop."""
        self.step = step
        self.terms.append({name: value.detach() for name, value in terms.items()})
        if time.monotonic() - self.looked < 0.2:
            return
        paused = self._answer(paused=False)
        while paused and not self.stopping:
            time.sleep(0.1)
            paused = self._answer(paused)
            self.recent.clear()
        self.looked = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a record is: on the log's rhythm, at a checkpoint, or because somebody asked."""
        return step % self.plan.log_every == 0 or self._saving(step) or self.sampling

    def record(self, step: int, learner: Learner) -> Progress:
        """Log the mean of the terms, save if it is time to, and say where training stands."""
        means = self._means()
        self.recent.append((step, time.monotonic()))
        self.run.log(step, **means, lr=learning_rate(self.plan, step - 1), time=time.time())
        self._report("running")
        saving, sample, self.sampling = self._saving(step), self.sampling, False
        if saving:
            self.save(step, learner)
        return Progress(step, self.plan.steps, means, self._seconds_left(), saving, sample or saving, learner.average)

    def save(self, step: int, learner: Learner) -> None:
        """Write a checkpoint, unless this step has one."""
        if step not in self.run.steps:
            self.run.save(step, learner.state())
            self.run.event("saved", step)

    def leave(self, state: str) -> None:
        """The last word."""
        self.run.event(state, self.step)
        self._report(state)

    def _saving(self, step: int) -> bool:
        return step % self.plan.save_every == 0 or step == self.plan.steps or self.stopping

    def _answer(self, paused: bool) -> bool:
        for request in self.run.asked():
            if request["id"] > self.answered:
                self.answered, command = request["id"], request["command"]
                paused = command == "pause" or (paused and command == "sample")
                self.stopping |= command == "stop"
                self.sampling |= command == "sample"
                self.run.event(command, self.step, id=self.answered)
                self._report("paused" if paused else "running")
        return paused

    def _means(self) -> dict[str, float]:
        names, rows = list(self.terms[0]), [torch.stack([v.float() for v in terms.values()]) for terms in self.terms]
        means = dict(zip(names, torch.stack(rows).mean(dim=0).tolist(), strict=True))  # the one wait for the device
        self.terms = []
        for name, value in means.items():
            if not math.isfinite(value):
                kept = (
                    f"the checkpoint of step {self.run.steps[-1]} is kept"
                    if self.run.steps
                    else "nothing was saved yet"
                )
                raise UserError(f"The {name} term became {value} by step {self.step}; {kept}. Try a lower lr.")
        return means

    def _seconds_left(self) -> float | None:
        if len(self.recent) < 2:
            return None
        (first, began), (last, ended) = self.recent[0], self.recent[-1]
        return (self.plan.steps - self.step) * (ended - began) / max(1, last - first)

    def _report(self, state: str) -> None:
        left = self._seconds_left() if state == "running" else None
        self.run.report(state, self.step, steps=self.plan.steps, seconds_left=left, answered=self.answered)
