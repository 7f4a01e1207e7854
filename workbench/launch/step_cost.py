"""Memory and time of one training step, measured on a few items before anything is written."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import UserError

# Gradients and the two moments of Adam.
STATES_PER_WEIGHT = 3
# A step computes the loss and, at about twice the cost, its gradient.
STEP_PER_FORWARD = 3
LONG_STEP_S = 60


@dataclass
class ForwardCost:
    """Memory and time of a forward pass.

    Attributes
    ----------
    seconds : float
    saved_bytes : int
        Tensors that the backward pass needs, without the weights.
    """

    seconds: float = 0.0
    saved_bytes: int = 0
    _storages: set[int] = field(default_factory=set)

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved, once for each memory."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self.saved_bytes += storage.nbytes()
        return tensor


@contextmanager
def measured_forward(model: nn.Module) -> Iterator[ForwardCost]:
    """Measure the forward pass in the block."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    cost = ForwardCost(_storages=weights)
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(cost.add, _unchanged):
        yield cost
    cost.seconds = time.perf_counter() - start


def check_memory(
    cost: ForwardCost, model: nn.Module, *, measured: int, items: int, available_bytes: float
) -> None:
    """Refuse a training whose first step needs more memory than there is.

    Parameters
    ----------
    cost : ForwardCost
        Of the loss of a few items.
    model : Module
    measured : int
        The number of items of `cost`.
    items : int
        The number of items whose loss is computed at once.
    available_bytes : float
        Memory that is free, with the model already in memory.

    Raises
    ------
    UserError
        If the estimate is larger than the available memory.
    """
    weights = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    needed = STATES_PER_WEIGHT * weights + cost.saved_bytes * items / measured
    if needed > available_bytes:
        raise UserError(
            f"A step needs about {needed / 1e9:,.1f} GB of memory, and {available_bytes / 1e9:,.1f}"
            f" GB are free: {items:,} images at once, and {weights / 1e9:,.2f} GB of weights. Use a"
            " smaller batch_size or model, or more accumulation_steps."
        )


def long_step_warning(cost: ForwardCost, *, measured: int, items: int) -> str | None:
    """Return a sentence with the estimated time of a step on this processor, if it is long."""
    seconds = STEP_PER_FORWARD * cost.seconds * items / measured
    if seconds < LONG_STEP_S:
        return None
    return (
        f"A step takes about {seconds / 60:,.0f} minutes on this processor. A smaller model, fewer "
        "tokens or a smaller batch_size are faster."
    )


def available_bytes() -> float:
    """Return the free memory of the device that trains."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    return float(psutil.virtual_memory().available)


def _unchanged(tensor: Any) -> Any:
    return tensor
