"""Batches of training data for one of several processes, prefetched in a thread."""

import atexit
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Dataset, MapDataset, MirroredDataset, StreamDataset
from workbench.training.config import TrainConfig, step_seed


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

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process, and only then in the others."""
        if self.world_size == 1:
            yield
            return
        from accelerate.utils import wait_for_everyone

        if not self.is_main:
            wait_for_everyone()
        yield
        if self.is_main:
            wait_for_everyone()

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
    size = process.items_per_step(config)
    if isinstance(data, StreamDataset):
        batches = data.batches(
            size,
            first=first_step * size,
            rank=process.rank,
            world_size=process.world_size,
            seed=config.seed,
        )
    elif config.flip and isinstance(data, MirroredDataset):
        batches = _mirrored_batches(data, config, process, first_step)
    else:
        batches = _map_batches(data, config, process, first_step)
    with ThreadPoolExecutor(1) as executor:
        upcoming = executor.submit(next, batches)
        while True:
            batch = tuple(tensor.to(device, non_blocking=True) for tensor in upcoming.result())
            upcoming = executor.submit(next, batches)
            yield batch


def batch_indices(data: MapDataset, config: TrainConfig, process: Rank, step: int) -> Tensor:
    """Return the indices of a process's items of one step.

    The items of all steps follow each other in an endless sequence of shuffled epochs.
    """
    size = config.batch_size
    positions = torch.arange(step * size, (step + 1) * size)[process.rank :: process.world_size]
    epochs = positions // len(data)
    return torch.cat(
        [
            _epoch_order(data, config, int(epoch))[positions[epochs == epoch] % len(data)]
            for epoch in epochs.unique()
        ]
    )


def batch_flips(config: TrainConfig, process: Rank, step: int) -> Tensor:
    """Return which of a process's items of one step are mirrored, bool (b,)."""
    generator = torch.Generator().manual_seed(step_seed(config, step))
    uniform = torch.rand(config.batch_size, generator=generator)
    return uniform[process.rank :: process.world_size] < config.flip


def _map_batches(
    data: MapDataset, config: TrainConfig, process: Rank, first_step: int
) -> Iterator[tuple[Tensor, ...]]:
    for step in count(first_step):
        yield data.batch(batch_indices(data, config, process, step))


def _mirrored_batches(
    data: MirroredDataset, config: TrainConfig, process: Rank, first_step: int
) -> Iterator[tuple[Tensor, ...]]:
    for step in count(first_step):
        indices = batch_indices(data, config, process, step)
        yield data.mirrored_batch(indices, batch_flips(config, process, step))


def _epoch_order(data: MapDataset, config: TrainConfig, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(step_seed(config, epoch))
    return torch.randperm(len(data), generator=generator)
