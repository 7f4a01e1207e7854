"""Where batches come from: places in shuffled epochs of data one can index, or a stream that is read in order."""

import atexit
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from workbench.core.errors import UserError
from workbench.training.config import TrainConfig, step_seed

T = TypeVar("T")


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
    of: int = 1

    @classmethod
    def here(cls) -> "Rank":
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

    def first(self, do: Callable[[], T], *, then: Callable[[], T]) -> T:
        """The first process does something that the others find done."""
        if self.of == 1:
            return do()
        from accelerate.utils import wait_for_everyone

        if self.rank:
            wait_for_everyone()
            return then()
        done = do()
        wait_for_everyone()
        return done

    def part(self, plan: TrainConfig) -> int:
        """Items of a batch that one process computes. Raises UserError where they cannot be equally many."""
        if plan.batch % (self.of * plan.accumulate):
            parts = f"{self.of} processes" + (
                f" x {plan.accumulate} parts" if plan.accumulate > 1 else ""
            )
            raise UserError(
                f"A batch of {plan.batch} does not divide into {parts}; take a multiple."
            )
        return plan.batch // self.of


def prefetch_batches(
    data: MapDataset | StreamDataset,
    plan: TrainConfig,
    share: Rank,
    first: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, ...]]:
    """One process's share of the batches from step `first` on, each read while the one before is computed."""
    size = share.part(plan)
    if isinstance(data, StreamDataset):
        batches = data.batches(size, first=first * size, share=share, seed=plan.seed)
    else:
        batches = (data.batch(batch_indices(data, plan, share, step)) for step in count(first))
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(next, batches)
        while True:
            batch = tuple(tensor.to(device, non_blocking=True) for tensor in upcoming.result())
            upcoming = ahead.submit(next, batches)
            yield batch


def batch_indices(data: MapDataset, plan: TrainConfig, share: Rank, step: int) -> Tensor:
    """A process's items of one step: from consecutive places in an endless row of shuffled epochs."""
    places = torch.arange(step * plan.batch, (step + 1) * plan.batch)[share.rank :: share.of]
    epochs = places // len(data)
    return torch.cat(
        [_order(data, plan, int(e))[places[epochs == e] % len(data)] for e in epochs.unique()]
    )


def _order(data: MapDataset, plan: TrainConfig, epoch: int) -> Tensor:
    return torch.randperm(
        len(data), generator=torch.Generator().manual_seed(step_seed(plan, epoch))
    )
