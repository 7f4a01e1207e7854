"""SiT (arXiv:2401.08740): a class-conditional transformer over latents that predicts the velocity of a linear path.

Here: on one-dimensional tokens, with fixed sine positions; latents are standardised by one global mean and deviation.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.generators.path import linear, logit_normal
from workbench.nn.transformer import ModulatedBlock, initialise
from workbench.types import Objective


class SiT(nn.Module):
    """Predicts velocity(x, t, labels); trained by flow matching, sampled by `generators.sampling`."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What is learned about the latents, and the sizes."""

        tokens: int  # L, of the tokenizer
        dim: int  # d, of the tokenizer
        classes: int  # the null class of guidance comes on top
        mean: float = 0.0  # of all latents; what the network sees is (latents - mean) / std
        std: float = 1.0
        width: int = 96
        depth: int = 4
        heads: int = 4
        drop_class: float = 0.1  # share of labels replaced by the null class in training

        def __post_init__(self) -> None:
            if self.width % self.heads or self.width % 2:
                raise UserError(f"width {self.width} must be even and divide into {self.heads} heads.")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Linear(config.dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation, self.to_velocity = nn.Linear(width, 2 * width), nn.Linear(width, config.dim)
        initialise(self, config.depth)
        self.label = nn.Embedding(config.classes + 1, width)
        nn.init.normal_(self.label.weight, std=0.02)
        # adaLN-zero: every block, and the output, start at nothing.
        for zero in (*(block.modulation for block in self.blocks), self.modulation, self.to_velocity):
            nn.init.zeros_(zero.weight)
        positions = sines(torch.arange(config.tokens, dtype=torch.float32), width)
        self.register_buffer("positions", positions, persistent=False)

    def objective(self, latents: Float[Tensor, "b n d"], labels: Int[Tensor, " b"]) -> Objective:
        """Flow matching: squared error of the velocity at a logit-normal time. Before training it is 2."""
        data = self.standardise(latents)
        dropped = torch.rand(len(labels), device=labels.device) < self.config.drop_class
        path = linear(data, torch.randn_like(data), logit_normal(len(data), data))
        predicted = self(path.x, path.t, torch.where(dropped, self.config.classes, labels))
        return Objective({"velocity": F.mse_loss(predicted, path.velocity)})

    def forward(
        self, x: Float[Tensor, "b n d"], t: Float[Tensor, " b"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """The velocity at x, of standardised latents. Label `classes` is the null class."""
        condition = self.time(sines(1000 * t, self.config.width)) + self.label(labels)
        x = self.embed(x) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = rearrange(self.modulation(F.silu(condition)), "b (two width) -> two b 1 width", two=2)
        return self.to_velocity(self.norm(x) * (1 + scale) + shift)

    def standardise(self, latents: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Latents as the network sees them."""
        return (latents - self.config.mean) / self.config.std

    def restore(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Latents as the tokenizer's decoder reads them."""
        return x * self.config.std + self.config.mean


def sines(values: Float[Tensor, " v"], width: int) -> Float[Tensor, "v width"]:
    """Sines and cosines of the values at width / 2 frequencies, from 1 down to 1/10,000."""
    frequencies = torch.exp(-torch.linspace(0, 1, width // 2, device=values.device) * torch.log(torch.tensor(1e4)))
    angles = rearrange(values, "v -> v 1") * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
