"""One class-conditional transformer over latents for DiT, SiT and LightningDiT; its settings name the differences.

DiT (arXiv:2212.09748) gives the blocks, SiT (arXiv:2401.08740) the paths and what is predicted, LightningDiT
(arXiv:2501.01423) the norms, gates, rotations and the direction loss. `generators.presets` has each one's settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Objective
from workbench.generators.interpolants import Path, Times, interpolant, sample_times
from workbench.nn.transformer import (
    Inner,
    ModulatedBlock,
    Norm,
    init_weights,
    normalize,
    rotary_angles,
)


class SiT(nn.Module):
    """Predicts the velocity, or the noise, at a point of the path; sampled by `generators.sampling`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is learned about the latents, the sizes, and the choices in which the papers differ."""

        num_tokens: int  # L, of the tokenizer
        dim: int  # d, of the tokenizer
        classes: int  # the null class of guidance comes on top
        by_channel: bool = False  # whether a mean and std are those of one channel of every token, or of all numbers
        mean: float | Sequence[float] = (
            0.0  # of the latents; what the network sees is (latents - mean) / std
        )
        std: float | Sequence[float] = 1.0
        width: int = 96
        depth: int = 4
        heads: int = 4
        drop_class: float = 0.1  # share of labels replaced by the null class in training
        path: Path = "linear"
        predict: Literal["velocity", "noise"] = "velocity"
        times: Times = "logit-normal"  # at which training looks
        norm: Norm = "layer"  # rms: with a learned gain
        mlp: Inner = "gelu"
        positions: Literal["sines", "rope", "sines+rope"] = (
            "sines"  # added, or turning queries and keys, or both
        )
        rows: int = 1  # of the tokens' grid, for positions in two axes; 1: the tokens are a line
        qk_norm: bool = False  # RMSNorm of queries and keys
        direction_weight: float = 0.0  # of 1 - cos(predicted velocity, velocity)
        shift: float = (
            1.0  # of the times that sampling visits; above 1 more of them are near the noise
        )
        interval: tuple[float, float] = (
            0.0,
            1.0,
        )  # of times in which guidance holds, if it is asked for; 1 is noise

        def __post_init__(self) -> None:
            for field in fields(self):
                value = getattr(self, field.name)
                if get_origin(field.type) is Literal and value not in get_args(field.type):
                    raise unknown(field.name, str(value), get_args(field.type))
                if field.type is int and value < 1:
                    raise UserError(f"{field.name} is {value}; it must be at least 1.")
            if not 0 < self.shift < float("inf"):
                raise UserError(f"shift is {self.shift}; it must be above 0.")
            self._check_moments()
            low, high = self.interval
            if not 0 <= low <= high <= 1:
                raise UserError(
                    f"a guidance interval goes up within 0..1, 1 being noise; got {low} to {high}."
                )
            if not 0 <= self.drop_class <= 1:
                raise UserError(f"drop_class is {self.drop_class}; it must lie between 0 and 1.")
            if self.direction_weight < 0 or (self.direction_weight and self.predict != "velocity"):
                asked = f"direction_weight is {self.direction_weight} with predict={self.predict}"
                raise UserError(
                    f"{asked}; it must not be below 0, and above 0 needs predict=velocity."
                )
            self._check_sizes()

        def _check_moments(self) -> None:
            for name in ("mean", "std"):
                value = getattr(self, name)
                if isinstance(value, Sequence) and len(value) != self.dim:
                    raise UserError(
                        f"{name} has {len(value)} numbers for latents of {self.dim} channels."
                    )
            for each in self.std if isinstance(self.std, Sequence) else (self.std,):
                if not 0 < each < float("inf"):
                    raise UserError(f"std is {each}; it must be above 0.")

        def _check_sizes(self) -> None:
            if self.num_tokens % self.rows:
                raise UserError(f"{self.num_tokens} tokens do not divide into {self.rows} rows.")
            if self.width % self.heads or self.width % (2 * self.axes):
                even = "even" if self.axes == 1 else "a multiple of 4"
                raise UserError(
                    f"width {self.width} must be {even} and divide into {self.heads} heads."
                )
            if "rope" in self.positions and self.width // self.heads % (2 * self.axes):
                raise UserError(
                    f"rope turns pairs of channels; heads of width {self.width // self.heads} "
                    f"are no multiple of {2 * self.axes}."
                )

        @property
        def axes(self) -> int:
            """In how many directions tokens have places."""
            return 1 if self.rows == 1 else 2

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Linear(config.dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        choices = {"norm": config.norm, "mlp": config.mlp, "qk_norm": config.qk_norm}
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, config.heads, **choices) for _ in range(config.depth)
        )
        self.norm = normalize(config.norm, width)
        self.modulation = nn.Linear(width, 2 * width)
        self.to_velocity = nn.Linear(
            width, config.dim
        )  # or to noise; stored runs know it by this name
        init_weights(self, config.depth)
        self.label = nn.Embedding(config.classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)
        # adaLN-zero: every block, and the output, start at nothing.
        for zero in (
            *(block.modulation for block in self.blocks),
            self.modulation,
            self.to_velocity,
        ):
            nn.init.zeros_(zero.weight)
        places = grid(config.num_tokens, config.rows)
        added = torch.cat(
            [sinusoidal_embedding(axis, width // config.axes) for axis in places.T], dim=1
        )
        turned = (
            rotary_angles(places, width // config.heads) if "rope" in config.positions else None
        )
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)
        self.register_buffer(
            "positions", added if "sines" in config.positions else None, persistent=False
        )
        self.register_buffer("turns", turned, persistent=False)

    def objective(self, latents: Float[Tensor, "b n d"], labels: Int[Tensor, " b"]) -> Objective:
        """Squared error of what is predicted, at a random time, and the direction term.

        Before training, with latents of unit variance: velocity 2 on the linear path and (pi / 2)^2 on the cosine one,
        noise 1, direction its weight.
        """
        config, data = self.config, self.standardise(latents)
        dropped = torch.rand(len(labels), device=labels.device) < config.drop_class
        noise = torch.randn_like(data)
        at = interpolant(config.path, sample_times(config.times, config.path, len(data), data))
        target = at.slope(data, noise) if config.predict == "velocity" else noise
        predicted = self(at.mix(data, noise), at.t, torch.where(dropped, config.classes, labels))
        terms = {config.predict: F.mse_loss(predicted, target)}
        if config.direction_weight:
            terms["direction"] = config.direction_weight * direction(predicted, target)
        return Objective(terms)

    def forward(
        self, x: Float[Tensor, "b n d"], t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """What is predicted at x, of standardised latents. Label `classes` is the null class."""
        condition = self.time(sinusoidal_embedding(1000 * t, self.config.width)) + self.label(
            labels
        )
        x = self.embed(x)
        if self.positions is not None:
            x = x + self.positions
        for block in self.blocks:
            x = block(x, condition, self.turns)
        shift, scale = rearrange(
            self.modulation(F.silu(condition)), "b (two width) -> two b 1 width", two=2
        )
        return self.to_velocity(self.norm(x) * (1 + scale) + shift)

    def velocity(
        self, x: Float[Tensor, "b n d"], t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """The velocity at x, converted where noise is predicted; that is singular at t = 1."""
        predicted = self(x, t, labels)
        return (
            predicted
            if self.config.predict == "velocity"
            else interpolant(self.config.path, t).velocity(x, predicted)
        )

    def standardise(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Latents as the network sees them."""
        return (latents - self.mean) / self.std

    def restore(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Latents as the tokenizer's decoder reads them."""
        return x * self.std + self.mean


def direction(
    predicted: Float[Tensor, "b n d"], velocity: Float[Tensor, "b n d"]
) -> Float[Tensor, ""]:
    """1 - cos between two velocities, across a token's channels (LightningDiT, after FasterDiT, arXiv:2410.10356).

    Here: a vector shorter than 0.1 counts as that long. The first prediction is 0, and with torch's 1e-8 its gradient
    is 1e8: a run without clipping starts slowly then, as Adam's second moment remembers it. Clipped, it matters little.
    """
    return 1 - F.cosine_similarity(predicted, velocity, dim=-1, eps=0.1).mean()


def grid(tokens: int, rows: int) -> Float[Tensor, "n axes"]:
    """The places of the tokens: along a line, or by row and column."""
    index = torch.arange(tokens)
    axes = [index] if rows == 1 else [index // (tokens // rows), index % (tokens // rows)]
    return torch.stack(axes, dim=1).float()


def sinusoidal_embedding(values: Float[Tensor, " v"], width: int) -> Float[Tensor, "v width"]:
    """Sines and cosines of the values at width / 2 frequencies, from 1 down to 1/10,000."""
    frequencies = torch.exp(
        -torch.linspace(0, 1, width // 2, device=values.device) * torch.log(torch.tensor(1e4))
    )
    angles = rearrange(values, "v -> v 1") * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
