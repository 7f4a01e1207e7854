"""The loop itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.storage.run import Run
from workbench.training.config import TrainConfig, step_seed
from workbench.training.dataloading import MapDataset, Rank, StreamDataset, prefetch_batches
from workbench.training.overrides import WeightOverrides
from workbench.training.recorder import ControlState, RunRecorder, TrainRecord
from workbench.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit(
    model: nn.Module,
    data: MapDataset | StreamDataset,
    config: TrainConfig,
    run: Run,
    *,
    tick: Callable[[int, int], None] | None = None,
) -> Iterator[TrainRecord]:
    """Train the model, keeping everything in the run's folder; resume from its last checkpoint if it has one.

    Yields a record every `log_every` steps, at each checkpoint, and when somebody asks for pictures or evidence.
    Closing the iterator stops, with a checkpoint. `tick` hears done and total of what a model does before its first
    step, such as clustering. Of several processes the first writes and yields; the others compute.
    Raises RunError if another process is training this run, UserError if a term of the loss is no longer finite.

    A term's multiplier or the learning rate's, asked for on the way, is kept as an event of its step and is in force
    from the next update on; a run that goes on repeats its events. The log holds what the optimiser saw: terms times
    their multipliers, and the learning rate times its own.
    """
    from accelerate import Accelerator

    share = Rank.current()
    share.part(config)
    accelerator = Accelerator(mixed_precision=config.precision)
    with run.writing() if share.rank == 0 else nullcontext():
        model.to(accelerator.device).train()
        if not run.steps and hasattr(model, "prepare"):
            model.prepare(data, config.seed, tick)
        learner, steering = TrainState(model, config), WeightOverrides(run.events())
        step, orders = learner.restore(run), ControlState()
        accelerator.wait_for_everyone()  # nobody writes before all have read
        stepper = torch.compile(LossModule(model)) if config.compile else LossModule(model)
        objective, *optimizers = accelerator.prepare(stepper, *learner.optimizers)
        update = TrainStep(accelerator, objective, optimizers, learner, steering)
        desk = RunRecorder(run, config, step, steering) if share.rank == 0 else None
        try:
            with closing(
                prefetch_batches(data, config, share, step, accelerator.device)
            ) as batches:
                while step < config.steps and not orders.stopping:
                    torch.manual_seed(step_seed(config, step * share.world_size + share.rank))
                    noted = update(next(batches), step)
                    step += 1
                    if desk:
                        desk.note(step, *noted)
                    while True:
                        orders = _agree(accelerator, desk, steering, step, config)
                        if desk and desk.due(step):
                            yield desk.record(step, learner)
                        if not orders.paused:
                            break
                        time.sleep(0.1)
        except (GeneratorExit, KeyboardInterrupt) as stop:
            if desk and isinstance(
                stop, GeneratorExit
            ):  # only ever at a record: weights are whole, and just checked
                desk.save(step, learner)
            if desk:
                desk.leave("stopped")
            raise
        except BaseException as error:
            if desk:
                desk.leave(
                    "failed",
                    why=str(error)
                    if isinstance(error, UserError)
                    else f"{type(error).__name__}: {error}",
                )
            raise
        if desk:
            desk.leave("finished" if step >= config.steps else "stopped")
        accelerator.wait_for_everyone()  # a process that returns may look at how the run stands


@dataclass(frozen=True)
class TrainStep:
    """One step of the optimisers; all it does is a function of the weights, the batch and the step."""

    accelerator: "Accelerator"
    objective: nn.Module
    optimizers: list[torch.optim.Optimizer]
    learner: TrainState
    steering: WeightOverrides

    def __call__(self, batch: tuple[Tensor, ...], step: int) -> tuple[dict[str, Tensor], Tensor]:
        """The terms times their multipliers, and the gradient's norm before it was clipped."""
        learner, config = self.learner, self.learner.config
        if hasattr(learner.model, "progress"):
            learner.model.progress.fill_(step / config.steps)
        terms = self._backward(batch, step)
        norm = self.accelerator.clip_grad_norm_(learner.dense, config.clip)
        learner.set_rate(step, self.steering.weight(None, step))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        learner.follow(step)
        return terms, norm

    def _backward(self, batch: tuple[Tensor, ...], step: int) -> dict[str, Tensor]:
        """Gradients of one batch, in equal parts, added up; returns the mean of the terms over parts and processes.

        Processes add theirs up once, with the last part.
        """
        means: dict[str, Tensor] = {}
        parts = self.learner.config.accumulation_steps
        chunks = list(zip(*(tensor.chunk(parts) for tensor in batch), strict=True))
        for number, chunk in enumerate(chunks, 1):
            with nullcontext() if number == parts else self.accelerator.no_sync(self.objective):
                terms = self.steering.weighted(self.objective(*chunk), step)
                self.accelerator.backward(torch.stack(list(terms.values())).sum() / parts)
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach() / parts
        return self.accelerator.reduce(means, reduction="mean")


class LossModule(nn.Module):
    """A model's objective as a forward pass, which is what wrappers for several processes and precisions wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """The objective's terms."""
        return self.model.objective(*batch).terms


def _agree(
    accelerator: "Accelerator",
    desk: RunRecorder | None,
    steering: WeightOverrides,
    step: int,
    config: TrainConfig,
) -> ControlState:
    """What was asked, the same for all: of several processes the others ask the first, when it logs.

    They ask again and again while the run is paused, as nobody may be kept waiting for long.
    """
    if accelerator.num_processes == 1:
        return desk.hear()
    if step % config.log_every and step != config.steps:
        return ControlState()
    from accelerate.utils import broadcast_object_list

    heard = [desk.hear() if desk else None]
    orders = broadcast_object_list(heard)[0]
    for change in () if desk else orders.changes:
        steering.change(change)
    return orders
