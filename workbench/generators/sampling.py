"""From noise to data along a velocity field: Euler's and Heun's method, and classifier-free guidance."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import UserError
from workbench.generators.transformer import SiT

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x, t of shape (b,)) -> dx/dt


def euler(velocity: Velocity, noise: Float[Tensor, "b n d"], steps: int) -> Float[Tensor, "b n d"]:
    """Integrate from t = 1 to 0 in equal steps, one evaluation each. First order."""
    x, times = noise, torch.linspace(1, 0, steps + 1).tolist()
    for now, then in pairwise(times):
        x = x + (then - now) * velocity(x, x.new_full((len(x),), now))
    return x


def heun(velocity: Velocity, noise: Float[Tensor, "b n d"], steps: int) -> Float[Tensor, "b n d"]:
    """Integrate from t = 1 to 0 in equal steps, two evaluations each but the last. Second order.

    The last step is Euler's: the velocity at t = 0 is never trained, and may be singular.
    """
    x, times = noise, torch.linspace(1, 0, steps + 1).tolist()
    for now, then in pairwise(times):
        start = velocity(x, x.new_full((len(x),), now))
        if then == 0:
            return x - now * start
        end = velocity(x + (then - now) * start, x.new_full((len(x),), then))
        x = x + (then - now) * (start + end) / 2
    return x


def guided(model: SiT, labels: Int[Tensor, " b"], scale: float) -> Velocity:
    """The model's velocity for the labels, pushed away from the null class; scale 1 is the conditional, exactly."""
    if scale == 1:
        return lambda x, t: model(x, t, labels)
    both = torch.cat([labels, torch.full_like(labels, model.config.classes)])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return velocity


@torch.no_grad()
def sample(
    model: SiT,
    labels: Int[Tensor, " b"],
    *,
    steps: int = 50,
    solver: Literal["euler", "heun"] = "heun",
    guidance: float = 1.0,
    seed: int = 0,
) -> Float[Tensor, "b n d"]:
    """Draw one set of latents a label, as the tokenizer's decoder reads them. The same seed gives the same noise."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.config.classes:
        raise UserError(f"labels must lie in 0..{model.config.classes - 1}; got {labels.min()} to {labels.max()}.")
    if steps < 1:
        raise UserError(f"sampling takes at least 1 step; got {steps}.")
    shape = (len(labels), model.config.tokens, model.config.dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    integrate = {"euler": euler, "heun": heun}[solver]
    return model.restore(integrate(guided(model, labels, guidance), noise, steps))
