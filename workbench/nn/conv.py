"""Convolutional autoencoder: images to a grid of latent vectors and back.

The side is halved once per level. As in latent diffusion (arXiv:2112.10752), the network has
residual blocks of GroupNorm, SiLU and 3x3 convolutions, self-attention at the coarsest level only,
and no dropout.

Differences from the paper: with `linear_init`, a linear map between a token and its own f x f
pixels is added to each half, so that the network starts as a linear autoencoder of patches. A run
at the paper's scale switches it off.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.nn.image_shape import check_image_shape


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Sizes that every convolutional tokenizer shares."""

    side: int = 32  # pixels, height and width of an image
    channels: int = 3  # 1 for gray, 3 for RGB
    dim: int = 32  # d, channels of a token
    width: int = 32  # channels at the finest level; the paper's models have 128
    multipliers: tuple[int, ...] = (1, 2, 4)  # of the width, one per level; f = 2^(levels - 1)
    blocks: int = 1  # residual blocks per level of the encoder; the decoder has one more
    linear_init: bool = True  # start as a linear autoencoder; False: as in the paper

    def __post_init__(self) -> None:
        for name in ("side", "channels", "dim", "width", "blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(
                "multipliers must be one positive whole number per level, such as 1,2,4; "
                f"got {self.multipliers}."
            )
        if self.side % self.factor:
            below = self.side // self.factor * self.factor
            nearest = f"{below} or {below + self.factor}" if below else f"{self.factor}"
            raise UserError(
                f"side must be a multiple of the downsampling factor {self.factor}, "
                f"got {self.side}. Use {nearest}."
            )

    @property
    def factor(self) -> int:
        """Return f, the side of the image per side of the token grid."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of the token grid."""
        return self.side // self.factor, self.side // self.factor


class ConvEncoder(nn.Module):
    """Encode images to `out` channels per token.

    Parameters
    ----------
    sizes : ConvConfig
        Sizes of the network.
    out : int
        Channels per token.

    Attributes
    ----------
    last : nn.Conv2d
        The last 3x3 convolution, at which VA-VAE measures gradients.
    """

    def __init__(self, sizes: ConvConfig, out: int) -> None:
        super().__init__()
        self.sizes = sizes
        widths = [sizes.width * multiplier for multiplier in sizes.multipliers]
        in_widths = [widths[0], *widths]
        layers: list[nn.Module] = [nn.Conv2d(sizes.channels, widths[0], 3, padding=1)]
        for level, (in_width, width) in enumerate(zip(in_widths, widths, strict=False)):
            layers += [
                Residual(in_width if block == 0 else width, width) for block in range(sizes.blocks)
            ]
            if level < len(widths) - 1:
                layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.body = nn.Sequential(*layers, *_middle(widths[-1]), _norm(widths[-1]), nn.SiLU())
        self.last = nn.Conv2d(widths[-1], out, 3, padding=1)
        self.moments = nn.Conv2d(out, out, 1)
        patch_channels = sizes.channels * sizes.factor**2
        self.skip = (
            nn.Sequential(nn.PixelUnshuffle(sizes.factor), nn.Conv2d(patch_channels, out, 1))
            if sizes.linear_init
            else None
        )

    def forward(self, images: Images) -> Float[Tensor, "b n out"]:
        """Return the tokens in row-major order."""
        check_image_shape(images, channels=self.sizes.channels, side=self.sizes.side)
        grid = self.last(self.body(images))
        if self.skip is not None:
            grid = grid + self.skip(images)
        return rearrange(self.moments(grid), "b out h w -> b (h w) out")


class ConvDecoder(nn.Module):
    """Decode tokens in row-major order to images, without a final activation.

    Parameters
    ----------
    sizes : ConvConfig
        Sizes of the network.
    """

    def __init__(self, sizes: ConvConfig) -> None:
        super().__init__()
        self.rows = sizes.grid[0]
        widths = [sizes.width * multiplier for multiplier in reversed(sizes.multipliers)]
        in_widths = [widths[0], *widths]
        layers: list[nn.Module] = [
            nn.Conv2d(sizes.dim, sizes.dim, 1),
            nn.Conv2d(sizes.dim, widths[0], 3, padding=1),
        ]
        layers += _middle(widths[0])
        for level, (in_width, width) in enumerate(zip(in_widths, widths, strict=False)):
            layers += [
                Residual(in_width if block == 0 else width, width)
                for block in range(sizes.blocks + 1)
            ]
            if level < len(widths) - 1:
                layers += [
                    nn.Upsample(scale_factor=2, mode="nearest"),
                    nn.Conv2d(width, width, 3, padding=1),
                ]
        last = nn.Conv2d(widths[-1], sizes.channels, 3, padding=1)
        self.body = nn.Sequential(*layers, _norm(widths[-1]), nn.SiLU(), last)
        patch_channels = sizes.channels * sizes.factor**2
        self.skip = (
            nn.Sequential(nn.Conv2d(sizes.dim, patch_channels, 1), nn.PixelShuffle(sizes.factor))
            if sizes.linear_init
            else None
        )

    @property
    def last(self) -> Tensor:
        """Return the weight of the last convolution, at which adaptive weights are measured."""
        return self.body.get_parameter(f"{len(self.body) - 1}.weight")

    def forward(self, latents: Float[Tensor, "b n d"]) -> Images:
        """Arrange the tokens as a grid and decode it."""
        grid = rearrange(latents, "b (h w) d -> b d h w", h=self.rows)
        if self.skip is None:
            return self.body(grid)
        return self.body(grid) + self.skip(grid)


class Residual(nn.Module):
    """Residual block of two normalized 3x3 convolutions."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        first_convolution = nn.Conv2d(in_width, width, 3, padding=1)
        self.first = nn.Sequential(_norm(in_width), nn.SiLU(), first_convolution)
        self.second = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if in_width == width else nn.Conv2d(in_width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """Add the convolutions' output to the input, or to its 1x1 projection."""
        return self.shortcut(x) + self.second(self.first(x))


class GridAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.project_in = nn.Conv2d(width, 3 * width, 1)
        self.project_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """Add the attention's output to the input."""
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
