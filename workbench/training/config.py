"""How long, how fast, and from which seed."""

import math
from dataclasses import dataclass

from workbench.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything about training that is not the model's; a run keeps it."""

    steps: int = 1000
    batch_size: int = 64  # items a step, over all processes
    lr: float = 2e-3  # peak learning rate of AdamW
    warmup_steps: int = 100  # steps to reach it
    final_lr: float = 0.02  # share of the peak that the cosine ends at
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4  # of weight matrices alone
    clip: float = 1.0  # largest norm of the gradient
    sparse_lr_scale: float = (
        1.0  # of sparse tables, whose rows move only when they are hit: times lr
    )
    ema_decay: float = 0.995  # decay of the weights' running average; shorter in the first steps
    accumulation_steps: int = 1  # parts that a process computes its share of a batch in, one after the other, to save memory
    save_every: int = 250  # steps between checkpoints
    log_every: int = 10  # steps between lines of the log
    precision: str = "no"  # "no" is float32, "bf16" helps on a GPU
    compile: bool = False  # with torch.compile: a minute at the start, faster steps on a GPU
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("lr", "clip", "sparse_lr_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("ema_decay", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be below 0.")
        if self.precision not in ("no", "bf16"):
            raise UserError(f"precision is `{self.precision}`; it is one of no, bf16.")
        if self.batch_size % self.accumulation_steps:
            raise UserError(
                f"A batch of {self.batch_size} does not divide into {self.accumulation_steps} equal parts."
            )


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr` of the peak."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    through = min(1.0, step / config.steps)
    return (
        config.lr
        * rise
        * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * through)) / 2)
    )


def step_seed(config: TrainConfig, count: int) -> int:
    """A seed of its own for each count of something: steps, epochs."""
    return (config.seed * 1_000_003 + count) % 2**63
