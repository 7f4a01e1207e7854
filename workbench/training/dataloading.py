"""Batches of training data for one of several processes, prefetched in a thread."""

import atexit
import os
from collections.abc import Generator, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import torch
from torch import Tensor

from workbench.core.augmentation import Augmentation
from workbench.core.batch_shares import MAX_SEED
from workbench.core.errors import UserError
from workbench.core.pixels import normalize
from workbench.core.types import (
    AugmentedDataset,
    Dataset,
    MapDataset,
    MirroredDataset,
    RequestDataset,
    StreamDataset,
    SupportsAugmentation,
)
from workbench.core.workers import load_in_workers
from workbench.training.config import TrainConfig, step_seed

FLIP_SEED_STEP = 5_915_587_277  # a prime, added to the seed of a step
IMAGE_AXES = 4


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together.

    Attributes
    ----------
    rank : int
        The index of the process; the process of index 0 writes the run.
    world_size : int
        The number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "Rank":
        """Return this process, as `accelerate launch` or `torchrun` started it; alone otherwise."""
        if "LOCAL_RANK" not in os.environ:
            return cls()
        # Imported before a process group exists: the defaults of its functions would keep the
        # group alive.
        import torch.distributed.nn
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        # The threads of the group may abort the process at its end.
        atexit.register(state.destroy_process_group)
        return cls(rank=state.process_index, world_size=state.num_processes)

    @property
    def is_main(self) -> bool:
        """True in the process that writes the run."""
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Wait until every process has called this."""
        if self.world_size > 1:
            from accelerate.utils import wait_for_everyone

            wait_for_everyone()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process, and only then in the others.

        Every process must enter it: let all of them read what decides about that before the main
        process changes it, with `wait_for_all`.
        """
        if not self.is_main:
            self.wait_for_all()
        yield
        if self.is_main:
            self.wait_for_all()

    def items_per_step(self, config: TrainConfig) -> int:
        """Return the number of items of a batch that one process computes.

        Raises
        ------
        UserError
            If the batch does not divide into equal parts.
        """
        parts = self.world_size * config.accumulation_steps
        if config.batch_size % parts:
            raise UserError(
                f"batch_size must be a multiple of {parts} ({self.world_size} processes x "
                f"{config.accumulation_steps} accumulation_steps), got {config.batch_size}."
            )
        return config.batch_size // self.world_size


def prefetch_batches(
    data: Dataset, config: TrainConfig, process: Rank, first_step: int, device: torch.device
) -> Generator[tuple[Tensor, ...], None, None]:
    """Iterate over one process's part of every batch, reading one batch ahead.

    Parameters
    ----------
    data : Dataset
        The training data.
    config : TrainConfig
        The batch size and the seed of the order.
    process : Rank
        This process.
    first_step : int
        The step whose batch is the first.
    device : torch.device
        The device of the returned tensors.
    """
    batches = load_batches(data, config, process, first_step)
    with ThreadPoolExecutor(1) as executor:
        upcoming = executor.submit(next, batches)
        while True:
            batch = tuple(to_device(tensor, device) for tensor in upcoming.result())
            upcoming = executor.submit(next, batches)
            yield batch


def load_batches(
    data: Dataset, config: TrainConfig, process: Rank, first_step: int = 0
) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over one process's part of every batch, loaded by `config.num_workers` processes.

    Parameters
    ----------
    data : Dataset
        The training data.
    config : TrainConfig
        The batch size, the augmentation, and the seed of the order.
    process : Rank
        This process.
    first_step : int
        The step whose batch is the first.

    Returns
    -------
    iterator of tuple of Tensor
        The batches; images that are cropped, flipped or decoded here are uint8 (b, c, h, w).

    Raises
    ------
    UserError
        If the data does not support the augmentation.
    """
    size = process.items_per_step(config)
    source = with_augmentation(data, config.augmentation)
    order = {"rank": process.rank, "world_size": process.world_size, "seed": config.seed}
    if isinstance(source, RequestDataset):
        requests = source.requests(size, first=first_step * size, **order)
        return load_in_workers(source.load, requests, config.num_workers)
    if isinstance(source, StreamDataset):
        return source.batches(size, first=first_step * size, **order)
    return load_in_workers(
        StepLoader(source, config, process), count(first_step), config.num_workers
    )


def with_augmentation(data: Dataset, augmentation: Augmentation) -> Any:
    """Return training data with the crops and flips of an augmentation.

    Parameters
    ----------
    data : Dataset
        The training data.
    augmentation : Augmentation
        The crops and flips.

    Returns
    -------
    AugmentedDataset, RequestDataset or Dataset
        What `load_batches` reads.

    Raises
    ------
    UserError
        If the data does not support the augmentation.
    """
    if isinstance(data, SupportsAugmentation):
        return data.augmented(augmentation)
    if isinstance(data, MirroredDataset) and not augmentation.needs_originals:
        return data
    if augmentation.is_active:
        raise UserError(
            "crop, flip and reduced_decoding are for images, and the training data"
            f" ({type(data).__name__}) has none; leave them out."
        )
    return data


@dataclass(frozen=True)
class StepLoader:
    """A function from a step to one process's part of its batch.

    Attributes
    ----------
    data : MapDataset or AugmentedDataset
        The training data.
    config : TrainConfig
        The batch size and the seed of the order.
    process : Rank
        This process.
    """

    data: "MapDataset | AugmentedDataset"
    config: TrainConfig
    process: Rank

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """Return the batch of a step."""
        positions = _batch_positions(self.config, self.process, step)
        indices = batch_indices(self.data, self.config, self.process, step)
        if isinstance(self.data, AugmentedDataset):
            return self.data.augmented_batch(indices, positions // len(self.data))
        if self.config.flip and isinstance(self.data, MirroredDataset):
            return self.data.mirrored_batch(indices, batch_flips(self.config, self.process, step))
        return self.data.batch(indices)


def batch_indices(data: Sized, config: TrainConfig, process: Rank, step: int) -> Tensor:
    """Return the indices of a process's items of one step.

    The items of all steps follow each other in an endless sequence of shuffled epochs.
    """
    positions = _batch_positions(config, process, step)
    epochs = positions // len(data)
    return torch.cat(
        [
            _epoch_order(len(data), step_seed(config, int(epoch)))[
                positions[epochs == epoch] % len(data)
            ]
            for epoch in epochs.unique()
        ]
    )


def batch_flips(config: TrainConfig, process: Rank, step: int) -> Tensor:
    """Return which of a process's items of one step are mirrored, bool (b,)."""
    # With the seed of the step itself, a generator would drop the classes of the same items.
    seed = (step_seed(config, step) + FLIP_SEED_STEP) % MAX_SEED
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(config.batch_size, generator=generator)
    return uniform[process.rank :: process.world_size] < config.flip


def _batch_positions(config: TrainConfig, process: Rank, step: int) -> Tensor:
    """Return the positions of a process's items of one step in the sequence of all items."""
    size = config.batch_size
    return torch.arange(step * size, (step + 1) * size)[process.rank :: process.world_size]


@lru_cache(maxsize=2)  # a batch may be in two epochs
def _epoch_order(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor of a batch to the device of the model; bytes of images become numbers there."""
    moved = tensor.to(device, non_blocking=True)
    return normalize(moved) if is_bytes(moved) else moved


def is_bytes(tensor: Tensor) -> bool:
    """Return True for images whose values are bytes, uint8 of shape (b, c, h, w)."""
    return tensor.dtype == torch.uint8 and tensor.ndim == IMAGE_AXES
