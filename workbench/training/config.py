"""Training settings: duration, learning rate, seed."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from workbench.core.augmentation import CROPS, Augmentation
from workbench.core.coerce import to_json
from workbench.core.errors import UserError

POSITIVE_INTEGERS = ("steps", "batch_size", "accumulation_steps", "save_every", "log_every")
POSITIVE = ("lr", "clip", "sparse_lr_scale")
FRACTIONS = ("ema_decay", "final_lr", "flip")
NOT_NEGATIVE = ("warmup_steps", "weight_decay", "num_workers")
PRECISIONS = ("no", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training settings. They are stored in config.json.

    Attributes
    ----------
    steps : int
        The number of optimizer steps.
    batch_size : int
        Items per step, over all processes.
    lr : float
        The peak learning rate of AdamW.
    warmup_steps : int
        Steps of linear warm-up to the peak.
    final_lr : float
        The fraction of the peak at which the cosine decay ends.
    betas : tuple of float
        The decay rates of AdamW's moments.
    weight_decay : float
        The weight decay of weight matrices; biases and vectors have none.
    clip : float
        The largest norm of the gradient.
    clip_apart : bool
        Clip the gradients of a discriminator and of the rest of the model separately. The log has
        the norm of the rest.
    sparse_lr_scale : float
        The learning rate of sparse embedding tables, as a multiple of lr.
    ema_decay : float
        The decay of the moving average of the weights; it is smaller in the first steps.
    accumulation_steps : int
        The number of parts in which a process computes its batch, one after another, to save
        memory.
    save_every : int
        Steps between checkpoints.
    log_every : int
        Steps between lines of the log.
    precision : str
        "no" for float32, or "bf16" for mixed precision on a GPU.
    compile : bool
        Whether to use torch.compile: a minute at the start, and faster steps on a GPU.
    flip : float
        The probability that an item of a batch is mirrored: a training image of a tokenizer is
        flipped horizontally. Generators read the latents or codes of the mirrored image then.
    seed : int
        The seed of initialization, order of the data, and random draws.
    crop : str
        The crop of training images. "center": the short side is resized to the side of the images,
        and the center is cropped. "random": the crop is at a random position. "random_scale": the
        short side is first resized to a random length of 1 to 1.25 times the side.
        "random_resized": a random window of 80 to 100 % of the area is resized to a square.
    reduced_decoding : bool
        Whether JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where that is as large as
        needed: faster, with slightly different pixels. Evaluation always decodes the whole file.
    num_workers : int
        The number of processes that decode images, at most one per core. Batches do not depend on
        it. 0 decodes in the process that trains, in a thread.

    Raises
    ------
    UserError
        If a setting is out of range, or the batch does not divide into accumulation_steps parts.
    """

    steps: int = 1000
    batch_size: int = 64
    lr: float = 2e-3
    warmup_steps: int = 100
    final_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip: float = 1.0
    clip_apart: bool = False
    sparse_lr_scale: float = 1.0
    ema_decay: float = 0.995
    accumulation_steps: int = 1
    save_every: int = 250
    log_every: int = 10
    precision: str = "no"
    compile: bool = False
    flip: float = 0.0
    seed: int = 0
    crop: str = "center"
    reduced_decoding: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in POSITIVE_INTEGERS:
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be above 0 and finite, got {getattr(self, name)}.")
        for name in FRACTIONS:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")
        for name in NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")
        if self.precision not in PRECISIONS:
            raise UserError(
                f"precision must be one of {', '.join(PRECISIONS)}, got `{self.precision}`."
            )
        if self.crop not in CROPS:
            raise UserError(f"crop must be one of {', '.join(CROPS)}, got `{self.crop}`.")
        if self.batch_size % self.accumulation_steps:
            raise UserError(
                f"batch_size must be a multiple of accumulation_steps, "
                f"got {self.batch_size} and {self.accumulation_steps}."
            )

    @property
    def augmentation(self) -> Augmentation:
        """The crops and flips of training images."""
        return Augmentation(
            crop=self.crop,
            flip=self.flip,
            reduced_decoding=self.reduced_decoding,
            seed=self.seed,
        )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "TrainConfig":
        """Return the settings that a config.json stores."""
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stored.items()
        }
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as config.json stores them."""
        return {name: to_json(value) for name, value in asdict(self).items()}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay.

    Parameters
    ----------
    config : TrainConfig
        The settings `lr` (the peak), `warmup_steps`, `final_lr` and `steps`.
    step : int
        The number of steps before this one.

    Examples
    --------
    >>> config = TrainConfig(steps=1000, lr=1.0, warmup_steps=100)
    >>> learning_rate(config, 0), round(learning_rate(config, 1000), 2)
    (0.01, 0.02)
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fraction = min(1.0, step / config.steps)
    cosine = (1 + math.cos(math.pi * fraction)) / 2
    return config.lr * warmup * (config.final_lr + (1 - config.final_lr) * cosine)


def step_seed(config: TrainConfig, count: int) -> int:
    """Return a seed for each value of a counter, such as a step or an epoch."""
    return (config.seed * 1_000_003 + count) % 2**63
