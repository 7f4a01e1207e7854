"""The loop itself."""

from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workbench.runs import Run
from workbench.training.desk import Desk, Progress
from workbench.training.feed import Data, Share, Stream, feed
from workbench.training.learner import Learner
from workbench.training.plan import Plan, seed_of

if TYPE_CHECKING:
    from accelerate import Accelerator


def fit(model: nn.Module, data: Data | Stream, plan: Plan, run: Run) -> Iterator[Progress]:
    """Train the model, keeping everything in the run's folder; resume from its last checkpoint if it has one.

    Yields a record every `log_every` steps and at each checkpoint. Closing the iterator stops, with a checkpoint. Of
    several processes the first writes and yields; the others only compute.
    Raises RunError if another process is training this run, UserError if a term of the loss is no longer finite.
    """
    from accelerate import Accelerator

    share = Share.here()
    share.part(plan)
    accelerator = Accelerator(mixed_precision=plan.precision)
    with run.writing() if share.rank == 0 else nullcontext():
        model.to(accelerator.device).train()
        if not run.steps and hasattr(model, "prepare"):
            model.prepare(data, plan.seed)
        learner = Learner(model, plan)
        step, stopping = learner.restore(run), False
        accelerator.wait_for_everyone()  # nobody writes before all have read
        desk = Desk(run, plan, step) if share.rank == 0 else None
        stepper = torch.compile(Stepper(model)) if plan.compile else Stepper(model)
        objective, *optimizers = accelerator.prepare(stepper, *learner.optimizers)
        try:
            with closing(feed(data, plan, share, step, accelerator.device)) as batches:
                while step < plan.steps and not stopping:
                    torch.manual_seed(seed_of(plan, step * share.of + share.rank))
                    if hasattr(model, "progress"):
                        model.progress.fill_(step / plan.steps)
                    terms = _backward(accelerator, objective, next(batches), plan.accumulate)
                    norm = accelerator.clip_grad_norm_(learner.dense, plan.clip)
                    learner.set_rate(step)
                    for optimizer in optimizers:
                        optimizer.step()
                        optimizer.zero_grad()
                    learner.follow(step)
                    step += 1
                    if desk:
                        desk.attend(step, {**terms, "gradient": norm})
                        if desk.due(step):
                            yield desk.record(step, learner)
                    stopping = _agree(accelerator, desk is not None and desk.stopping, step, plan)
        except (GeneratorExit, KeyboardInterrupt) as stop:
            if desk and isinstance(stop, GeneratorExit):  # only ever at a record: weights are whole, and just checked
                desk.save(step, learner)
            if desk:
                desk.leave("stopped")
            raise
        except BaseException:
            if desk:
                desk.leave("failed")
            raise
        if desk:
            desk.leave("finished" if step >= plan.steps else "stopped")
        accelerator.wait_for_everyone()  # a process that returns may look at how the run stands


class Stepper(nn.Module):
    """A model's objective as a forward pass, which is what wrappers for several processes and precisions wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """The objective's terms."""
        return self.model.objective(*batch).terms


def _backward(
    accelerator: "Accelerator", objective: nn.Module, batch: tuple[Tensor, ...], parts: int
) -> dict[str, Tensor]:
    """Gradients of one batch, in equal parts, added up; returns the mean of the terms over parts and processes.

    Processes add theirs up once, with the last part.
    """
    means: dict[str, Tensor] = {}
    chunks = list(zip(*(tensor.chunk(parts) for tensor in batch), strict=True))
    for number, chunk in enumerate(chunks, 1):
        with nullcontext() if number == parts else accelerator.no_sync(objective):
            terms = objective(*chunk)
            accelerator.backward(torch.stack(list(terms.values())).sum() / parts)
        for name, value in terms.items():
            means[name] = means.get(name, 0) + value.detach() / parts
    return accelerator.reduce(means, reduction="mean")


def _agree(accelerator: "Accelerator", stopping: bool, step: int, plan: Plan) -> bool:
    """Whether to stop: of several processes all must at the same step, so they ask the first when it logs."""
    if accelerator.num_processes == 1:
        return stopping
    if step % plan.log_every:
        return False
    from accelerate.utils import broadcast

    return bool(broadcast(torch.tensor(float(stopping), device=accelerator.device)).item())
