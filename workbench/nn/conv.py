"""The only convolutional autoencoder: an image to a grid of vectors and back, halving the side at each level.

After latent diffusion (arXiv:2112.10752): residual blocks of GroupNorm, SiLU and 3x3 convolutions, self-attention at
the coarsest level alone. No dropout.

Here: a `linear_init` beside each half, a linear map between a token and its own f x f pixels, so that the network begins as a
linear autoencoder of patches; a paper-scale run switches it off.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """The sizes every convolutional tokenizer shares; its `Config` adds what is its own."""

    side: int = 32  # pixels, height and width
    channels: int = 3  # 1 grey, 3 RGB
    dim: int = 32  # d, channels of a token
    width: int = 32  # channels at the finest level; the paper's models have 128
    multipliers: tuple[int, ...] = (1, 2, 4)  # of the width, a level each; f = 2^(levels - 1)
    blocks: int = 1  # residual blocks a level in the encoder, one more in the decoder
    linear_init: bool = True  # start as a linear autoencoder; False: as in the paper

    def __post_init__(self) -> None:
        for name in ("side", "channels", "dim", "width", "blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(
                f"multipliers are {self.multipliers}; give one whole number a level, as in 1,2,4."
            )
        if self.side % self.factor:
            below = self.side // self.factor * self.factor
            nearest = f"{below} or {below + self.factor}" if below else f"{self.factor}"
            raise UserError(
                f"image side {self.side} is not a multiple of factor {self.factor}. Use {nearest}."
            )

    @property
    def factor(self) -> int:
        """f: pixels of the image's side to one token's."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.side // self.factor, self.side // self.factor


class ConvEncoder(nn.Module):
    """Images to `out` numbers a token. `last` is the last 3x3 convolution, where gradients are weighed."""

    def __init__(self, sizes: ConvConfig, out: int) -> None:
        super().__init__()
        self.sizes = sizes
        widths = [sizes.width * multiplier for multiplier in sizes.multipliers]
        layers: list[nn.Module] = [nn.Conv2d(sizes.channels, widths[0], 3, padding=1)]
        for level, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            layers += [
                Residual(before if block == 0 else width, width) for block in range(sizes.blocks)
            ]
            if level < len(widths) - 1:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.body = nn.Sequential(*layers, *_middle(widths[-1]), _norm(widths[-1]), nn.SiLU())
        self.last = nn.Conv2d(widths[-1], out, 3, padding=1)
        self.moments = nn.Conv2d(out, out, 1)
        patch = sizes.channels * sizes.factor**2
        self.skip = (
            nn.Sequential(nn.PixelUnshuffle(sizes.factor), nn.Conv2d(patch, out, 1))
            if sizes.linear_init
            else None
        )

    def forward(self, images: Images) -> Float[Tensor, "b n out"]:
        """Tokens row by row."""
        expected = (self.sizes.channels, self.sizes.side, self.sizes.side)
        if tuple(images.shape[1:]) != expected:
            got = " x ".join(map(str, images.shape[1:]))
            raise UserError(
                f"images are {got}; this tokenizer was made for {' x '.join(map(str, expected))}."
            )
        grid = self.last(self.body(images))
        if self.skip is not None:
            grid = grid + self.skip(images)
        return rearrange(self.moments(grid), "b out h w -> b (h w) out")


class ConvDecoder(nn.Module):
    """Tokens row by row to images, not squashed."""

    def __init__(self, sizes: ConvConfig) -> None:
        super().__init__()
        self.rows = sizes.grid[0]
        widths = [sizes.width * multiplier for multiplier in reversed(sizes.multipliers)]
        layers: list[nn.Module] = [
            nn.Conv2d(sizes.dim, sizes.dim, 1),
            nn.Conv2d(sizes.dim, widths[0], 3, padding=1),
        ]
        layers += _middle(widths[0])
        for level, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            layers += [
                Residual(before if block == 0 else width, width)
                for block in range(sizes.blocks + 1)
            ]
            if level < len(widths) - 1:
                layers += [
                    nn.Upsample(scale_factor=2, mode="nearest"),
                    nn.Conv2d(width, width, 3, padding=1),
                ]
        last = nn.Conv2d(widths[-1], sizes.channels, 3, padding=1)
        self.body = nn.Sequential(*layers, _norm(widths[-1]), nn.SiLU(), last)
        patch = sizes.channels * sizes.factor**2
        self.skip = (
            nn.Sequential(nn.Conv2d(sizes.dim, patch, 1), nn.PixelShuffle(sizes.factor))
            if sizes.linear_init
            else None
        )

    @property
    def last(self) -> nn.Parameter:
        """The last layer's weight, where gradients are weighed."""
        return self.body[-1].weight

    def forward(self, latents: Float[Tensor, "b n d"]) -> Images:
        """Put the tokens in their places and grow the image around them."""
        grid = rearrange(latents, "b (h w) d -> b d h w", h=self.rows)
        return self.body(grid) if self.skip is None else self.body(grid) + self.skip(grid)


class Residual(nn.Module):
    """Two normalised 3x3 convolutions, added to their input."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(before), nn.SiLU(), nn.Conv2d(before, width, 3, padding=1))
        self.second = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if before == width else nn.Conv2d(before, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """The input, or its 1x1 projection, plus what the convolutions make of it."""
        return self.shortcut(x) + self.second(self.first(x))


class GridAttention(nn.Module):
    """Single-head self-attention over all places of a grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.project_in, self.project_out = (
            nn.Conv2d(width, 3 * width, 1),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """The input plus what the places tell each other."""
        q, k, v = rearrange(
            self.project_in(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3
        )
        mixed = rearrange(
            F.scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2]
        )
        return x + self.project_out(mixed)


def _middle(width: int) -> list[nn.Module]:
    return [Residual(width, width), GridAttention(width), Residual(width, width)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, width), width, eps=1e-6)
