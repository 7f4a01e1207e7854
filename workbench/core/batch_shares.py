"""One batch that is computed in several shares: in parts of a process, or by several processes.

A step of training has the same result however its batch is divided, if its loss is a mean over the
items of the batch, and if everything else goes through the functions of this module: statistics of
the whole batch (`batch_mean`), random numbers (`item_draws`), and changes of the state that depend
on the whole batch (`batch_items`, `batch_total`).

Outside of training, and with one share, each function returns its argument or a plain draw.

A loss that is not linear in the items, such as the entropy of a mean, needs the statistic of the
whole batch before the first gradient. Processes exchange it. With several parts, all parts are
computed once without gradients of weights, to measure it (as in GradCache, arXiv:2101.06983). Such
statistics are measured together, so none of them may depend on another.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

MAX_SEED = 2**63
SHARE_SEED_STEP = 7_368_787  # a prime, so that seeds of steps and of shares do not coincide
EMPTY_COUNT = 1e-6  # avoids 0 / 0 in a mean over no entries


class NotMeasuredError(Exception):
    """A statistic of the whole batch is needed, and was not measured."""


class BatchShares:
    """The division of the batches of one training.

    Parameters
    ----------
    rank : int
        The index of this process.
    world_size : int
        The number of processes. Process r has the items r, r + world_size, ... of a batch.
    parts : int
        The number of parts in which a process computes its items.
    compiled : bool
        Whether the loss is compiled. Statistics and draws are then kept out of its graph.

    Attributes
    ----------
    needs_measuring : bool
        Whether the loss needs statistics of the whole batch, which must be measured before the
        first part.
    """

    def __init__(
        self, *, rank: int = 0, world_size: int = 1, parts: int = 1, compiled: bool = False
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.parts = parts
        self.needs_measuring = False
        self._seed = 0
        self._part = 0
        self._is_measuring = False
        self._generators: dict[str, torch.Generator] = {}
        # Statistics are identified by the order in which a forward pass requests them.
        self._num_statistics = 0
        self._num_totals = 0
        self._measured: list[list[Tensor]] = []  # by statistic and part
        self._combined: dict[int, Tensor] = {}  # by statistic
        self._totals: list[Tensor] = []
        if compiled:  # otherwise the compiler is not imported, which takes more than a second
            for method in (self.mean, self.items, self.total, self.draw, self.noise):
                setattr(self, method.__name__, torch.compiler.disable(method))

    @property
    def count(self) -> int:
        """The number of shares of a batch."""
        return self.world_size * self.parts

    def start_step(self, seed: int) -> None:
        """Forget the statistics of the step before, and set the seed of all draws."""
        self._seed = seed
        self._measured = []
        self._combined = {}
        self._totals = []

    @contextmanager
    def computing(self, part: int, *, measuring: bool = False) -> Iterator[None]:
        """Make a forward pass in the block compute one part of the items of this process.

        Parameters
        ----------
        part : int
            The index of the part.
        measuring : bool
            Whether to only measure the statistics of the whole batch. This does not change the
            state of the model.
        """
        self._part = part
        self._is_measuring = measuring
        self._num_statistics = 0
        self._num_totals = 0
        self._generators = {}
        if part == 0:
            self._totals = []
        if part == 0 and measuring:
            self._measured = []
        if self.count == 1:
            torch.manual_seed(self._seed)
            yield
            return
        # Draws that do not go through this module differ between shares.
        share = self.rank * self.parts + part
        torch.manual_seed((self._seed + SHARE_SEED_STEP * (share + 1)) % MAX_SEED)
        token = _SHARES.set(self)
        try:
            yield
        finally:
            _SHARES.reset(token)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all shares, with the gradient of this one."""
        index = self._measure(value)
        if self._is_measuring:
            return value
        if index not in self._combined:
            parts = torch.stack(self._measured[index]).mean(dim=0)
            self._combined[index] = self._sum_over_processes(parts) / self.world_size
        return value + (self._combined[index] - value).detach()

    def items(self, rows: Tensor) -> Tensor | None:
        """Return the rows of all items in the order of the batch in the first share."""
        index = self._measure(rows)
        if self._is_measuring or self._part > 0:
            return None
        local = torch.cat(self._measured[index])
        if self.world_size == 1:
            return local
        rows_by_process = [torch.empty_like(local) for _ in range(self.world_size)]
        dist.all_gather(rows_by_process, local.contiguous())
        return torch.stack(rows_by_process, dim=1).flatten(0, 1)

    def total(self, value: Tensor) -> Tensor | None:
        """Return the sum over all shares in the last part, otherwise None."""
        if self._is_measuring:
            return None
        index = self._num_totals
        self._num_totals += 1
        if self._part == 0:
            self._totals.append(value.detach().clone())
        else:
            self._totals[index] += value.detach()
        if self._part < self.parts - 1:
            return None
        return self._sum_over_processes(self._totals[index])

    def draw(
        self, sampler: Callable[..., Tensor], size: Any, device: Any, **options: Any
    ) -> Tensor:
        """Draw numbers that are the same in every share."""
        return sampler(size, generator=self._generator(device), device=device, **options)

    def noise(self, like: Tensor) -> Tensor:
        """Draw normal numbers for the whole batch, and return the rows of this share."""
        # `randn_like` draws in the order of the memory of its argument.
        strides = torch.empty_like(like).stride()
        order = sorted(range(like.ndim), key=lambda axis: -strides[axis])
        size = (len(like) * self.count, *like.shape[1:])
        full = torch.empty([size[axis] for axis in order], dtype=like.dtype, device=like.device)
        full = full.permute([order.index(axis) for axis in range(like.ndim)])
        return self.own_rows(full.normal_(generator=self._generator(like.device)))

    def own_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of this share out of those of the whole batch."""
        return rows[self.rank :: self.world_size].chunk(self.parts)[self._part]

    def _generator(self, device: Any) -> torch.Generator:
        name = "cpu" if device is None else str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(name).manual_seed(self._seed)
        return self._generators[name]

    def _measure(self, value: Tensor) -> int:
        """Store this share's value of the next statistic, and return the index of the statistic."""
        index = self._num_statistics
        self._num_statistics += 1
        if self.parts == 1:
            self._measured.append([value.detach()])
        elif self._is_measuring:
            if self._part == 0:
                self._measured.append([])
            self._measured[index].append(value.detach())
        elif index >= len(self._measured):
            self.needs_measuring = True
            raise NotMeasuredError
        return index

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            value = value.contiguous()
            dist.all_reduce(value)
        return value


_SHARES: ContextVar[BatchShares | None] = ContextVar("batch_shares", default=None)


def batch_mean(value: Tensor) -> Tensor:
    """Return the mean of a statistic over the shares of the batch.

    The gradient is that of this share. The mean of the shares' gradients, which training computes,
    is then the gradient of a loss of the whole batch.

    Parameters
    ----------
    value : Tensor of float
        The statistic of this share, a mean over its items.

    Examples
    --------
    >>> batch_mean(torch.tensor(2.0))
    tensor(2.)
    """
    shares = _SHARES.get()
    return value if shares is None else shares.mean(value)


def batch_log_mean(log_value: Tensor) -> Tensor:
    """Return the logarithm of `batch_mean` for a statistic that is given by its logarithm."""
    shares = _SHARES.get()
    return log_value if shares is None else shares.mean(log_value.exp()).log()


def masked_batch_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return this share's part of the mean of the selected values of the whole batch.

    Shares may select different numbers of values. The mean over the shares is the mean of all
    selected values.

    Parameters
    ----------
    values : Tensor of float
        One value per entry.
    mask : Tensor of bool, same shape
        The selected entries.

    Returns
    -------
    Tensor, shape ()
        0 if nothing is selected in the whole batch.
    """
    count = batch_mean(mask.sum().float())
    return (values * mask).sum() / count.clamp(min=EMPTY_COUNT)


def batch_items(rows: Tensor) -> Tensor | None:
    """Return the rows of all items of the batch once per step, to change the state with them.

    Parameters
    ----------
    rows : Tensor, shape (b, ...)
        A row for each item of this share.

    Returns
    -------
    Tensor, shape (items of the batch, ...), or None
        Without gradient; None in all parts but the first.
    """
    shares = _SHARES.get()
    return rows.detach() if shares is None else shares.items(rows)


def batch_total(value: Tensor) -> Tensor | None:
    """Return the sum over the shares once per step, to change the state with it.

    Parameters
    ----------
    value : Tensor
        The sum over the items of this share.

    Returns
    -------
    Tensor or None
        Without gradient; None in all parts but the last.
    """
    shares = _SHARES.get()
    return value.detach() if shares is None else shares.total(value)


def item_draws(
    sampler: Callable[..., Tensor],
    size: tuple[int, ...],
    *,
    device: torch.device | None = None,
    **options: Any,
) -> Tensor:
    """Draw random numbers for each item, which do not depend on the division of the batch.

    Parameters
    ----------
    sampler : callable
        A function such as `torch.randn`, called with a size, a device and a generator.
    size : tuple of int
        The shape of the result. The first axis has the items of this share.
    device : torch.device, optional
        The device of the result.
    **options
        More arguments of the sampler.

    Examples
    --------
    >>> item_draws(torch.rand, (4, 2)).shape
    torch.Size([4, 2])
    """
    shares = _SHARES.get()
    if shares is None:
        return sampler(size, device=device, **options)
    full = (size[0] * shares.count, *size[1:])
    return shares.own_rows(shares.draw(sampler, full, device, **options))


def item_noise(like: Tensor) -> Tensor:
    """Draw standard normal numbers for each item, as `torch.randn_like` does.

    Parameters
    ----------
    like : Tensor, shape (b, ...)
        The shape, type and device of the result.
    """
    shares = _SHARES.get()
    return torch.randn_like(like) if shares is None else shares.noise(like)


def batch_draws(
    sampler: Callable[..., Tensor],
    size: Any,
    *,
    device: torch.device | None = None,
    **options: Any,
) -> Tensor:
    """Draw random numbers that all items share; the arguments are those of `item_draws`."""
    shares = _SHARES.get()
    if shares is None:
        return sampler(size, device=device, **options)
    return shares.draw(sampler, size, device, **options)
