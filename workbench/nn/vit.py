"""Encoder and decoder of a one-dimensional ViT tokenizer (after TiTok, arXiv:2406.07550).

Encoder: [patches + positions | learned tokens + positions] -> blocks -> norm -> rows of the tokens
-> Linear to d. Decoder: [one learned patch, repeated, + positions | Linear(latents) + positions] ->
blocks -> norm -> rows of patches.

Differences from the paper: there is no class token. With `linear_init`, each token starts from its
own learned mix of the patches, and each patch from a mix of the tokens. The mixes start as shares
of the image, so that the network starts as a linear autoencoder of patches. Without them, a small
model reconstructs the mean image for its first 500 to 1,000 steps. A run at the paper's scale
switches them off.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images, Tokens
from workbench.nn.image_shape import check_image_shape
from workbench.nn.transformer import Block, init_weights


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes that every one-dimensional tokenizer shares."""

    side: int = 32  # pixels, height and width of an image
    channels: int = 3  # 1 for gray, 3 for RGB
    patch: int = 8  # P, pixels
    num_tokens: int = 16  # L, latent tokens per image
    dim: int = 16  # d, channels of a token
    width: int = 96  # of the transformer
    depth: int = 2  # blocks of the encoder, and of the decoder
    heads: int = 4  # attention heads
    linear_init: bool = True  # start as a linear autoencoder; False: as in the paper

    def __post_init__(self) -> None:
        for name in ("side", "channels", "patch", "num_tokens", "dim", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.side % self.patch:
            below = self.side // self.patch * self.patch
            nearest = f"{below} or {below + self.patch}" if below else f"{self.patch}"
            raise UserError(
                f"side must be a multiple of patch {self.patch}, got {self.side}. Use {nearest}."
            )
        if self.width % self.heads:
            raise UserError(
                f"width must be a multiple of heads, got width {self.width} and {self.heads} heads."
            )

    @property
    def patches(self) -> int:
        """Return the number of patches per image."""
        return (self.side // self.patch) ** 2


class Encoder(nn.Module):
    """Encode images to latents in two steps: `embed_patches`, then `to_tokens`.

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    learned : bool
        Use learned tokens. If False, the rows of the patches themselves become the latents, in
        row-major order.
    """

    def __init__(self, sizes: ViTConfig, *, learned: bool = True) -> None:
        super().__init__()
        if not learned and sizes.num_tokens != sizes.patches:
            raise UserError(
                f"num_tokens must be the number of patches, {sizes.patches}, "
                f"without learned tokens, got {sizes.num_tokens}."
            )
        self.sizes = sizes
        self.embed = nn.Linear(sizes.channels * sizes.patch**2, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm, self.to_latents = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, sizes.dim)
        init_weights(self, sizes.depth)
        self.patch_positions = _embedding(sizes.patches, sizes.width)
        # The learned queries; their position is part of them.
        self.tokens = _embedding(sizes.num_tokens, sizes.width) if learned else None
        self.mix = _mix(sizes.num_tokens, sizes.patches) if learned and sizes.linear_init else None

    def embed_patches(self, images: Images) -> Float[Tensor, "b p width"]:
        """Embed the patches of images, without positions."""
        check_image_shape(images, channels=self.sizes.channels, side=self.sizes.side)
        size = self.sizes.patch
        return self.embed(rearrange(images, "b c (h i) (w j) -> b (h w) (i j c)", i=size, j=size))

    def queries(self, patches: Float[Tensor, "b p width"]) -> Float[Tensor, "b n width"]:
        """Return the tokens before the first block.

        They are learned and, with `linear_init`, include their mix of the patches.
        """
        if self.tokens is None:
            raise UserError("An encoder without learned tokens has no queries.")
        tokens = repeat(self.tokens, "n width -> b n width", b=len(patches))
        if self.mix is None:
            return tokens
        return tokens + einsum(patches, self.mix, "b p width, n p -> b n width")

    def to_tokens(self, patches: Float[Tensor, "b p width"]) -> Float[Tensor, "b n d"]:
        """Encode embedded patches: blocks over patches and tokens, then the rows of the tokens."""
        x = patches + self.patch_positions
        if self.tokens is not None:
            x = torch.cat([x, self.queries(patches)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.to_latents(self.norm(x[:, -self.sizes.num_tokens :]))

    def forward(self, images: Images) -> Float[Tensor, "b n d"]:
        """Encode images to latents."""
        return self.to_tokens(self.embed_patches(images))


class Decoder(nn.Module):
    """Decode tokens to `out` channels per patch. Inactive tokens are masked out.

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    out : int
        Channels per patch.
    """

    def __init__(self, sizes: ViTConfig, out: int) -> None:
        super().__init__()
        self.embed = nn.Linear(sizes.dim, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm, self.to_patches = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, out)
        init_weights(self, sizes.depth)
        self.patch = nn.Parameter(0.02 * torch.randn(sizes.width))
        self.patch_positions = _embedding(sizes.patches, sizes.width)
        self.token_positions = _embedding(sizes.num_tokens, sizes.width)
        self.mix = _mix(sizes.patches, sizes.num_tokens) if sizes.linear_init else None

    def forward(self, tokens: Tokens) -> Float[Tensor, "b p out"]:
        """Return one vector per patch."""
        embedded, visible = self.embed(tokens.latents) + self.token_positions, None
        patches = repeat(self.patch + self.patch_positions, "p width -> b p width", b=len(embedded))
        if tokens.active is not None:
            embedded = embedded * rearrange(tokens.active, "b n -> b n 1")
            every_patch = torch.ones_like(patches[..., 0], dtype=torch.bool)
            visible = torch.cat([every_patch, tokens.active], dim=1)
        if self.mix is not None:
            patches = patches + einsum(embedded, self.mix, "b n width, p n -> b p width")
        x = torch.cat([patches, embedded], dim=1)
        for block in self.blocks:
            x = block(x, visible)
        return self.to_patches(self.norm(x[:, : patches.shape[1]]))


class PixelDecoder(nn.Module):
    """Decode tokens to images, without a final activation; clamp the output to display it.

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    """

    def __init__(self, sizes: ViTConfig) -> None:
        super().__init__()
        self.sizes = sizes
        self.decoder = Decoder(sizes, out=sizes.channels * sizes.patch**2)

    @property
    def last(self) -> Tensor:
        """Return the weight of the last layer, at which adaptive weights are measured."""
        return self.decoder.to_patches.weight

    def forward(self, tokens: Tokens) -> Images:
        """Decode the patches and arrange them as images."""
        size, rows = self.sizes.patch, self.sizes.side // self.sizes.patch
        return rearrange(
            self.decoder(tokens), "b (h w) (i j c) -> b c (h i) (w j)", i=size, j=size, h=rows
        )


def _embedding(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.1 * torch.randn(rows, width))


def _mix(rows: int, columns: int) -> nn.Parameter:
    """Return a mix in which each row averages its share of the columns, scaled to unit norm."""
    longest = max(rows, columns)
    share = torch.zeros(rows, columns)
    index = torch.arange(longest)
    share[index * rows // longest, index * columns // longest] = 1
    return nn.Parameter(share / share.norm(dim=1, keepdim=True) + 0.02 * torch.randn(rows, columns))
