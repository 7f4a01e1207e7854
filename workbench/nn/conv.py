"""Convolutional autoencoder: images to a grid of latent vectors and back.

The side is halved once per level. As in latent diffusion (arXiv:2112.10752), the network has
residual blocks of GroupNorm, SiLU and 3x3 convolutions, self-attention between the two innermost
blocks, and no dropout. With `padding="bottom_right"`, `linear_init=False` and the levels of
attention of a published model, it is the network of the paper's code.

Differences from the paper, with the default settings: a linear map between a token and its own
f x f pixels is added to each half, so that the network starts as a linear autoencoder of patches
(`linear_init`). Convolutions of stride 2 are padded on all sides, and only the innermost blocks
have attention.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.image_size import AnySide, ImageSize, as_side
from workbench.core.types import Images
from workbench.nn.image_shape import check_image_multiple, check_image_shape, check_multiple


@dataclass(frozen=True, kw_only=True)
class ConvConfig:
    """Sizes that every convolutional tokenizer shares.

    Attributes
    ----------
    side : int, str or pair of int
        Height and width of the images in pixels, as in 256 or 128x256.
    channels : int
        Color channels of the images: 1 for gray, 3 for RGB.
    dim : int
        Channels of a token.
    width : int
        Channels at the finest level; the papers' models have 128.
    multipliers : tuple of int
        Channels of each level as a multiple of width, the finest level first. Each further level
        halves the sides.
    blocks : int
        Residual blocks per level of the encoder; the decoder has one more.
    linear_init : bool
        Whether to start as a linear autoencoder, which small models need; the papers' models do
        not.
    z_channels : int, optional
        Channels between the innermost 3 x 3 convolution and the 1 x 1 convolution to a token; dim
        if none.
    padding : {"symmetric", "bottom_right"}
        Zeros around the input of a convolution of stride 2. The papers' code has bottom_right.
    encoder_attention : tuple of int
        Levels of the encoder with self-attention after each block, such as 3,4; 0 is the finest.
    decoder_attention : tuple of int
        Levels of the decoder with self-attention after each block.
    middle_attention : bool
        Whether there is self-attention between the two innermost blocks.
    flexible : bool
        Whether to accept all images whose sides are multiples of the downsampling factor.
    """

    side: AnySide = 32
    channels: int = 3
    dim: int = 32
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    linear_init: bool = True
    z_channels: int | None = None
    padding: Literal["symmetric", "bottom_right"] = "symmetric"
    encoder_attention: tuple[int, ...] = ()
    decoder_attention: tuple[int, ...] = ()
    middle_attention: bool = True
    flexible: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", as_side(self.side))  # JSON has a text
        for name in ("channels", "dim", "width", "blocks", "z_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(
                "multipliers must be one positive whole number per level, such as 1,2,4; "
                f"got {self.multipliers}."
            )
        check_multiple(self.size, self.factor, "the downsampling factor")
        if self.padding not in ("symmetric", "bottom_right"):
            raise unknown("padding", self.padding, ("symmetric", "bottom_right"))
        for name in ("encoder_attention", "decoder_attention"):
            levels = getattr(self, name)
            if any(not 0 <= level < len(self.multipliers) for level in levels):
                raise UserError(
                    f"{name} must name levels from 0 to {len(self.multipliers) - 1}, "
                    f"got {','.join(map(str, levels))}."
                )

    @property
    def factor(self) -> int:
        """Return f, the side of the image per side of the token grid."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def size(self) -> ImageSize:
        """Return the height and width of the images."""
        return ImageSize.of(self.side)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of the token grid."""
        return self.size.height // self.factor, self.size.width // self.factor

    @property
    def widths(self) -> list[int]:
        """Return the channels of the levels, from the finest to the coarsest."""
        return [self.width * multiplier for multiplier in self.multipliers]

    def grid_of(self, images: Images) -> tuple[int, int]:
        """Return the rows and columns of the token grid of these images.

        Raises
        ------
        UserError
            If the network does not take images of this shape.
        """
        if self.flexible:
            check_image_multiple(images, channels=self.channels, multiple=self.factor)
        else:
            check_image_shape(images, channels=self.channels, size=self.size)
        height, width = images.shape[2:]
        return height // self.factor, width // self.factor


class ConvEncoder(nn.Module):
    """Encode images to one or more vectors of `dim` channels per token.

    Parameters
    ----------
    sizes : ConvConfig
        Sizes of the network.
    parts : int
        Vectors per token: 2 for a mean and a log variance, otherwise 1.

    Attributes
    ----------
    last : nn.Conv2d
        The last 3x3 convolution, at which VA-VAE measures gradients.
    ldm_names : dict of str to str
        The name of each layer in the code of latent diffusion, by its name here.
    """

    def __init__(self, sizes: ConvConfig, parts: int = 1) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.widths[0]
        layers: list[NamedLayer] = [("conv_in", nn.Conv2d(sizes.channels, width, 3, padding=1))]
        for level, out_width in enumerate(sizes.widths):
            for block in range(sizes.blocks):
                layers.append((f"down.{level}.block.{block}", Residual(width, out_width)))
                if level in sizes.encoder_attention:
                    layers.append((f"down.{level}.attn.{block}", GridAttention(out_width)))
                width = out_width
            if level < len(sizes.widths) - 1:
                layers.append((f"down.{level}.downsample.conv", DOWNSAMPLING[sizes.padding](width)))
        layers += _middle(width, attention=sizes.middle_attention)
        layers += [("norm_out", _norm(width)), ("", nn.SiLU())]
        self.body = nn.Sequential(*(layer for _, layer in layers))
        self.ldm_names = _ldm_names("encoder", layers)
        self.ldm_names |= {"last": "encoder.conv_out", "moments": "quant_conv"}
        z_channels = parts * (sizes.z_channels or sizes.dim)
        out = parts * sizes.dim
        self.last = nn.Conv2d(width, z_channels, 3, padding=1)
        self.moments = nn.Conv2d(z_channels, out, 1)
        patch_channels = sizes.channels * sizes.factor**2
        self.skip = (
            nn.Sequential(nn.PixelUnshuffle(sizes.factor), nn.Conv2d(patch_channels, z_channels, 1))
            if sizes.linear_init
            else None
        )

    def forward(self, images: Images) -> Float[Tensor, "b n out"]:
        """Return the tokens in row-major order."""
        self.sizes.grid_of(images)  # checks the shape
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

    Attributes
    ----------
    ldm_names : dict of str to str
        The name of each layer in the code of latent diffusion, by its name here.
    """

    def __init__(self, sizes: ConvConfig) -> None:
        super().__init__()
        self.grid = sizes.grid
        z_channels = sizes.z_channels or sizes.dim
        width = sizes.widths[-1]
        layers: list[NamedLayer] = [
            ("", nn.Conv2d(sizes.dim, z_channels, 1)),
            ("conv_in", nn.Conv2d(z_channels, width, 3, padding=1)),
        ]
        layers += _middle(width, attention=sizes.middle_attention)
        for level, out_width in reversed(list(enumerate(sizes.widths))):
            for block in range(sizes.blocks + 1):
                layers.append((f"up.{level}.block.{block}", Residual(width, out_width)))
                if level in sizes.decoder_attention:
                    layers.append((f"up.{level}.attn.{block}", GridAttention(out_width)))
                width = out_width
            if level:
                layers += [
                    ("", nn.Upsample(scale_factor=2, mode="nearest")),
                    (f"up.{level}.upsample.conv", nn.Conv2d(width, width, 3, padding=1)),
                ]
        layers += [
            ("norm_out", _norm(width)),
            ("", nn.SiLU()),
            ("conv_out", nn.Conv2d(width, sizes.channels, 3, padding=1)),
        ]
        self.body = nn.Sequential(*(layer for _, layer in layers))
        self.ldm_names = {"body.0": "post_quant_conv"} | _ldm_names("decoder", layers)
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

    def forward(
        self, latents: Float[Tensor, "b n d"], grid: tuple[int, int] | None = None
    ) -> Images:
        """Arrange the tokens as a grid, by default that of the sizes, and decode it."""
        rows, columns = grid or self.grid
        cells = rearrange(latents, "b (h w) d -> b d h w", h=rows, w=columns)
        if self.skip is None:
            return self.body(cells)
        return self.body(cells) + self.skip(cells)


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


class SymmetricDownsampling(nn.Conv2d):
    """3x3 convolution of stride 2 with zeros on all sides."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2, padding=1)


class BottomRightDownsampling(nn.Conv2d):
    """3x3 convolution of stride 2 with zeros at the bottom and at the right only."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """Halve both sides."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


NamedLayer = tuple[str, nn.Module]  # with its name in the code of latent diffusion, or ""
DOWNSAMPLING: dict[str, type[SymmetricDownsampling] | type[BottomRightDownsampling]] = {
    "symmetric": SymmetricDownsampling,
    "bottom_right": BottomRightDownsampling,
}


def _middle(width: int, *, attention: bool) -> list[NamedLayer]:
    layers: list[NamedLayer] = [("mid.block_1", Residual(width, width))]
    if attention:
        layers.append(("mid.attn_1", GridAttention(width)))
    return [*layers, ("mid.block_2", Residual(width, width))]


def _ldm_names(half: str, layers: list[NamedLayer]) -> dict[str, str]:
    """Return the names of the layers of `body` that have a name."""
    names = [name for name, _ in layers]
    return {f"body.{index}": f"{half}.{name}" for index, name in enumerate(names) if name}


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, width), width, eps=1e-6)
