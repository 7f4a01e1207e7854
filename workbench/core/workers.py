"""Loading of batches in worker processes, in the same order for any number of them."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import current_process
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from workbench.core.cores import available_cores
from workbench.core.damage import report_damage, take_damage_reports
from workbench.core.errors import UserError

Request = TypeVar("Request")
Batch = TypeVar("Batch")
BATCHES_PER_WORKER = 2  # that are loaded ahead


@dataclass(frozen=True)
class _Failure:
    """An error of a worker process, whose sentence is all that a user needs."""

    error: UserError


class _Loader(TorchDataset[Any], Generic[Request, Batch]):
    """A function as a dataset: its items are the results, by the arguments.

    With each result come the sentences about damaged images in it.
    """

    def __init__(self, load: Callable[[Request], Batch]) -> None:
        self.load = load

    def __getitem__(self, request: Any) -> Any:
        take_damage_reports()  # of the process that was forked
        try:
            return self.load(request), take_damage_reports()
        except UserError as error:
            return _Failure(error)


def load_in_workers(
    load: Callable[[Request], Batch], requests: Iterable[Request], num_workers: int = 0
) -> Iterator[Batch]:
    """Map a function over requests in worker processes, and yield the results in order.

    Parameters
    ----------
    load : callable
        Returns the batch of a request: tensors or arrays, or a tuple of them. It must depend on the
        request alone. The processes are forked, so that it may hold large arrays.
    requests : iterable
        The arguments, such as indices. It is iterated in this process, a few batches ahead.
    num_workers : int
        The number of processes, at most one per core; 0 loads in this process, when a batch is
        requested.

    Returns
    -------
    iterator
        The batches. The processes have started when this function returns.

    Raises
    ------
    UserError
        When iterating, if a process raises it or ends unexpectedly.
    """
    num_workers = min(num_workers, available_cores())
    if num_workers == 0 or current_process().daemon:  # which may not start processes
        return (load(request) for request in requests)
    loader = DataLoader(
        _Loader(load),
        sampler=requests,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=BATCHES_PER_WORKER,
        collate_fn=_identity,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork",
    )
    return _results(iter(loader))


def _identity(batch: Batch) -> Batch:
    return batch


def _results(iterator: Iterator[Any]) -> Generator[Any, None, None]:
    while True:
        try:
            result = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise UserError(
                "A worker process that loads data was ended from outside, probably because memory"
                " or shared memory (/dev/shm) is full; use fewer num_workers."
            ) from None
        if isinstance(result, _Failure):
            raise result.error
        batch, damage = result
        report_damage(damage)
        yield batch
