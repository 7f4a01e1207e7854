"""The training loop."""

import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.core.batch_shares import BatchShares, NotMeasuredError
from workbench.core.errors import UserError
from workbench.core.types import Dataset, NeedsPreparation, TracksProgress, Trainable
from workbench.storage.run import Run
from workbench.training.config import TrainConfig, step_seed
from workbench.training.dataloading import Rank, prefetch_batches
from workbench.training.overrides import WeightOverrides
from workbench.training.recorder import ControlState, RunRecorder, TrainRecord
from workbench.training.state import TrainState
from workbench.training.statistics import CodeUsage, HeldOutLoss

if TYPE_CHECKING:
    from accelerate import Accelerator

PAUSE_POLL_S = 0.1  # seconds between two polls for commands while training is paused


def fit(
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    run: Run,
    held_out: tuple[Tensor, ...] | None = None,
) -> Generator[TrainRecord, None, None]:
    """Train a model and store everything in the run's folder.

    Training resumes from the run's last checkpoint, if it has one. With several processes, the main
    process writes and yields; the others compute. Closing the iterator writes a checkpoint and
    stops.

    A command that changes the multiplier of a loss term or of the learning rate is logged as an
    event of its step and is in force from the next update on; a resumed run repeats its events. The
    log holds what the optimizer received: terms times their multipliers, and the learning rate
    times its multiplier.

    Parameters
    ----------
    model : Module
        A model with an `objective`. A model that `NeedsPreparation` is prepared before the first
        step; its progress is reported to the listener of `workbench.core.progress`.
    data : Dataset
        The training data.
    config : TrainConfig
        The training settings.
    run : Run
        The run whose folder receives checkpoints, logs and events.
    held_out : tuple of Tensor, optional
        One batch of held-out items, the arguments of the objective. Their loss is logged.

    Yields
    ------
    TrainRecord
        Every `log_every` steps, at each checkpoint, and after a command for samples or evidence.

    Raises
    ------
    RunError
        If another process is training this run.
    UserError
        If the batch does not divide among the processes, or a term of the loss is not finite.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    process = Rank.current()
    process.items_per_step(config)  # refuse a batch that does not divide before anything is written
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.precision:
        AcceleratorState._reset_state()  # an earlier training in this Python process set it
    accelerator = Accelerator(mixed_precision=config.precision)
    # Parts of a batch are averaged here. `accelerate launch` may set another number.
    accelerator.gradient_accumulation_steps = 1
    with run.writing() if process.is_main else nullcontext():
        model.to(accelerator.device).train()
        if not run.steps and isinstance(model, NeedsPreparation):
            model.prepare(data, config.seed)
        state = TrainState(model, config)
        overrides = WeightOverrides(run.events())
        step = state.restore(run)
        accelerator.wait_for_everyone()  # before the main process writes
        shares = BatchShares(
            rank=process.rank,
            world_size=process.world_size,
            parts=config.accumulation_steps,
            compiled=config.compile,
        )
        train_step = TrainStep.create(accelerator, state, overrides, shares)
        recorder: RunRecorder | None = None
        if process.is_main:
            held_out_loss = None if held_out is None else HeldOutLoss(held_out, config)
            recorder = RunRecorder(
                run, config, step, overrides, usage=train_step.usage, held_out=held_out_loss
            )
        try:
            with closing(
                prefetch_batches(data, config, process, step, accelerator.device)
            ) as batches:
                control = ControlState()
                while step < config.steps and not control.stopping:
                    terms, gradient_norm = train_step(next(batches), step)
                    step += 1
                    if recorder:
                        recorder.add_step(step, terms, gradient_norm)
                    control = yield from _records(
                        accelerator, recorder, state, overrides, step, config
                    )
        except GeneratorExit:
            if recorder:
                # The iterator is closed at a record, where the weights were just checked.
                recorder.save(step, state)
                recorder.finish("stopped")
            raise
        except KeyboardInterrupt:
            if recorder:
                recorder.finish("stopped")
            raise
        except BaseException as error:
            if recorder:
                recorder.finish("failed", why=_reason(error))
            raise
        if recorder:
            recorder.finish("finished" if step >= config.steps else "stopped")
        accelerator.wait_for_everyone()  # a process that returns may read the run's status


@dataclass(frozen=True)
class TrainStep:
    """One step of the optimizers: a function of the weights, the batch and the step alone.

    Attributes
    ----------
    accelerator : Accelerator
        Precision and communication.
    objective : Module
        The loss, wrapped for several processes.
    optimizers : list of Optimizer
        The wrapped optimizers.
    state : TrainState
        The model and its moving average.
    overrides : WeightOverrides
        The multipliers.
    shares : BatchShares
        The division of the batch into processes and parts.
    usage : CodeUsage
        Counts the codes that are selected.
    """

    accelerator: "Accelerator"
    objective: nn.Module
    optimizers: list[torch.optim.Optimizer]
    state: TrainState
    overrides: WeightOverrides
    shares: BatchShares
    usage: CodeUsage

    @classmethod
    def create(
        cls,
        accelerator: "Accelerator",
        state: TrainState,
        overrides: WeightOverrides,
        shares: BatchShares,
    ) -> "TrainStep":
        """Compile the loss if the settings require it, and wrap it and the optimizers."""
        loss = LossModule(state.model)
        objective, *optimizers = accelerator.prepare(
            torch.compile(loss) if state.config.compile else loss, *state.optimizers
        )
        return cls(
            accelerator=accelerator,
            objective=objective,
            optimizers=optimizers,
            state=state,
            overrides=overrides,
            shares=shares,
            usage=CodeUsage(state.model),
        )

    def __call__(self, batch: tuple[Tensor, ...], step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Update the weights.

        Returns
        -------
        terms : dict of Tensor
            The loss terms times their multipliers.
        gradient_norm : Tensor
            The norm of the gradient before clipping; without that of a discriminator that is
            clipped separately.
        """
        config = self.state.config
        # The held-out loss is computed with the moving average, on the same schedules.
        for model in (self.state.model, self.state.ema):
            if isinstance(model, TracksProgress):
                model.set_progress(step / config.steps)
        terms = self._backward(batch, step)
        gradient_norm, *_ = [
            self.accelerator.clip_grad_norm_(group, config.clip) for group in self.state.clip_groups
        ]
        self.state.set_learning_rate(step, self.overrides.multiplier(None, step))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.state.update_ema(step)
        return terms, gradient_norm

    def _backward(self, batch: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Accumulate the gradients of one batch in equal parts.

        Processes exchange gradients once, with the last part. Returns the mean of each term over
        parts and processes.
        """
        means: dict[str, Tensor] = {}
        parts = self.shares.parts
        chunks = list(zip(*(tensor.chunk(parts) for tensor in batch), strict=True))
        self.shares.start_step(step_seed(self.state.config, step))
        if self.shares.needs_measuring:
            self._measure(chunks)
        for part, chunk in enumerate(chunks):
            is_last = part == parts - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.objective):
                try:
                    terms, codes = self._terms(part, chunk)
                except NotMeasuredError:
                    self._measure(chunks)  # the first step finds out that this is needed
                    terms, codes = self._terms(part, chunk)
                if codes is not None:
                    self.usage.add(codes)
                terms = self.overrides.apply(terms, step)
                self.accelerator.backward(torch.stack(list(terms.values())).sum() / parts)
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach() / parts
        return self.accelerator.reduce(means, reduction="mean")

    def _terms(
        self, part: int, chunk: tuple[Tensor, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        with self.shares.computing(part):
            return self.objective(*chunk)

    def _measure(self, chunks: list[tuple[Tensor, ...]]) -> None:
        """Measure the statistics of the whole batch that the loss of each part needs."""
        with self.accelerator.no_sync(self.objective):
            for part, chunk in enumerate(chunks):
                with self.shares.computing(part, measuring=True):
                    self.objective(*chunk)


class LossModule(nn.Module):
    """The objective of a model as a forward pass, as wrappers of modules expect it."""

    model: Trainable

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, Trainable):
            raise TypeError(f"{type(model).__name__} must have an objective to be trained.")
        self.model = model

    def forward(self, *batch: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the terms of the objective, and the codes that it selected."""
        objective = self.model.objective(*batch)
        return objective.terms, objective.codes


def _records(
    accelerator: "Accelerator",
    recorder: RunRecorder | None,
    state: TrainState,
    overrides: WeightOverrides,
    step: int,
    config: TrainConfig,
) -> Generator[TrainRecord, None, ControlState]:
    """Apply commands and yield a record if one is due; repeat this while training is paused."""
    while True:
        control = _agree_on_control(accelerator, recorder, overrides, step, config)
        if recorder and recorder.should_record(step):
            yield recorder.record(step, state)
        if not control.paused:
            return control
        time.sleep(PAUSE_POLL_S)


def _agree_on_control(
    accelerator: "Accelerator",
    recorder: RunRecorder | None,
    overrides: WeightOverrides,
    step: int,
    config: TrainConfig,
) -> ControlState:
    """Return the same commands in every process.

    Several processes receive them from the main process at multiples of log_every, and repeatedly
    while the run is paused, so that no process waits for long.
    """
    if recorder and accelerator.num_processes == 1:
        return recorder.poll_control()
    if step % config.log_every and step != config.steps:
        return ControlState()
    from accelerate.utils import broadcast_object_list

    (control,) = broadcast_object_list([recorder.poll_control() if recorder else None])
    if recorder is None:
        for override in control.overrides:
            overrides.add(override)
    return control


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
