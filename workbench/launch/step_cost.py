"""Memory and time of one training step, estimated from a few items before anything is written."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.counted import counted
from workbench.core.errors import UserError

FEW_ITEMS = 2
MORE_ITEMS = 4
# Gradients and the two moments of Adam.
STATES_PER_WEIGHT = 3
# A step computes the loss and, at about twice the cost, its gradient.
STEP_PER_FORWARD = 3
LONG_STEP_S = 60
# Mixed precision saves most tensors in 16 bits; the estimate is made in 32 bits.
MIXED_PRECISION_SHARE = 0.5


@dataclass
class ForwardCost:
    """Memory and time of the loss of some items.

    Attributes
    ----------
    items : int
        Number of items.
    seconds : float
        Time of the forward pass.
    saved_bytes : float
        Tensors that the backward pass needs, without the weights.
    """

    items: int
    seconds: float = 0.0
    saved_bytes: float = 0.0
    _storages: set[int] = field(default_factory=set)

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved, once for each memory."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self.saved_bytes += storage.nbytes()
        return tensor


def measure_forward(
    model: nn.Module, loss: Callable[[tuple[Tensor, ...]], Any], batch: tuple[Tensor, ...]
) -> ForwardCost:
    """Measure the loss of a batch, without the weights, which every batch shares."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    cost = ForwardCost(items=len(batch[0]), _storages=weights)
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(cost.add, _unchanged):
        loss(batch)
    cost.seconds = time.perf_counter() - start
    return cost


def extrapolate(few: ForwardCost, more: ForwardCost, items: int) -> ForwardCost:
    """Return the cost of more items, on the straight line through two measurements.

    What does not depend on the items, such as a normalized codebook, is counted once.
    """
    factor = (items - few.items) / (more.items - few.items)
    return ForwardCost(
        items=items,
        seconds=few.seconds + factor * max(0.0, more.seconds - few.seconds),
        saved_bytes=few.saved_bytes + factor * max(0.0, more.saved_bytes - few.saved_bytes),
    )


def check_step(
    model: nn.Module,
    loss: Callable[[tuple[Tensor, ...]], Any],
    read: Callable[[int], tuple[Tensor, ...]],
    *,
    items: int,
    mixed_precision: bool = False,
) -> None:
    """Refuse a training whose first step needs more memory than is free; warn of long steps.

    Parameters
    ----------
    model : Module
        The model, on the device of the training.
    loss : callable
        Returns the loss of a batch.
    read : callable
        Returns a batch of this number of items, or of fewer if there are no more.
    items : int
        The number of items whose loss is computed together.
    mixed_precision : bool
        Whether the training computes in 16 bits where it can.

    Raises
    ------
    UserError
        If the estimate is larger than the free memory.
    """
    few = measure_forward(model, loss, read(FEW_ITEMS))
    # At most this, if all of it grows with the items: most trainings need no second measurement.
    bound = extrapolate(ForwardCost(items=0), few, items)
    on_gpu = torch.cuda.is_available()
    share = MIXED_PRECISION_SHARE if mixed_precision else 1.0
    is_long = not on_gpu and step_seconds(bound) >= LONG_STEP_S
    free = available_bytes()
    if not is_long and needed_bytes(model, bound, share) <= free:
        return
    batch = read(MORE_ITEMS)
    if len(batch[0]) <= few.items:
        return
    # Again, as the first time includes imports; copies, because memory is counted whole.
    few = measure_forward(model, loss, tuple(part[: few.items].clone() for part in batch))
    cost = extrapolate(few, measure_forward(model, loss, batch), items)
    needed = needed_bytes(model, cost, share)
    if needed > free:
        raise UserError(
            f"A step needs about {needed / 1e9:,.1f} GB of memory for"
            f" {counted(items, 'image')} at once, and {free / 1e9:,.1f} GB are free."
            " Use a smaller batch_size or model, or more accumulation_steps."
        )
    if is_long and step_seconds(cost) >= LONG_STEP_S:
        warnings.warn(
            f"A step takes about {step_seconds(cost) / 60:,.0f} minutes on this processor. A"
            " smaller model, fewer tokens or a smaller batch_size are faster.",
            stacklevel=2,
        )


def needed_bytes(model: nn.Module, cost: ForwardCost, share: float = 1.0) -> float:
    """Return the memory of a step beyond the weights themselves."""
    weights = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    return STATES_PER_WEIGHT * weights + share * cost.saved_bytes


def step_seconds(cost: ForwardCost) -> float:
    """Return the time of a step on the processor that was measured."""
    return STEP_PER_FORWARD * cost.seconds


def available_bytes() -> float:
    """Return the free memory of the device that trains."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    return float(psutil.virtual_memory().available)


def _unchanged(tensor: Any) -> Any:
    return tensor
