"""From noise to data along a velocity field: two ODE solvers, one SDE solver, and classifier-free guidance."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError, unknown
from workbench.generators.interpolants import Path, interpolant, shift_times
from workbench.generators.transformer import SiT

Velocity = Callable[[Tensor, float], Tensor]  # (x, t) -> dx/dt
SOLVERS = ("euler", "heun", "euler-maruyama")
FIRST = 0.98  # of a noise prediction, which says nothing at t = 1: alpha is 0.03 there, where 50 steps of DDIM start
LAST = 0.04  # of the SDE, whose score is singular at t = 0: from here one step without noise (as SiT's code)


def sampling_times(
    steps: int, *, shift: float = 1.0, first: float = 1.0, last: float = 0.0
) -> list[float]:
    """Times from `first` down to 0 in `steps` steps, equal before the shift; `last`: the final step starts there."""
    equal = max(1, steps - (last > 0))
    middle = [shift_times(1 - i / equal, shift) for i in range(steps)]
    return [last + (first - last) * t for t in middle] + [0.0]


def euler(
    velocity: Velocity, noise: Float[Tensor, "b n d"], times: Sequence[float]
) -> Float[Tensor, "b n d"]:
    """One evaluation a step, first order. On the linear path this is DDIM (arXiv:2010.02502), exactly."""
    x = noise
    for now, then in pairwise(times):
        x = x + (then - now) * velocity(x, now)
    return x


def heun(
    velocity: Velocity, noise: Float[Tensor, "b n d"], times: Sequence[float]
) -> Float[Tensor, "b n d"]:
    """Two evaluations a step, second order. A step to t = 0 is Euler's: the velocity there is never trained."""
    x = noise
    for now, then in pairwise(times):
        start = velocity(x, now)
        if then > 0:
            start = (start + velocity(x + (then - now) * start, then)) / 2
        x = x + (then - now) * start
    return x


def euler_maruyama(
    velocity: Velocity,
    noise: Float[Tensor, "b n d"],
    times: Sequence[float],
    *,
    path: Path,
    generator: torch.Generator,
    diffusion: float = 2.0,
) -> Float[Tensor, "b n d"]:
    """SiT's reverse SDE, dx = (v - w score / 2) dt + sqrt(w) dW, with w = diffusion * t; 0 is Euler's ODE.

    A step to t = 0 adds no noise.
    """
    x = noise
    for now, then in pairwise(times):
        w, step = diffusion * now, then - now
        slope = velocity(x, now)
        score = interpolant(path, x.new_full((1,), now)).score(x, slope)
        x = x + step * (slope - w / 2 * score)
        if then > 0:
            x = x + (-step * w) ** 0.5 * torch.randn(x.shape, generator=generator).to(x)
    return x


def guided_velocity(
    model: SiT, labels: Int[Tensor, " b"], scale: float, interval: tuple[float, float] = (0.0, 1.0)
) -> Velocity:
    """The velocity for the labels, pushed away from the null class's while t lies in the interval, on all channels.

    Scale 1, and any time outside (arXiv:2404.07724), is the conditional exactly, at its cost; inside it costs twice.
    LightningDiT's code guides 3 channels of 32, so its scales (10, 6.7) do not carry over.
    """
    low, high = interval
    both = torch.cat([labels, torch.full_like(labels, model.config.classes)])

    def velocity(x: Tensor, t: float) -> Tensor:
        if scale == 1 or not low <= t <= high:
            return model.velocity(x, x.new_full((len(x),), t), labels)
        twice = torch.cat([x, x])
        conditional, null = model.velocity(twice, x.new_full((len(twice),), t), both).chunk(2)
        return null + scale * (conditional - null)

    return velocity


@torch.no_grad()
def sample(
    model: SiT,
    labels: Int[Tensor, " b"],
    *,
    steps: int = 50,
    solver: str = "heun",
    guidance: float = 1.0,
    interval: tuple[float, float] | None = None,
    shift: float | None = None,
    seed: int = 0,
) -> Float[Tensor, "b n d"]:
    """Draw one set of latents a label, as the tokenizer's decoder reads them. The same seed gives the same noise.

    `guidance` holds while t lies in `interval` (1 is noise); that and `shift` None: the model's own. Raises UserError.
    """
    interval = tuple(model.config.interval) if interval is None else interval
    shift = model.config.shift if shift is None else shift
    _check(model, labels, steps, solver, interval, shift)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(labels), model.config.num_tokens, model.config.dim)
    noise = torch.randn(shape, generator=generator).to(labels.device)
    velocity = guided_velocity(model, labels, guidance, interval)
    first = 1.0 if model.config.predict == "velocity" else FIRST
    if solver == "euler-maruyama":
        grid = sampling_times(steps, shift=shift, first=first, last=LAST)
        drawn = euler_maruyama(velocity, noise, grid, path=model.config.path, generator=generator)
    else:
        drawn = (euler if solver == "euler" else heun)(
            velocity, noise, sampling_times(steps, shift=shift, first=first)
        )
    return model.restore(drawn)


def _check(
    model: SiT, labels: Tensor, steps: int, solver: str, interval: tuple[float, float], shift: float
) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.config.classes:
        raise UserError(
            f"labels must lie in 0..{model.config.classes - 1}; got {labels.min()} to {labels.max()}."
        )
    if steps < 1:
        raise UserError(f"sampling takes at least 1 step; got {steps}.")
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise UserError(
            f"a guidance interval goes up within 0..1, 1 being noise; got {interval[0]} to {interval[1]}."
        )
    if not 0 < shift < float("inf"):
        raise UserError(f"shift is {shift}; it must be above 0, and 1 shifts nothing.")
