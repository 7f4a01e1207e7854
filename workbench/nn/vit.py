"""A one-dimensional ViT tokenizer's two halves (after TiTok, arXiv:2406.07550): images to latents, latents to images.

Encoder: [patches + positions | learned tokens + positions] -> blocks -> norm -> the tokens' rows -> Linear to d.
Decoder: [one learned patch, repeated, + positions | Linear(latents) + positions] -> blocks -> norm -> patches' rows.

Here: no class token, and a `linear_init`: each token starts from its own learned mix of the patches, and each patch from a mix
of the tokens; these mixes begin as shares of the image, so that the network begins as a linear autoencoder of patches.
Without it a small model sits on the mean image for its first 500 to 1,000 steps; a paper-scale run switches it off.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images, Tokens
from workbench.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The sizes every 1-D tokenizer shares; its `Config` adds what is its own."""

    side: int = 32  # pixels, height and width
    channels: int = 3  # 1 grey, 3 RGB
    patch: int = 8  # P, pixels
    num_tokens: int = 16  # L, latent tokens an image
    dim: int = 16  # d, channels of a token
    width: int = 96  # of the transformer
    depth: int = 2  # blocks in the encoder, and in the decoder
    heads: int = 4
    linear_init: bool = True  # start as a linear autoencoder; False: as in the paper

    def __post_init__(self) -> None:
        for name in ("side", "channels", "patch", "num_tokens", "dim", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.side % self.patch:
            below = self.side // self.patch * self.patch
            nearest = f"{below} or {below + self.patch}" if below else f"{self.patch}"
            raise UserError(
                f"image side {self.side} is not a multiple of patch {self.patch}. Use {nearest}."
            )
        if self.width % self.heads:
            raise UserError(f"width {self.width} does not divide into {self.heads} heads.")

    @property
    def patches(self) -> int:
        """Patches an image."""
        return (self.side // self.patch) ** 2


class Encoder(nn.Module):
    """Images to latents, in two cuts: `look` at the patches, then `read` them into tokens.

    With `learned` False there are no tokens but the patches: their own rows become the latents, in their grid's order.
    """

    def __init__(self, sizes: ViTConfig, *, learned: bool = True) -> None:
        super().__init__()
        if not learned and sizes.num_tokens != sizes.patches:
            told = f"without learned tokens the patches are the tokens, and an image has {sizes.patches} of those"
            raise UserError(f"{told}; num_tokens is {sizes.num_tokens}.")
        self.sizes = sizes
        self.embed = nn.Linear(sizes.channels * sizes.patch**2, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm, self.to_latents = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, sizes.dim)
        init_weights(self, sizes.depth)
        self.patch_positions = _table(sizes.patches, sizes.width)
        # The learned queries; their position is part of them.
        self.tokens = _table(sizes.num_tokens, sizes.width) if learned else None
        self.mix = _mix(sizes.num_tokens, sizes.patches) if learned and sizes.linear_init else None

    def look(self, images: Images) -> Float[Tensor, "b p width"]:
        """Patches, embedded, without positions."""
        expected = (self.sizes.channels, self.sizes.side, self.sizes.side)
        if tuple(images.shape[1:]) != expected:
            got = " x ".join(map(str, images.shape[1:]))
            raise UserError(
                f"images are {got}; this tokenizer was made for {' x '.join(map(str, expected))}."
            )
        size = self.sizes.patch
        return self.embed(rearrange(images, "b c (h i) (w j) -> b (h w) (i j c)", i=size, j=size))

    def queries(self, patches: Float[Tensor, "b p width"]) -> Float[Tensor, "b n width"]:
        """The tokens before they have looked: learned, plus their mix of the patches where the network skips."""
        tokens = repeat(self.tokens, "n width -> b n width", b=len(patches))
        if self.mix is None:
            return tokens
        return tokens + einsum(patches, self.mix, "b p width, n p -> b n width")

    def read(self, patches: Float[Tensor, "b p width"]) -> Float[Tensor, "b n d"]:
        """Patches into latents: blocks over patches and tokens together, then the tokens' rows."""
        x = patches + self.patch_positions
        if self.tokens is not None:
            x = torch.cat([x, self.queries(patches)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.to_latents(self.norm(x[:, -self.sizes.num_tokens :]))

    def forward(self, images: Images) -> Float[Tensor, "b n d"]:
        """Look, then read."""
        return self.read(self.look(images))


class Decoder(nn.Module):
    """Tokens to patches of `out` numbers each; a token that is not active is never looked at."""

    def __init__(self, sizes: ViTConfig, out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.dim, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm, self.to_patches = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, out)
        init_weights(self, sizes.depth)
        self.patch = nn.Parameter(0.02 * torch.randn(sizes.width))
        self.patch_positions = _table(sizes.patches, sizes.width)
        self.token_positions = _table(sizes.num_tokens, sizes.width)
        self.mix = _mix(sizes.patches, sizes.num_tokens) if sizes.linear_init else None

    def forward(self, tokens: Tokens) -> Float[Tensor, "b p out"]:
        """Read the tokens into one vector a patch."""
        embedded, visible = self.embed(tokens.latents) + self.token_positions, None
        patches = repeat(self.patch + self.patch_positions, "p width -> b p width", b=len(embedded))
        if tokens.active is not None:
            embedded = embedded * rearrange(tokens.active, "b n -> b n 1")
            visible = torch.cat(
                [torch.ones_like(patches[..., 0], dtype=torch.bool), tokens.active], dim=1
            )
        if self.mix is not None:
            patches = patches + einsum(embedded, self.mix, "b n width, p n -> b p width")
        x = torch.cat([patches, embedded], dim=1)
        for block in self.blocks:
            x = block(x, visible)
        return self.to_patches(self.norm(x[:, : patches.shape[1]]))


class PixelDecoder(nn.Module):
    """Tokens to images: a Decoder whose patches are pixels. Not squashed; clamp only to look."""

    def __init__(self, sizes: ViTConfig) -> None:
        super().__init__()
        self.sizes = sizes
        self.decoder = Decoder(sizes, out=sizes.channels * sizes.patch**2)

    @property
    def last(self) -> nn.Parameter:
        """The last layer's weight, where gradients are weighed."""
        return self.decoder.to_patches.weight

    def forward(self, tokens: Tokens) -> Images:
        """Decode the patches and put them in their places."""
        size, rows = self.sizes.patch, self.sizes.side // self.sizes.patch
        return rearrange(
            self.decoder(tokens), "b (h w) (i j c) -> b c (h i) (w j)", i=size, j=size, h=rows
        )


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.1 * torch.randn(rows, width))


def _mix(rows: int, columns: int) -> nn.Parameter:
    """Each of `rows` begins as the mean, times the root of their number, of its own share of the `columns`."""
    most = max(rows, columns)
    own = torch.zeros(rows, columns)
    own[torch.arange(most) * rows // most, torch.arange(most) * columns // most] = 1
    return nn.Parameter(own / own.norm(dim=1, keepdim=True) + 0.02 * torch.randn(rows, columns))
