"""Where batches come from: places in shuffled epochs of data one can index, or a stream that is read in order."""

import atexit
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from workbench.core.errors import UserError
from workbench.training.config import TrainConfig, step_seed


@runtime_checkable
class MapDataset(Protocol):
    """What can be trained on: a length, and the arguments of `objective` for some of its items."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The items at the indices."""
        ...


@runtime_checkable
class StreamDataset(Protocol):
    """Data too large to index. Reading from any item gives what reading from the first would have given there."""

    def batches(
        self, size: int, *, first: int = 0, share: "Rank | None" = None, seed: int = 0
    ) -> Iterator[tuple[Tensor, ...]]:
        """Batches without end, from a process's `first` item on."""
        ...


@dataclass(frozen=True)
class Rank:
    """Which of how many processes this one is."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def current(cls) -> "Rank":
        """What `accelerate launch` or `torchrun` told this process; the only one, if nobody did."""
        if "LOCAL_RANK" not in os.environ:
            return cls()
        import torch.distributed.nn  # before there is a group, which its functions' defaults would else keep for ever
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        atexit.register(
            state.destroy_process_group
        )  # its threads would else outlive it, and may abort the process
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """True in the one process that writes."""
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

    def part(self, config: TrainConfig) -> int:
        """Items of a batch that one process computes. Raises UserError where they cannot be equally many."""
        if config.batch_size % (self.world_size * config.accumulation_steps):
            parts = f"{self.world_size} processes" + (
                f" x {config.accumulation_steps} parts" if config.accumulation_steps > 1 else ""
            )
            raise UserError(
                f"A batch of {config.batch_size} does not divide into {parts}; take a multiple."
            )
        return config.batch_size // self.world_size


def prefetch_batches(
    data: MapDataset | StreamDataset,
    config: TrainConfig,
    share: Rank,
    first: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, ...]]:
    """One process's share of the batches from step `first` on, each read while the one before is computed."""
    size = share.part(config)
    if isinstance(data, StreamDataset):
        batches = data.batches(size, first=first * size, share=share, seed=config.seed)
    else:
        batches = (data.batch(batch_indices(data, config, share, step)) for step in count(first))
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(next, batches)
        while True:
            batch = tuple(tensor.to(device, non_blocking=True) for tensor in upcoming.result())
            upcoming = ahead.submit(next, batches)
            yield batch


def batch_indices(data: MapDataset, config: TrainConfig, share: Rank, step: int) -> Tensor:
    """A process's items of one step: from consecutive places in an endless row of shuffled epochs."""
    places = torch.arange(step * config.batch_size, (step + 1) * config.batch_size)[
        share.rank :: share.world_size
    ]
    epochs = places // len(data)
    return torch.cat(
        [_order(data, config, int(e))[places[epochs == e] % len(data)] for e in epochs.unique()]
    )


def _order(data: MapDataset, config: TrainConfig, epoch: int) -> Tensor:
    return torch.randperm(
        len(data), generator=torch.Generator().manual_seed(step_seed(config, epoch))
    )
