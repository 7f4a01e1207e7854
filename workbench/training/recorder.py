"""Bookkeeping during training.

The recorder applies control commands, writes logs and checkpoints, and estimates the remaining
time.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.damage import take_damage_reports
from workbench.core.errors import UserError
from workbench.core.progress import ProgressEstimate
from workbench.storage.control import make_command
from workbench.storage.run import Run
from workbench.training.config import TrainConfig, learning_rate
from workbench.training.control_listener import ControlListener
from workbench.training.overrides import Override, WeightOverrides
from workbench.training.state import TrainState
from workbench.training.statistics import CodeUsage, HeldOutLoss, peak_memory_bytes


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """The state of training every few steps.

    Attributes
    ----------
    step, steps : int
        The finished steps, and the total.
    terms : dict of float
        The mean of each loss term, times its multiplier, since the last record.
    seconds_left : float or None
        An estimate from the speed of the latest records.
    saved : bool
        Whether a checkpoint of this step was written.
    sample : bool
        Whether sample images of this step are requested.
    evaluate : bool
        Whether evidence of this step is requested, which then has a checkpoint.
    model : Module
        The model with the moving average of the weights.
    """

    step: int
    steps: int
    terms: dict[str, float]
    seconds_left: float | None
    saved: bool
    sample: bool
    evaluate: bool
    model: nn.Module = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ControlState:
    """The commands in force, which every process must follow.

    Attributes
    ----------
    overrides : tuple of Override
        Overrides since the last poll.
    paused, stopping : bool
        Whether training is paused, and whether it ends after this step.
    """

    overrides: tuple[Override, ...] = ()
    paused: bool = False
    stopping: bool = False


class RunRecorder:
    """Writes a run while it trains. Only the main process has one.

    Parameters
    ----------
    run : Run
        The run whose folder is written.
    config : TrainConfig
        The training settings.
    step : int
        The step at which training starts or resumes.
    overrides : WeightOverrides
        The multipliers; commands add to them.
    usage : CodeUsage, optional
        The counts of codes, logged with the terms.
    held_out : HeldOutLoss, optional
        The loss of held-out items, logged with the terms.
    """

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        step: int,
        overrides: WeightOverrides,
        *,
        usage: CodeUsage | None = None,
        held_out: HeldOutLoss | None = None,
    ) -> None:
        self.run = run
        self.config = config
        self.step = step
        self.overrides = overrides
        self.usage = usage
        self.held_out = held_out
        self.paused = False
        self.stopping = False
        self._sample_requested = False
        self._evaluate_requested = False
        self._pending_terms: list[dict[str, Tensor]] = []  # since the last record
        self._term_names: list[str] = []
        self._logged_damage: set[str] = set()
        self._means: dict[str, float] = {}  # of the last record
        take_damage_reports()  # of whatever was read before
        self._estimate = ProgressEstimate(config.steps, min_intervals=1)
        self._estimate.report(step)
        run.rewind(step)
        run.event("resumed" if step else "started", step)
        self._listener = ControlListener(run)
        self._report("running")

    def add_step(self, step: int, terms: dict[str, Tensor], gradient_norm: Tensor) -> None:
        """Add the loss terms and the norm of the gradient of a finished step."""
        self.step = step
        self._term_names = list(terms)
        values = {**terms, "gradient": gradient_norm}
        self._pending_terms.append({name: value.detach() for name, value in values.items()})

    def poll_control(self) -> ControlState:
        """Apply and log the commands since the last call. A pause lasts until resume or stop."""
        overrides = []
        was_paused = self.paused
        for reason in self._listener.drain_failures():
            self.run.event("control failed", self.step, why=reason)
        for command in self._listener.drain():
            try:
                override = self._apply(command)
            except UserError as error:
                self.run.event("refused", self.step, id=command["id"], why=str(error))
                continue
            if override is not None:
                self.overrides.add(override)
                overrides.append(override)
        if was_paused and not self.paused:
            self._estimate.reset()
        if was_paused != self.paused or overrides:
            self._report("paused" if self.paused else "running")
        return ControlState(overrides=tuple(overrides), paused=self.paused, stopping=self.stopping)

    def should_record(self, step: int) -> bool:
        """Return True at multiples of log_every, at checkpoints, and after a command for one."""
        if self._sample_requested or self._evaluate_requested or self.stopping:
            return True
        is_scheduled = step % self.config.log_every == 0 or self._should_save(step)
        return bool(self._pending_terms) and is_scheduled

    def record(self, step: int, state: TrainState) -> TrainRecord:
        """Log the mean of the terms, write a checkpoint if it is due, and return the record.

        Raises
        ------
        UserError
            If a term of the loss is not finite.
        """
        if self._pending_terms:  # empty if a paused run records again
            self._means = self._mean_terms()
            self._estimate.report(step)
            multiplier = self.overrides.multiplier(None, step - 1)
            rate = multiplier * learning_rate(self.config, step - 1)
            self.run.log(step, **self._means, lr=rate, time=time.time())
            self.run.log_statistics(step, **self._statistics(step, state))
            self._log_damage(step)
            self._report("paused" if self.paused else "running")
        sample = self._sample_requested
        evaluate = self._evaluate_requested
        self._sample_requested = False
        self._evaluate_requested = False
        saved = self._should_save(step) or evaluate
        if saved:
            self.save(step, state)
        return TrainRecord(
            step=step,
            steps=self.config.steps,
            terms=self._means,
            seconds_left=self._seconds_left(),
            saved=saved,
            sample=sample or saved,
            evaluate=evaluate,
            model=state.ema,
        )

    def save(self, step: int, state: TrainState) -> None:
        """Write a checkpoint, unless this step has one."""
        if step not in self.run.steps:
            self.run.save(step, state.state_dict())
            self.run.event("saved", step)

    def finish(self, state: str, **details: Any) -> None:
        """Stop listening and record the final state: finished, stopped or failed."""
        self._listener.close()
        for command in self._listener.drain():
            why = f"The run had {state} before the command was applied."
            self.run.event("refused", self.step, id=command["id"], why=why)
        self.run.event(state, self.step, **details)
        self._report(state)

    def _apply(self, request: dict[str, Any]) -> Override | None:
        """Log one command and apply it; return the override that it adds, if any."""
        arguments = make_command(
            request["command"],
            self._term_names,
            term=request.get("term"),
            value=request.get("value"),
        )
        command = arguments.pop("command")
        self.run.event(command, self.step, id=request["id"], **arguments)
        self.stopping |= command == "stop"
        self._sample_requested |= command == "sample"
        self._evaluate_requested |= command == "evaluate"
        if command in ("pause", "resume", "stop"):
            self.paused = command == "pause"
        if "value" not in arguments:
            return None
        return Override(step=self.step, term=arguments.get("term"), value=arguments["value"])

    def _log_damage(self, step: int) -> None:
        """Log sentences about damaged images, each once."""
        new = set(take_damage_reports()) - self._logged_damage
        self._logged_damage |= new
        if new:
            self.run.event("damaged images", step, why=" ".join(sorted(new)))

    def _should_save(self, step: int) -> bool:
        return step % self.config.save_every == 0 or step == self.config.steps or self.stopping

    def _mean_terms(self) -> dict[str, float]:
        """Average the pending terms; the only point that waits for the device."""
        names = list(self._pending_terms[0])
        rows = [
            torch.stack([value.float() for value in terms.values()])
            for terms in self._pending_terms
        ]
        values = torch.stack(rows).mean(dim=0).tolist()
        means = dict(zip(names, values, strict=True))
        self._pending_terms = []
        for name, value in means.items():
            if not math.isfinite(value):
                remaining = "no checkpoint was written yet"
                if self.run.steps:
                    remaining = f"the checkpoint of step {self.run.steps[-1]} is kept"
                raise UserError(
                    f"The loss term {name} became {value} by step {self.step}; {remaining}. "
                    "Try a lower lr."
                )
        return means

    def _statistics(self, step: int, state: TrainState) -> dict[str, float]:
        """Return the numbers since the last record that training does not minimize."""
        values: dict[str, float] = {"memory_bytes": peak_memory_bytes()}
        if self.usage is not None:
            values |= self.usage.take()
        if self.held_out is not None:
            values |= self.held_out.compute(step, state.ema)
        # A loss that is not finite is no number that the log can hold.
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def _seconds_left(self) -> float | None:
        interval = self._estimate.seconds_left()
        return None if interval is None else sum(interval) / 2

    def _report(self, state: str) -> None:
        weights = {name: self.overrides.multiplier(name, self.step) for name in self._term_names}
        self._listener.report(
            state,
            self.step,
            steps=self.config.steps,
            seconds_left=self._seconds_left() if state == "running" else None,
            weights=weights,
            lr=self.overrides.multiplier(None, self.step),
        )
