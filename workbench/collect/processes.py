"""The processes of one machine that collect evidence together, as `torchrun` starts them."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import NoReturn, TypeVar

import torch

from workbench.core.errors import RunError, UserError

Part = TypeVar("Part")
# A process that dies closes its connections, which ends the wait of the others at once.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process among those that collect together.

    Attributes
    ----------
    rank : int
        The index of this process. The process of index 0 computes what cannot be divided, and
        publishes the evidence.
    count : int
        The number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """True in the process that publishes the evidence."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device of this process: a GPU of its own if there is one."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.rank % torch.cuda.device_count())

    def shard(self, parts: list[Part]) -> list[Part]:
        """Return the consecutive parts that this process computes.

        Examples
        --------
        >>> [Processes(rank, 2).shard([1, 2, 3]) for rank in (0, 1)]
        [[1], [2, 3]]
        """
        first, last = (len(parts) * index // self.count for index in (self.rank, self.rank + 1))
        return parts[first:last]

    def wait(self) -> None:
        """Wait until every process has come to this point.

        Raises
        ------
        RunError
            If another process has ended.
        """
        if self.count == 1:
            return
        try:
            torch.distributed.barrier()
        except RuntimeError:
            raise _ended() from None


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` has started, until the end of the block.

    Without `torchrun`, this process is alone.

    Raises
    ------
    UserError
        If the processes are on several machines.
    RunError
        In the block, if another process has ended.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if int(os.environ.get("LOCAL_WORLD_SIZE", str(count))) != count:
        raise UserError(
            "The processes of one collection must run on one machine, because they write the same "
            "files: use torchrun --nproc_per_node N without --nnodes."
        )
    try:
        torch.distributed.init_process_group("gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"The processes could not be connected: {error}") from None
    try:
        with _stopped_with_a_sentence():
            yield Processes(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _stopped_with_a_sentence() -> Iterator[None]:
    """Raise RunError when `torchrun` ends this process, because another one has failed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _ended()

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _ended() -> RunError:
    return RunError(
        "Another process of this collection has ended. What is complete was kept; the same "
        "command resumes."
    )
