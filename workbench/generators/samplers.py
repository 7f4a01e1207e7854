"""Solvers from noise to data along a velocity field, and classifier-free guidance."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError, unknown
from workbench.generators.base import check_guidance
from workbench.generators.diffusion import Diffusion, sample_ancestrally
from workbench.generators.interpolants import Path, interpolant, shift_times
from workbench.generators.noise_schedules import SCHEDULES, is_schedule

if TYPE_CHECKING:
    from workbench.generators.transformer import SiT

Velocity = Callable[[Tensor, float], Tensor]  # (x, t) -> dx/dt
Integrator = Callable[[Velocity, Tensor, Sequence[float]], Tensor]  # (velocity, noise, times) -> x
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, t, labels) -> numbers of each token
Solver = Literal["euler", "heun", "euler-maruyama", "ddpm"]
SOLVERS = get_args(Solver)
# A predicted noise does not determine the data at t = 1. At this time alpha is 0.03, where 50 steps
# of DDIM start.
NOISE_PREDICTION_FIRST_TIME = 0.98
# The SDE's score is singular at t = 0: from this time on it takes one step without noise, as SiT's
# code does.
SDE_LAST_TIME = 0.04


def sampling_times(
    steps: int, *, shift: float = 1.0, first: float = 1.0, last: float = 0.0
) -> list[float]:
    """Return the times of `steps` steps from `first` down to 0.

    Parameters
    ----------
    steps : int
        Number of steps.
    shift : float
        Timestep shift; 1 gives equal steps. See `interpolants.shift_times`.
    first : float
        Start of the first step.
    last : float
        Start of the last step if above 0.
    """
    equal = max(1, steps - (last > 0))
    middle = [shift_times(1 - i / equal, shift) for i in range(steps)]
    return [last + (first - last) * t for t in middle] + [0.0]


def euler(
    velocity: Velocity, noise: Float[Tensor, "b n d"], times: Sequence[float]
) -> Float[Tensor, "b n d"]:
    """Integrate with one evaluation per step, at first order.

    On the linear path this is exactly DDIM (arXiv:2010.02502).
    """
    x = noise
    for now, then in pairwise(times):
        x = x + (then - now) * velocity(x, now)
    return x


def heun(
    velocity: Velocity, noise: Float[Tensor, "b n d"], times: Sequence[float]
) -> Float[Tensor, "b n d"]:
    """Integrate with two evaluations per step, at second order.

    A step to t = 0 is Euler's, because the velocity at t = 0 is never trained.
    """
    x = noise
    for now, then in pairwise(times):
        slope = velocity(x, now)
        if then > 0:
            slope = (slope + velocity(x + (then - now) * slope, then)) / 2
        x = x + (then - now) * slope
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
    """Integrate SiT's reverse SDE, dx = (v - w score / 2) dt + sqrt(w) dW.

    w is `diffusion` * t; a diffusion of 0 is Euler's ODE. A step to t = 0 adds no noise.
    """
    x = noise
    for now, then in pairwise(times):
        w = diffusion * now
        step = then - now
        slope = velocity(x, now)
        score = interpolant(path, x.new_full((1,), now)).score(x, slope)
        x = x + step * (slope - w / 2 * score)
        if then > 0:
            x = x + (-step * w) ** 0.5 * torch.randn(x.shape, generator=generator).to(x)
    return x


def integrate(
    integrator: Integrator,
    velocity: Velocity,
    noise: Float[Tensor, "b n d"],
    times: Sequence[float],
    path: Path,
) -> Float[Tensor, "b n d"]:
    """Integrate down to t = 0.

    On the path of a discrete schedule, the last step returns the data that the velocity points to,
    as that of DDIM does. The slope of sigma is infinite at t = 0, so a straight step would leave
    noise. On the linear path both are the same.
    """
    if not is_schedule(path):
        return integrator(velocity, noise, times)
    last = times[-2]
    x = integrator(velocity, noise, times[:-1])
    return interpolant(path, x.new_full((1,), last)).data(x, velocity(x, last))


def guided_velocity(
    model: "SiT",
    labels: Int[Tensor, " b"],
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
    *,
    predict: Predict | None = None,
) -> Velocity:
    """Return the velocity for the labels with classifier-free guidance.

    Parameters
    ----------
    model : SiT
        A flow or diffusion model.
    labels : Tensor of int, shape (batch,)
        Classes.
    scale : float
        Guidance scale. 1 is the conditional velocity exactly, at its cost.
    interval : (float, float)
        Times in which guidance is applied, at twice the cost (arXiv:2404.07724); outside, the
        velocity is the conditional one.
    channels : int, optional
        Guide only the first channels of a token; the others have the conditional velocity. None
        guides all.
    predict : callable, optional
        Return this function of x, times and labels instead of the velocity. Channels after those of
        a token, such as variances, have no guidance.

    Raises
    ------
    UserError
        If guidance is requested from a model that was trained with `drop_class=0`.

    Notes
    -----
    LightningDiT's published scales (10, 6.7) are for 3 guided channels of 32, and do not carry over
    to guidance on all channels.
    """
    check_guidance(scale, model.config.drop_class)
    low, high = interval
    guided_channels = model.config.dim if channels is None else channels
    evaluate = model.velocity if predict is None else predict
    both_labels = torch.cat([labels, torch.full_like(labels, model.config.classes)])

    def velocity(x: Tensor, t: float) -> Tensor:
        if scale == 1 or not low <= t <= high:
            return evaluate(x, x.new_full((len(x),), t), labels)
        both = torch.cat([x, x])
        conditional, null = evaluate(both, x.new_full((len(both),), t), both_labels).chunk(2)
        guided = null + scale * (conditional - null)
        if guided_channels >= guided.shape[-1]:
            return guided
        return torch.cat(
            [guided[..., :guided_channels], conditional[..., guided_channels:]], dim=-1
        )

    return velocity


def check_ddpm(path: Path, predict: str) -> None:
    """Raise UserError if the reverse steps of DDPM are not defined for a path and a prediction."""
    if not is_schedule(path) or predict != "noise":
        raise UserError(
            f"The solver ddpm needs predict=noise and a path of {', '.join(SCHEDULES)}, got"
            f" predict={predict} and path={path}."
        )


def initial_noise(model: "SiT", count: int, generator: torch.Generator) -> Float[Tensor, "b n d"]:
    """Draw the noise of `count` images on the CPU, so that it is the same on every device."""
    shape = (count, model.config.num_tokens, model.config.dim)
    return torch.randn(shape, generator=generator)


def first_time(model: "SiT") -> float:
    """Return the time at which sampling starts: 1, or slightly less for a noise prediction."""
    return 1.0 if model.config.predict == "velocity" else NOISE_PREDICTION_FIRST_TIME


@torch.no_grad()
def sample_latents(
    model: "SiT",
    labels: Int[Tensor, " b"],
    *,
    steps: int | None = None,
    solver: str | None = None,
    guidance: float = 1.0,
    interval: tuple[float, float] | None = None,
    shift: float | None = None,
    guided_channels: int | None = None,
    seed: int = 0,
) -> Float[Tensor, "b n d"]:
    """Sample one set of latents per label, as the tokenizer's decoder reads them.

    Parameters
    ----------
    model : SiT
        A flow or diffusion model.
    labels : Tensor of int, shape (batch,)
        Classes.
    steps : int, optional
        Steps of the solver; None uses the model's own.
    solver : {"euler", "heun", "euler-maruyama", "ddpm"}, optional
        Integrator; None uses the model's own. `ddpm` draws the reverse steps of a discrete
        schedule, with learned variances if the model has them.
    guidance : float
        Scale of classifier-free guidance.
    interval : (float, float), optional
        Times in which guidance is applied (1 is noise); None uses the model's own.
    shift : float, optional
        Timestep shift; None uses the model's own.
    guided_channels : int, optional
        Guide only the first channels of a token; None uses the model's own number.
    seed : int
        Seed of the noise.

    Raises
    ------
    UserError
        If a label or an option is out of range.
    """
    config = model.config
    low, high = config.interval if interval is None else interval
    shift = config.shift if shift is None else shift
    steps = config.sampling_steps if steps is None else steps
    solver = config.solver if solver is None else solver
    channels = config.guided_channels if guided_channels is None else guided_channels
    _check_options(model, labels, steps, solver, (low, high), shift, channels)
    generator = torch.Generator().manual_seed(seed)
    noise = initial_noise(model, len(labels), generator).to(labels.device)
    if solver == "ddpm" and is_schedule(config.path):  # which is checked above
        outputs = guided_velocity(
            model, labels, guidance, (low, high), channels, predict=model.outputs
        )
        x = sample_ancestrally(
            outputs,
            noise,
            Diffusion.of_schedule(config.path).respaced(steps),
            learned_variance=config.learned_variance,
            generator=generator,
        )
        return model.destandardize(x)
    velocity = guided_velocity(model, labels, guidance, (low, high), channels)
    integrators: dict[str, Integrator] = {
        "euler": euler,
        "heun": heun,
        "euler-maruyama": partial(euler_maruyama, path=config.path, generator=generator),
    }
    last = SDE_LAST_TIME if solver == "euler-maruyama" else 0.0
    times = sampling_times(steps, shift=shift, first=first_time(model), last=last)
    x = integrate(integrators[solver], velocity, noise, times, config.path)
    return model.destandardize(x)


def _check_options(
    model: "SiT",
    labels: Tensor,
    steps: int,
    solver: str,
    interval: tuple[float, float],
    shift: float,
    guided_channels: int | None,
) -> None:
    classes = model.config.classes
    dim = model.config.dim
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(
            f"Labels must be in 0..{classes - 1}, got {labels.min()} to {labels.max()}."
        )
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps}.")
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    if solver == "ddpm":
        check_ddpm(model.config.path, model.config.predict)
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise UserError(
            "A guidance interval must be increasing and within 0..1 (1 is noise), got"
            f" {interval[0]} to {interval[1]}."
        )
    if not 0 < shift < float("inf"):
        raise UserError(f"shift must be above 0 (1 shifts nothing), got {shift}.")
    if guided_channels is not None and not 1 <= guided_channels <= dim:
        raise UserError(
            f"guided_channels must be in 1..{dim}, the channels of a token, got {guided_channels}."
        )
