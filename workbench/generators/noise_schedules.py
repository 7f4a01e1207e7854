"""The discrete noise schedules of DDPM (arXiv:2006.11239) and improved DDPM (arXiv:2102.09672).

Timestep i = 0 .. 999 adds noise of variance beta_i. With abar_i the product of 1 - beta_j over
j <= i, x_i = sqrt(abar_i) data + sqrt(1 - abar_i) noise. Timestep i is time t = (i + 1) / 1000, and
between timesteps log(abar) is linear in t.
"""

import math
from functools import cache
from typing import Literal, TypeGuard, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Literal["ddpm-linear", "ddpm-cosine"]
SCHEDULES = get_args(Schedule)
NUM_TIMESTEPS = 1000
MAX_BETA = 0.999
COSINE_OFFSET = 0.008


def is_schedule(path: str) -> TypeGuard[Schedule]:
    """Return True if a path is one of these schedules."""
    return path in SCHEDULES


@cache
def betas(schedule: Schedule) -> Float[Tensor, " timesteps"]:
    """Return the variances that the timesteps add, float64 of shape (1000,).

    Parameters
    ----------
    schedule : {"ddpm-linear", "ddpm-cosine"}
        Linear from 0.0001 to 0.02, as in DiT; or such that abar follows a squared cosine.
    """
    if schedule == "ddpm-linear":
        return torch.linspace(1e-4, 0.02, NUM_TIMESTEPS, dtype=torch.float64)
    steps = torch.arange(NUM_TIMESTEPS + 1, dtype=torch.float64) / NUM_TIMESTEPS
    abar = ((steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).cos().square()
    return (1 - abar[1:] / abar[:-1]).clamp(max=MAX_BETA)


@cache
def _log_abar(schedule: Schedule) -> Float[Tensor, " knots"]:
    """Return log(abar) at times 0, 1/1000, ..., 1."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), (-betas(schedule)).log1p().cumsum(0)])


def log_abar(
    schedule: Schedule, t: Float[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return log(abar) and its derivative in t at times in [0, 1]."""
    knots = _log_abar(schedule).to(t.device)
    position = t.double() * NUM_TIMESTEPS
    index = position.floor().long().clamp(0, NUM_TIMESTEPS - 1)
    rise = knots[index + 1] - knots[index]
    value = knots[index] + (position - index) * rise
    return value.to(t), (rise * NUM_TIMESTEPS).to(t)


def time_of_log_abar(schedule: Schedule, value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the time at which log(abar) has a value; 1 if it never falls to it."""
    knots = _log_abar(schedule).to(value.device)
    log_abar = value.double().clamp(min=float(knots[-1]))
    index = (torch.searchsorted(-knots, -log_abar) - 1).clamp(0, NUM_TIMESTEPS - 1)
    within = (log_abar - knots[index]) / (knots[index + 1] - knots[index])
    return ((index + within) / NUM_TIMESTEPS).to(value)
