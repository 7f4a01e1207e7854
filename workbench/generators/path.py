"""The path between data and noise that a generator learns to walk (SiT, arXiv:2401.08740, linear interpolant).

Time t runs from 0, data, to 1, noise.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PathSample:
    """A point on the path, the time it was taken at, and the velocity there."""

    x: Float[Tensor, "b n d"]
    t: Float[Tensor, " b"]
    velocity: Float[Tensor, "b n d"]


def linear(data: Float[Tensor, "b n d"], noise: Float[Tensor, "b n d"], t: Float[Tensor, " b"]) -> PathSample:
    """x_t = (1 - t) data + t noise, so dx/dt = noise - data."""
    at = rearrange(t, "b -> b 1 1")
    return PathSample(x=(1 - at) * data + at * noise, t=t, velocity=noise - data)


def logit_normal(count: int, like: Tensor) -> Float[Tensor, " b"]:
    """Times whose logit is N(0, 1): most of the learning happens in the middle of the path."""
    return torch.randn(count, device=like.device, dtype=like.dtype).sigmoid()
