"""Encoder and decoder of a one-dimensional ViT tokenizer (after TiTok, arXiv:2406.07550).

Encoder: [patches + positions | learned tokens + positions] -> blocks -> norm -> rows of the tokens
-> Linear to d. Decoder: [one learned patch, repeated, + positions | Linear(latents) + positions] ->
blocks -> norm -> rows of patches.

Differences from the paper: class tokens, the norm of the input, and the variants of SoftVQ-VAE and
MAETok are options (`ViTOptions`). With `linear_init`, each token starts from its
own learned mix of the patches, and each patch from a mix of the tokens. The mixes start as shares
of the image, so that the network starts as a linear autoencoder of patches. Without them, a small
model reconstructs the mean image for its first 500 to 1,000 steps. A run at the paper's scale
switches them off.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.image_size import AnySide, ImageSize, as_side
from workbench.core.types import Images, Tokens
from workbench.nn.image_shape import check_image_shape, check_multiple
from workbench.nn.transformer import (
    Block,
    MixedRotary,
    TokenModulatedBlock,
    init_weights,
)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes that every one-dimensional tokenizer shares.

    Attributes
    ----------
    side : int, str or pair of int
        Height and width of the images in pixels, as in 256 or 128x256.
    channels : int
        Color channels of the images: 1 for gray, 3 for RGB.
    patch : int
        Height and width of a patch in pixels.
    num_tokens : int
        Latent tokens per image.
    dim : int
        Channels of a token.
    width : int
        Channels of the transformer.
    depth : int
        Blocks of the encoder, and of the decoder.
    heads : int
        Attention heads.
    decoder_width : int, optional
        Channels of the decoder, if they differ from those of the encoder.
    decoder_depth : int, optional
        Blocks of the decoder, if they differ from those of the encoder.
    decoder_heads : int, optional
        Attention heads of the decoder, if they differ from those of the encoder.
    linear_init : bool
        Whether to start as a linear autoencoder, which small models need; the papers' models do
        not.
    """

    side: AnySide = 32
    channels: int = 3
    patch: int = 8
    num_tokens: int = 16
    dim: int = 16
    width: int = 96
    depth: int = 2
    heads: int = 4
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    linear_init: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "side", as_side(self.side))  # JSON has a text
        sizes = ("channels", "patch", "num_tokens", "dim", "width", "depth", "heads")
        decoder_sizes = ("decoder_width", "decoder_depth", "decoder_heads")
        for name in (*sizes, *decoder_sizes):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}.")
        check_multiple(self.size, self.patch, "patch")
        if self.width % self.heads:
            raise UserError(
                f"width must be a multiple of heads, got width {self.width} and {self.heads} heads."
            )
        decoder = self.decoder_size
        if decoder.width % decoder.heads:
            raise UserError(
                "decoder_width must be a multiple of decoder_heads, got width "
                f"{decoder.width} and {decoder.heads} heads."
            )

    @property
    def encoder_size(self) -> "TransformerSize":
        """Return the size of the encoder."""
        return TransformerSize(width=self.width, depth=self.depth, heads=self.heads)

    @property
    def decoder_size(self) -> "TransformerSize":
        """Return the size of the decoder, which is the encoder's unless it is set."""
        return TransformerSize(
            width=self.width if self.decoder_width is None else self.decoder_width,
            depth=self.depth if self.decoder_depth is None else self.decoder_depth,
            heads=self.heads if self.decoder_heads is None else self.decoder_heads,
        )

    @property
    def size(self) -> ImageSize:
        """Return the height and width of the images."""
        return ImageSize.of(self.side)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Return the rows and columns of patches."""
        return self.size.height // self.patch, self.size.width // self.patch

    @property
    def patches(self) -> int:
        """Return the number of patches per image."""
        rows, columns = self.patch_grid
        return rows * columns


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """The size of one transformer."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True, kw_only=True)
class ViTOptions:
    """Variants of an encoder or a decoder.

    Attributes
    ----------
    class_token : bool
        One more learned row before the patches. It takes part in attention only.
    norm_eps : float
        Added to the variance in each LayerNorm.
    norm_input : bool
        Normalize all rows before the first block.
    rotary : bool
        Rotate queries and keys of patches by learned angles (`MixedRotary`). The patches of a
        decoder then have no other position.
    layer_scale : float, optional
        Initial value of one learned gain per channel of each branch; none: no gains. Modulated
        blocks have none.
    """

    class_token: bool = False
    norm_eps: float = 1e-5
    norm_input: bool = False
    rotary: bool = False
    layer_scale: float | None = None


DEFAULT_OPTIONS = ViTOptions()


@dataclass(frozen=True, kw_only=True)
class ExtendedViTConfig(ViTConfig):
    """Sizes, and the variants of the transformers of SoftVQ-VAE and MAETok.

    Autoencoders to which these are compared can have the same network.

    Attributes
    ----------
    encoder_class_token : bool
        Whether the encoder has one more learned row before the patches, as in DINOv2. The released
        SoftVQ-VAEs and MAEToks have it.
    decoder_class_token : bool
        Whether the decoder has such a row. The released SoftVQ-VAEs have it.
    norm_eps : float
        Number that is added to the variance in each LayerNorm; 1e-6 in the released models.
    rotary : bool
        Whether patches have learned rotary positions per block and head, as in MAETok. The patches
        of the decoder then have no other positions.
    modulated : bool
        Whether the latents modulate the blocks of the decoder, as in MAETok.
    layer_scale : float, optional
        Initial value of one learned gain per channel of each branch of a plain block, 1e-5 in the
        released models; none: no gains.
    """

    encoder_class_token: bool = False
    decoder_class_token: bool = False
    norm_eps: float = 1e-5
    rotary: bool = False
    modulated: bool = False
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm_eps <= 0:
            raise UserError(f"norm_eps must be above 0, got {self.norm_eps}.")
        if self.layer_scale is not None and self.layer_scale <= 0:
            raise UserError(f"layer_scale must be above 0, got {self.layer_scale}.")
        for size in (self.encoder_size, self.decoder_size):
            if self.rotary and size.width // size.heads % 4:
                raise UserError(
                    "With rotary, the channels per head must be a multiple of 4, "
                    f"got width {size.width} and {size.heads} heads."
                )

    @property
    def encoder_options(self) -> ViTOptions:
        """Return the variants of the encoder."""
        return self._options(class_token=self.encoder_class_token)

    @property
    def decoder_options(self) -> ViTOptions:
        """Return the variants of the decoder."""
        return self._options(class_token=self.decoder_class_token)

    def _options(self, *, class_token: bool) -> ViTOptions:
        return ViTOptions(
            class_token=class_token,
            norm_eps=self.norm_eps,
            rotary=self.rotary,
            layer_scale=self.layer_scale,
        )


class Encoder(nn.Module):
    """Encode images to latents in two steps: `embed_patches`, then `to_tokens`.

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    learned : bool
        Use learned tokens. If False, the rows of the patches themselves become the latents, in
        row-major order.
    options : ViTOptions
        Variants of the network.
    """

    def __init__(
        self, sizes: ViTConfig, *, learned: bool = True, options: ViTOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__()
        if not learned and sizes.num_tokens != sizes.patches:
            raise UserError(
                f"num_tokens must be the number of patches, {sizes.patches}, "
                f"without learned tokens, got {sizes.num_tokens}."
            )
        self.sizes = sizes
        self.embed = nn.Linear(sizes.channels * sizes.patch**2, sizes.width)
        self.blocks = nn.ModuleList(
            _plain_block(sizes.encoder_size, options) for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(sizes.width, eps=options.norm_eps)
        self.to_latents = nn.Linear(sizes.width, sizes.dim)
        init_weights(self, sizes.depth)
        self.patch_positions = _embedding(sizes.patches, sizes.width)
        # The learned queries; their position is part of them.
        self.tokens = _embedding(sizes.num_tokens, sizes.width) if learned else None
        self.mix = _mix(sizes.num_tokens, sizes.patches) if learned and sizes.linear_init else None
        self.class_token = _embedding(1, sizes.width) if options.class_token else None
        self.norm_input = _input_norm(sizes.width, options)
        num_queries = sizes.num_tokens if learned else 0
        self.rotary = _rotary(sizes, sizes.encoder_size, options, after=num_queries)

    def embed_patches(self, images: Images) -> Float[Tensor, "b p width"]:
        """Embed the patches of images, without positions."""
        check_image_shape(images, channels=self.sizes.channels, size=self.sizes.size)
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
        """Encode embedded patches to latents."""
        return self.to_latents(self.token_rows(patches))

    def token_rows(self, patches: Float[Tensor, "b p width"]) -> Float[Tensor, "b n width"]:
        """Run the blocks over patches and tokens, and return the normalized rows of the tokens."""
        rows = [patches + self.patch_positions]
        if self.class_token is not None:
            rows.insert(0, self.class_token.expand(len(patches), -1, -1))
        if self.tokens is not None:
            rows.append(self.queries(patches))
        x = self.norm_input(torch.cat(rows, dim=1))
        rotations = [None] * len(self.blocks) if self.rotary is None else self.rotary()
        for block, rotation in zip(self.blocks, rotations, strict=True):
            x = block(x, rotation=rotation)
        return self.norm(x[:, -self.sizes.num_tokens :])

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
    options : ViTOptions
        Variants of the network.
    modulated : bool
        Let the latents modulate each block (`TokenModulatedBlock`).
    """

    def __init__(
        self,
        sizes: ViTConfig,
        out: int,
        *,
        options: ViTOptions = DEFAULT_OPTIONS,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        size = sizes.decoder_size
        eps = options.norm_eps
        self.sizes = sizes
        self.modulated = modulated
        self.embed = nn.Linear(sizes.dim, size.width)
        self.blocks = nn.ModuleList(
            _decoder_block(sizes, options, modulated=modulated) for _ in range(size.depth)
        )
        self.norm = nn.LayerNorm(size.width, eps=eps, elementwise_affine=not modulated)
        self.to_patches = nn.Linear(size.width, out)
        init_weights(self, size.depth)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("modulation.weight"):  # starts at zero
                nn.init.zeros_(parameter)
        self.patch = nn.Parameter(0.02 * torch.randn(size.width))
        self.patch_positions = None if options.rotary else _embedding(sizes.patches, size.width)
        self.token_positions = _embedding(sizes.num_tokens, size.width)
        self.mix = _mix(sizes.patches, sizes.num_tokens) if sizes.linear_init else None
        self.class_token = _embedding(1, size.width) if options.class_token else None
        self.norm_input = _input_norm(size.width, options)
        self.rotary = _rotary(sizes, size, options, after=sizes.num_tokens)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b p out"]:
        """Return one vector per patch."""
        embedded = self.embed(tokens.latents) + self.token_positions
        patch = self.patch.expand(self.sizes.patches, -1)
        if self.patch_positions is not None:
            patch = patch + self.patch_positions
        patches = repeat(patch, "p width -> b p width", b=len(embedded))
        if tokens.active is not None:
            embedded = embedded * rearrange(tokens.active, "b n -> b n 1")
        if self.mix is not None:
            patches = patches + einsum(embedded, self.mix, "b n width, p n -> b p width")
        rows = [patches, embedded]
        if self.class_token is not None:
            rows.insert(0, self.class_token.expand(len(embedded), -1, -1))
        x = self.norm_input(torch.cat(rows, dim=1))
        first = 0 if self.class_token is None else 1
        last = first + self.sizes.patches
        visible = None
        if tokens.active is not None:
            visible = F.pad(tokens.active, (last, 0), value=True)
        x = self._run_blocks(x, visible, tokens.latents)
        return self.to_patches(self.norm(x[:, first:last]))

    def _run_blocks(
        self,
        x: Float[Tensor, "b t width"],
        visible: Bool[Tensor, "b t"] | None,
        latents: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b t width"]:
        rotations = [None] * len(self.blocks) if self.rotary is None else self.rotary()
        condition = {"latents": latents} if self.modulated else {}
        for block, rotation in zip(self.blocks, rotations, strict=True):
            x = block(x, visible, rotation, **condition)
        return x


class PixelDecoder(nn.Module):
    """Decode tokens to images, without a final activation; clamp the output to display it.

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    options : ViTOptions
        Variants of the network.
    modulated : bool
        Let the latents modulate each block (`TokenModulatedBlock`).
    """

    def __init__(
        self,
        sizes: ViTConfig,
        *,
        options: ViTOptions = DEFAULT_OPTIONS,
        modulated: bool = False,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        out = sizes.channels * sizes.patch**2
        self.decoder = Decoder(sizes, out, options=options, modulated=modulated)

    @property
    def last(self) -> Tensor:
        """Return the weight of the last layer, at which adaptive weights are measured."""
        return self.decoder.to_patches.weight

    def forward(self, tokens: Tokens) -> Images:
        """Decode the patches and arrange them as images."""
        size = self.sizes.patch
        rows, _ = self.sizes.patch_grid
        return rearrange(
            self.decoder(tokens), "b (h w) (i j c) -> b c (h i) (w j)", i=size, j=size, h=rows
        )


def _decoder_block(sizes: ViTConfig, options: ViTOptions, *, modulated: bool) -> nn.Module:
    size = sizes.decoder_size
    eps = options.norm_eps
    if modulated:
        return TokenModulatedBlock(size.width, size.heads, dim=sizes.dim, norm_eps=eps)
    return _plain_block(size, options)


def _plain_block(size: TransformerSize, options: ViTOptions) -> Block:
    return Block(size.width, size.heads, norm_eps=options.norm_eps, layer_scale=options.layer_scale)


def _embedding(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.1 * torch.randn(rows, width))


def _input_norm(width: int, options: ViTOptions) -> nn.Module:
    return nn.LayerNorm(width, eps=options.norm_eps) if options.norm_input else nn.Identity()


def _rotary(
    sizes: ViTConfig, size: TransformerSize, options: ViTOptions, *, after: int
) -> MixedRotary | None:
    if not options.rotary:
        return None
    return MixedRotary(
        depth=size.depth,
        heads=size.heads,
        width=size.width // size.heads,
        grid=sizes.patch_grid,
        before=int(options.class_token),
        after=after,
    )


def _mix(rows: int, columns: int) -> nn.Parameter:
    """Return a mix in which each row averages its share of the columns, scaled to unit norm."""
    longest = max(rows, columns)
    share = torch.zeros(rows, columns)
    index = torch.arange(longest)
    share[index * rows // longest, index * columns // longest] = 1
    return nn.Parameter(share / share.norm(dim=1, keepdim=True) + 0.02 * torch.randn(rows, columns))
