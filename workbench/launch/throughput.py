"""Rates of decoding, moving to the device and training, and the slowest of the three."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.cores import available_cores
from workbench.core.errors import UserError
from workbench.launch.in_process import coerce_settings, configure
from workbench.launch.trainables import find_trainable, load_class

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.core.types import Dataset
    from workbench.storage.run_config import RunConfig
    from workbench.training import TrainConfig

CPU_BATCH = 8  # images per measured step without a GPU
DECODED_BATCH = 32  # images, of the measurement of decoding
SECONDS = 3.0  # that each rate is measured for
MIN_REPETITIONS = 2
NO_RUN = Path("doctor")  # nothing is written


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Rates of the stages of training, in images per second.

    Attributes
    ----------
    decoding : dict of int to float
        The rate of reading, decoding, cropping and flipping, by the number of processes.
    transfer : float or None
        The rate of moving images to the GPU; None without one.
    training : float
        The rate of steps: forward, backward and update.
    step_images : int
        The number of images per measured step.
    """

    decoding: Mapping[int, float]
    transfer: float | None
    training: float
    step_images: int

    @property
    def best_num_workers(self) -> int:
        """The smallest number of processes within 10 % of the fastest decoding."""
        fastest = max(self.decoding.values())
        return min(workers for workers, rate in self.decoding.items() if rate >= 0.9 * fastest)

    @property
    def bottleneck(self) -> str:
        """One sentence: the slowest stage, the others next to it, and what would help."""
        workers = self.best_num_workers
        rates = {"Decoding": self.decoding[workers], "Training": self.training}
        if self.transfer is not None:
            rates["Moving images to the GPU"] = self.transfer
        slowest, fastest = min(rates, key=rates.__getitem__), max(rates.values())
        other_stages = ", ".join(
            f"{name[0].lower()}{name[1:]} {rate:,.0f}"
            for name, rate in rates.items()
            if name != slowest
        )
        advice = {
            "Decoding": (
                "use more cores with --num-workers, --reduced-decoding true for JPEG files of at"
                " least twice the side, or files of about the side of the images"
            ),
            "Training": f"--num-workers {workers} is enough",
            "Moving images to the GPU": "no setting of training helps",
        }[slowest]
        if rates[slowest] >= 0.9 * fastest:
            advice = "the stages are balanced"
        return (
            f"{slowest} is the bottleneck with {rates[slowest]:,.0f} images per second"
            f" ({other_stages}; {workers} workers): {advice}."
        )


def measure_throughput(
    recipe: str,
    *,
    data: str | None = None,
    **settings: Any,
) -> Throughput:
    """Measure the stages of a tokenizer's training, without training it.

    Parameters
    ----------
    recipe : str
        The name of a recipe, such as softvq-imagenet256.
    data : str, optional
        The images, as for training; by default those of the recipe.
    **settings
        Other settings of the recipe.

    Returns
    -------
    Throughput
        The rates.

    Raises
    ------
    UserError
        If the recipe does not exist, is that of a generator, or does not fit the images.
    """
    from workbench.training import TrainConfig

    trainable = find_trainable(recipe)
    if trainable.is_generator:
        raise UserError(
            f"{recipe} is trained on latents, which are not decoded; measure the recipe of a"
            " tokenizer."
        )
    changes = coerce_settings(recipe, settings if data is None else settings | {"data": data})
    config, images = configure(trainable, NO_RUN, changes)
    train_config = TrainConfig.from_dict(config.training)
    num_workers = sorted({0, 1, available_cores()} | {train_config.num_workers})
    decoding = {
        workers: _decoding_rate(images, replace(train_config, num_workers=workers))
        for workers in num_workers
        if workers <= available_cores()
    }
    return _with_model(config, images, train_config, decoding)


def _decoding_rate(images: "Dataset", config: "TrainConfig") -> float:
    from workbench.core.workers import BATCHES_PER_WORKER
    from workbench.training.dataloading import Rank, load_batches

    size = min(config.batch_size, DECODED_BATCH)
    config = replace(config, batch_size=size, accumulation_steps=1)
    batches: Any = load_batches(images, config, Rank())
    with closing(batches):
        # Batches that were loaded ahead are taken first.
        warm_up = 1 + BATCHES_PER_WORKER * config.num_workers
        return _rate(config.batch_size, lambda: next(batches), warm_up)


def _with_model(
    config: "RunConfig",
    images: "Dataset",
    train_config: "TrainConfig",
    decoding: Mapping[int, float],
) -> Throughput:
    """Return the rates with those of the device and of the model."""
    import torch

    from workbench.training.dataloading import Rank, load_batches

    has_gpu = torch.cuda.is_available()
    size = train_config.batch_size // train_config.accumulation_steps
    size = size if has_gpu else min(size, CPU_BATCH)
    measured = replace(train_config, batch_size=size, accumulation_steps=1, num_workers=0)
    batches: Any = load_batches(images, measured, Rank())
    with closing(batches):
        batch = next(batches)
    transfer = _transfer_rate(batch) if has_gpu else None
    return Throughput(
        decoding=decoding,
        transfer=transfer,
        training=_training_rate(config, measured, batch),
        step_images=size,
    )


def _transfer_rate(batch: "tuple[Tensor, ...]") -> float:
    import torch

    def move() -> None:
        for part in batch:
            part.to("cuda")
        torch.cuda.synchronize()

    return _rate(len(batch[0]), move)


def _training_rate(
    config: "RunConfig", measured: "TrainConfig", batch: "tuple[Tensor, ...]"
) -> float:
    import torch
    from accelerate import Accelerator

    from workbench.core.batch_shares import BatchShares
    from workbench.training import TrainState
    from workbench.training.dataloading import to_device
    from workbench.training.loop import TrainStep
    from workbench.training.overrides import WeightOverrides

    accelerator = Accelerator(mixed_precision=measured.precision)
    model_class = load_class(config.class_path)
    model = model_class(model_class.Config(**config.settings)).to(accelerator.device).train()
    state = TrainState(model, measured)
    train_step = TrainStep.create(
        accelerator, state, WeightOverrides([]), BatchShares(rank=0, world_size=1, parts=1)
    )
    moved = tuple(to_device(part, accelerator.device) for part in batch)

    def step() -> None:
        train_step(moved, measured.steps - 1)  # when all terms of the loss are on
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return _rate(len(batch[0]), step)


def _rate(images: int, repeat: Callable[[], Any], warm_up: int = 1) -> float:
    """Return images per second of a function that handles a number of images per call."""
    for _ in range(warm_up):
        repeat()
    start = time.perf_counter()
    repetitions = 0
    while repetitions < MIN_REPETITIONS or time.perf_counter() - start < SECONDS:
        repeat()
        repetitions += 1
    return images * repetitions / (time.perf_counter() - start)
