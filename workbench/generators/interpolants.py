"""Paths between data and noise (the interpolants of SiT, arXiv:2401.08740).

Time t runs from 0, data, to 1, noise: x_t = alpha data + sigma noise, with velocity dx/dt.
LightningDiT's code has the opposite direction of time.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.core.batch_shares import item_draws
from workbench.generators.noise_schedules import (
    NUM_TIMESTEPS,
    Schedule,
    is_schedule,
    log_abar,
    time_of_log_abar,
)

Path = Literal["linear", "cosine", "ddpm-linear", "ddpm-cosine"]
Times = Literal["logit-normal", "uniform", "timesteps"]
Latent = Float[Tensor, "b n d"]
Scale = Float[Tensor, "b 1 1"]


@dataclass(frozen=True)
class Interpolant:
    """The coefficients of a path at times t, and their derivatives in t.

    x and the velocity are two equations in data and noise, so any two of the four give the others.
    """

    t: Float[Tensor, " b"]
    alpha: Scale  # of the data
    sigma: Scale  # of the noise
    alpha_slope: Scale  # d alpha / dt
    sigma_slope: Scale  # d sigma / dt

    def mix(self, data: Latent, noise: Latent) -> Latent:
        """Return the point on the path."""
        return self.alpha * data + self.sigma * noise

    def slope(self, data: Latent, noise: Latent) -> Latent:
        """Return the velocity dx/dt of the path."""
        return self.alpha_slope * data + self.sigma_slope * noise

    def data(self, x: Latent, velocity: Latent) -> Latent:
        """Return the data that a velocity at x implies."""
        return (self.sigma_slope * x - self.sigma * velocity) / self._determinant

    def noise(self, x: Latent, velocity: Latent) -> Latent:
        """Return the noise that a velocity at x implies."""
        return (self.alpha * velocity - self.alpha_slope * x) / self._determinant

    def velocity(self, x: Latent, noise: Latent) -> Latent:
        """Return the velocity at x for a predicted noise.

        It is singular at t = 1, where x contains no data.
        """
        return (self.alpha_slope * x + self._determinant * noise) / self.alpha

    def score(self, x: Latent, velocity: Latent) -> Latent:
        """Return the gradient of the log density at x, -E[noise | x] / sigma; singular at t = 0."""
        return -self.noise(x, velocity) / self.sigma

    @property
    def _determinant(self) -> Scale:
        # 1 on the linear path, pi / 2 on the cosine path.
        return self.alpha * self.sigma_slope - self.alpha_slope * self.sigma


def interpolant(path: Path, t: Float[Tensor, " b"]) -> Interpolant:
    """Compute the coefficients of a path at times t.

    Parameters
    ----------
    path : {"linear", "cosine", "ddpm-linear", "ddpm-cosine"}
        "linear" has alpha 1 - t and sigma t. "cosine" has the cosine and the sine of pi t / 2: the
        cosine noise schedule (arXiv:2102.09672, without its offset) and SiT's generalized
        variance-preserving path. The others are discrete schedules with log(alpha) linear between
        their timesteps; see `noise_schedules`. At t = 0 the slope of their sigma is infinite.
    t : Tensor of shape (batch,)
        Times, in [0, 1].
    """
    times = rearrange(t, "b -> b 1 1")
    if path == "linear":
        ones = torch.ones_like(times)
        return Interpolant(t, alpha=1 - times, sigma=times, alpha_slope=-ones, sigma_slope=ones)
    if is_schedule(path):
        return _scheduled(path, t)
    turn = math.pi / 2
    cos, sin = (turn * times).cos(), (turn * times).sin()
    return Interpolant(t, alpha=cos, sigma=sin, alpha_slope=-turn * sin, sigma_slope=turn * cos)


def _scheduled(schedule: Schedule, t: Float[Tensor, " b"]) -> Interpolant:
    value, slope = (rearrange(part, "b -> b 1 1") for part in log_abar(schedule, t))
    alpha = (value / 2).exp()
    sigma = (-value.expm1()).sqrt()
    return Interpolant(
        t,
        alpha=alpha,
        sigma=sigma,
        alpha_slope=alpha * slope / 2,
        sigma_slope=-slope * alpha.square() / (2 * sigma),
    )


def time_at(path: Path, log_ratio: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the time at which log(sigma / alpha), the noise to data ratio, has this value."""
    if is_schedule(path):
        return time_of_log_abar(path, F.logsigmoid(-2 * log_ratio))
    return log_ratio.sigmoid() if path == "linear" else log_ratio.exp().atan() * (2 / math.pi)


def sample_times(times: Times, path: Path, count: int, like: Tensor) -> Float[Tensor, " b"]:
    """Sample random times for training.

    With "logit-normal", log(sigma / alpha) is N(0, 1): most times are in the middle. On the linear
    path log(sigma / alpha) is the logit of t (arXiv:2403.03206, with m = 0 and s = 1). "timesteps"
    are 1/1000, 2/1000, ..., 1, with equal probability: those of discrete schedules.
    """
    if times == "timesteps":
        uniform = item_draws(torch.rand, (count,), device=like.device, dtype=like.dtype)
        return ((uniform * NUM_TIMESTEPS).floor() + 1) / NUM_TIMESTEPS
    if times == "uniform":
        return item_draws(torch.rand, (count,), device=like.device, dtype=like.dtype)
    return time_at(path, item_draws(torch.randn, (count,), device=like.device, dtype=like.dtype))


def shift_times(t: float, shift: float) -> float:
    """Shift a time towards noise if `shift` is above 1 (arXiv:2403.03206).

    0 and 1 stay where they are. LightningDiT's 0.3, in its direction of time, is 1 / 0.3 here.
    """
    return shift * t / (1 + (shift - 1) * t)
