"""One loop that trains anything with an `objective`, one step at a time, and can be killed at any of them.

The batch, the learning rate and the seed are functions of the step: a run that was interrupted and resumed has equal
weights to one that was not.
"""

import copy
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from workbench.atomic import read_tensors
from workbench.errors import UserError
from workbench.runs import Run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long, how fast, and from which seed."""

    steps: int = 1000
    batch: int = 64  # items a step
    lr: float = 2e-3  # peak learning rate of AdamW
    warmup: int = 100  # steps to reach it
    final_lr: float = 0.02  # share of the peak that the cosine ends at
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4  # of weight matrices alone
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.995  # decay of the weights' running average; shorter in the first steps
    save_every: int = 250  # steps between checkpoints
    log_every: int = 10  # steps between lines of the log
    precision: str = "no"  # "no" is float32, "bf16" helps on a GPU
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("average", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be below 0.")
        if self.precision not in ("no", "bf16"):
            raise UserError(f"precision is `{self.precision}`; it is one of no, bf16.")


@runtime_checkable
class Data(Protocol):
    """What can be trained on: a length, and the arguments of `objective` for some of its items."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The items at the indices."""
        ...


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


def fit(model: nn.Module, data: Data, plan: Plan, run: Run) -> Iterator[Progress]:
    """Train the model, keeping everything in the run's folder; resume from its last checkpoint if it has one.

    Yields a record every `log_every` steps and at each checkpoint. Closing the iterator stops, with a checkpoint.
    Raises RunError if another process is training this run, UserError if a term of the loss is no longer finite.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=plan.precision)
    learner = Learner(model.to(accelerator.device).train(), plan)
    with run.writing(), ThreadPoolExecutor(1) as ahead:
        step = learner.restore(run)
        desk = Desk(run, plan, step)
        objective, optimizer = accelerator.prepare(Stepper(model), learner.optimizer)
        upcoming = ahead.submit(_batch, data, plan, step, accelerator.device)
        try:
            while step < plan.steps and not desk.stopping:
                batch = upcoming.result()
                upcoming = ahead.submit(_batch, data, plan, step + 1, accelerator.device)
                torch.manual_seed(_seed(plan.seed, step))
                terms = objective(*batch)
                accelerator.backward(torch.stack(list(terms.values())).sum())
                norm = accelerator.clip_grad_norm_(model.parameters(), plan.clip)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(plan, step)
                optimizer.step()
                optimizer.zero_grad()
                learner.follow(step)
                step += 1
                desk.attend(step, {**terms, "gradient": norm})
                if desk.due(step):
                    yield desk.record(step, learner)
        except (GeneratorExit, KeyboardInterrupt) as stop:
            if isinstance(stop, GeneratorExit):  # only ever at a record: the weights are whole, and were just checked
                desk.save(step, learner)
            desk.leave("stopped")
            raise
        except BaseException:
            desk.leave("failed")
            raise
        desk.leave("finished" if step >= plan.steps else "stopped")


class Stepper(nn.Module):
    """A model's objective as a forward pass, which is what wrappers for several processes and precisions wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """The objective's terms."""
        return self.model.objective(*batch).terms


class Learner:
    """A model with its optimiser and its running average: all that a checkpoint holds."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.model, self.plan = model, plan
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        matrices = [p for n, p in model.named_parameters() if n.endswith("weight") and p.ndim > 1]
        others = [p for n, p in model.named_parameters() if not (n.endswith("weight") and p.ndim > 1)]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=plan.lr, betas=plan.betas, weight_decay=plan.weight_decay, fused=True
        )

    def follow(self, step: int) -> None:
        """Move the average towards the weights."""
        decay = min(self.plan.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        for mine, its in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mine.copy_(its)

    def state(self) -> dict[str, Tensor]:
        """Everything, flat: model.*, average.*, optimizer.<parameter>.*."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def restore(self, run: Run) -> int:
        """Go on from the run's last checkpoint; returns its step, or 0 if there is none."""
        if not run.steps:
            return 0
        state = read_tensors(run.checkpoint())
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for name, parameter in self.model.named_parameters():
            prefix = f"{name}."
            found = {k.removeprefix(prefix): v for k, v in state["optimizer"].items() if k.startswith(prefix)}
            kept = {k: v if k == "step" else v.to(parameter.device) for k, v in found.items() if "." not in k}
            if kept:
                self.optimizer.state[parameter] = kept
        return run.steps[-1]


class Desk:
    """A run's paperwork while it trains: requests answered, lines logged, checkpoints written, time left told."""

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


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr` of the peak."""
    rise = min(1.0, (step + 1) / max(1, plan.warmup))
    through = min(1.0, step / plan.steps)
    return plan.lr * rise * (plan.final_lr + (1 - plan.final_lr) * (1 + math.cos(math.pi * through)) / 2)


def _batch(data: Data, plan: Plan, step: int, device: torch.device) -> tuple[Tensor, ...]:
    """The items of one step: consecutive places in an endless row of shuffled epochs."""
    places = torch.arange(step * plan.batch, (step + 1) * plan.batch)
    epochs = places // len(data)
    order = torch.cat(
        [
            torch.randperm(len(data), generator=torch.Generator().manual_seed(_seed(plan.seed, int(epoch))))[
                places[epochs == epoch] % len(data)
            ]
            for epoch in epochs.unique()
        ]
    )
    return tuple(tensor.to(device, non_blocking=True) for tensor in data.batch(order))


def _seed(seed: int, count: int) -> int:
    return (seed * 1_000_003 + count) % 2**63
