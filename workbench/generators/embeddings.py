"""Embeddings of times and positions: this package's own, and those of the papers' code."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.generators.noise_schedules import NUM_TIMESTEPS

MAX_ROUNDING = 1e-3  # of the index of a timestep


def token_coordinates(num_tokens: int, rows: int) -> Float[Tensor, "n axes"]:
    """Return the coordinates of the tokens: their index on a line, or their row and column."""
    index = torch.arange(num_tokens)
    if rows == 1:
        return index[:, None].float()
    columns = num_tokens // rows
    return torch.stack([index // columns, index % columns], dim=1).float()


def sinusoidal_embedding(values: Float[Tensor, " v"], width: int) -> Float[Tensor, "v width"]:
    """Compute sines and cosines of the values at width / 2 frequencies, from 1 to 1/10,000."""
    frequencies = torch.exp(
        -torch.linspace(0, 1, width // 2, device=values.device) * torch.log(torch.tensor(1e4))
    )
    angles = rearrange(values, "v -> v 1") * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def timestep_index(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return 1000 t - 1, without the rounding error of a time that is a timestep."""
    index = NUM_TIMESTEPS * t - 1
    nearest = index.round()
    return torch.where((index - nearest).abs() < MAX_ROUNDING, nearest, index)


def cosine_embedding(values: Float[Tensor, " v"], width: int) -> Float[Tensor, "v width"]:
    """Compute cosines, then sines, at frequencies 10,000^(-i / half), i < half = width / 2.

    The code of DiT, SiT and LightningDiT embeds times in this way. The last frequency is above
    1/10,000.
    """
    angles = rearrange(values, "v -> v 1") * _frequencies(width // 2, values)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def published_positions(
    coordinates: Float[Tensor, "n axes"], width: int
) -> Float[Tensor, "n width"]:
    """Compute position embeddings as the papers' code does.

    On a grid they are those of MAE (arXiv:2111.06377): sines and cosines of the column, then of the
    row. On a line, sines and cosines alternate (arXiv:1706.03762).
    """
    num_tokens, axes = coordinates.shape
    frequencies = _frequencies(width // (2 * axes), coordinates)
    if axes == 1:
        angles = coordinates * frequencies
        return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(num_tokens, width)
    row, column = (rearrange(axis, "n -> n 1") * frequencies for axis in coordinates.T)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=-1)


def _frequencies(count: int, like: Tensor) -> Float[Tensor, " count"]:
    """Return the frequencies 10,000^(-i / count), i < count."""
    return 1e4 ** (-torch.arange(count, device=like.device, dtype=torch.float32) / count)
