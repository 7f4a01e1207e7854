"""The path between data and noise that a generator learns to walk (the interpolants of SiT, arXiv:2401.08740).

Time t runs from 0, data, to 1, noise: x_t = alpha data + sigma noise, with velocity dx/dt. In LightningDiT's code it
runs the other way.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Path = Literal["linear", "cosine"]
Times = Literal["logit-normal", "uniform"]
Latent = Float[Tensor, "b n d"]
Scale = Float[Tensor, "b 1 1"]


@dataclass(frozen=True)
class Interpolant:
    """A path's coefficients at times t, their slopes in t, and what follows from them.

    x and the velocity are two equations in data and noise, so any two of the four give the others.
    """

    t: Float[Tensor, " b"]
    alpha: Scale  # of the data
    sigma: Scale  # of the noise
    alpha_slope: Scale
    sigma_slope: Scale

    def mix(self, data: Latent, noise: Latent) -> Latent:
        """The point on the path."""
        return self.alpha * data + self.sigma * noise

    def slope(self, data: Latent, noise: Latent) -> Latent:
        """The velocity dx/dt there."""
        return self.alpha_slope * data + self.sigma_slope * noise

    def data(self, x: Latent, velocity: Latent) -> Latent:
        """The data that a velocity at x points to."""
        return (self.sigma_slope * x - self.sigma * velocity) / self._determinant

    def noise(self, x: Latent, velocity: Latent) -> Latent:
        """The noise that a velocity at x comes from."""
        return (self.alpha * velocity - self.alpha_slope * x) / self._determinant

    def velocity(self, x: Latent, noise: Latent) -> Latent:
        """The velocity at x for a predicted noise; singular at t = 1, where x holds nothing of the data."""
        return (self.alpha_slope * x + self._determinant * noise) / self.alpha

    def score(self, x: Latent, velocity: Latent) -> Latent:
        """The gradient of the log density at x, -E[noise | x] / sigma; singular at t = 0."""
        return -self.noise(x, velocity) / self.sigma

    @property
    def _determinant(self) -> Scale:
        return (
            self.alpha * self.sigma_slope - self.alpha_slope * self.sigma
        )  # 1 on the linear path, pi / 2 on the other


def interpolant(path: Path, t: Float[Tensor, " b"]) -> Interpolant:
    """The path at times t.

    `linear`: alpha 1 - t, sigma t. `cosine`: cos and sin of pi t / 2, which is the cosine noise schedule
    (arXiv:2102.09672, without its offset) and SiT's generalised variance-preserving path.
    """
    at = rearrange(t, "b -> b 1 1")
    if path == "linear":
        one = torch.ones_like(at)
        return Interpolant(t, alpha=1 - at, sigma=at, alpha_slope=-one, sigma_slope=one)
    turn = math.pi / 2
    cos, sin = (turn * at).cos(), (turn * at).sin()
    return Interpolant(t, alpha=cos, sigma=sin, alpha_slope=-turn * sin, sigma_slope=turn * cos)


def time_at(path: Path, log_ratio: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The time at which the path's noise to data ratio, sigma / alpha, has this logarithm."""
    return log_ratio.sigmoid() if path == "linear" else log_ratio.exp().atan() * (2 / math.pi)


def sample_times(times: Times, path: Path, count: int, like: Tensor) -> Float[Tensor, " b"]:
    """Random times to train at.

    `logit-normal`: log(sigma / alpha) is N(0, 1), so that most of the learning happens in the middle; on the linear
    path that is the logit of t (arXiv:2403.03206, with m = 0 and s = 1).
    """
    kind = {"device": like.device, "dtype": like.dtype}
    return (
        torch.rand(count, **kind)
        if times == "uniform"
        else time_at(path, torch.randn(count, **kind))
    )


def shift_times(t: float, shift: float) -> float:
    """The timestep shift (arXiv:2403.03206): keeps 0 and 1, and above 1 moves what is between towards noise.

    LightningDiT's 0.3, whose time runs the other way, is 1 / 0.3 here.
    """
    return shift * t / (1 + (shift - 1) * t)
