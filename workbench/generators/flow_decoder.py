"""A diffusion transformer that decodes latents to images.

DiT's blocks (arXiv:2212.09748) on the linear path of `generators.interpolants`, predicting the
velocity of pixels in [-1, 1]. The latents are the only condition; what they leave open comes from
the noise.
"""

from math import isqrt

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.batch_shares import item_noise
from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.generators.embeddings import sinusoidal_embedding, token_coordinates
from workbench.generators.interpolants import interpolant, sample_times
from workbench.generators.samplers import euler, sampling_times
from workbench.nn.transformer import ModulatedBlock, init_weights, modulation_norm


class FlowDecoder(nn.Module):
    """Decode latents to images along a learned flow.

    Latents on a grid are added to the image patches at their positions; a grid of another
    resolution is resized (bilinear). With `line`, latents have no position in the image and are
    rows of the sequence next to the patches.

    Parameters
    ----------
    side : int
        Height and width of the images, in pixels.
    channels : int
        Channels of the images.
    patch : int
        Height and width of a patch, in pixels.
    num_tokens : int
        Tokens per image; a square number unless `line` is True.
    dim : int
        Channels of a token.
    width, depth, heads : int
        Sizes of the transformer.
    line : bool
        Whether the latents have no position in the image.

    Raises
    ------
    UserError
        If the sizes do not fit each other.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        side: int,
        channels: int,
        patch: int,
        num_tokens: int,
        dim: int,
        width: int,
        depth: int,
        heads: int,
        line: bool = False,
    ) -> None:
        super().__init__()
        if side % patch:
            raise UserError(f"side must be a multiple of patch {patch}, got {side}.")
        if width % heads or width % 4:
            raise UserError(f"width must be a multiple of 4 and of {heads} heads, got {width}.")
        if not line and isqrt(num_tokens) ** 2 != num_tokens:
            raise UserError(
                "num_tokens must be a square number for latents on a grid, got"
                f" {num_tokens}. Use {isqrt(num_tokens) ** 2}, or put the latents on a line."
            )
        self.side = side
        self.channels = channels
        self.patch = patch
        self.rows = side // patch
        self.num_tokens = num_tokens
        self.line = line
        self.width = width
        self.embed = nn.Linear(channels * patch**2, width)
        self.show = nn.Linear(dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        blocks = [ModulatedBlock(width, heads) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = modulation_norm("layer", width)
        self.modulation = nn.Linear(width, 2 * width)
        self.to_velocity = nn.Linear(width, channels * patch**2)
        init_weights(self, depth)
        # adaLN-zero: the gates of every block, and the output, start at zero.
        for layer in (*(block.modulation for block in blocks), self.modulation, self.to_velocity):
            nn.init.zeros_(layer.weight)
        coordinates = token_coordinates(self.rows**2, self.rows)
        num_axes = coordinates.shape[1]
        positions = torch.cat(
            [sinusoidal_embedding(axis, width // num_axes) for axis in coordinates.T], dim=1
        )
        self.register_buffer("positions", positions, persistent=False)
        self.token_positions = nn.Parameter(0.1 * torch.randn(num_tokens, width)) if line else None

    def loss(self, latents: Float[Tensor, "b n d"], images: Images) -> Float[Tensor, ""]:
        """Compute the mean squared error of the velocity at logit-normal times.

        An untrained decoder has a loss of 1 plus the mean of the squared pixels.
        """
        data = self._to_patches(images)
        noise = item_noise(data)
        point = interpolant("linear", sample_times("logit-normal", "linear", len(data), data))
        predicted = self.velocity(point.mix(data, noise), point.t, latents)
        return F.mse_loss(predicted, point.slope(data, noise))

    def forward(self, latents: Float[Tensor, "b n d"], *, steps: int = 20, seed: int = 0) -> Images:
        """Decode latents by Euler steps.

        Every image of a batch starts from the same noise, which depends on the seed alone.
        """
        if steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}.")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.channels, self.side, self.side, generator=generator).to(latents)
        start = repeat(self._to_patches(noise), "1 p e -> b p e", b=len(latents))
        patches = euler(
            lambda x, t: self.velocity(x, x.new_full((len(x),), t), latents),
            start,
            sampling_times(steps),
        )
        return rearrange(
            patches, "b (h w) (i j c) -> b c (h i) (w j)", i=self.patch, j=self.patch, h=self.rows
        )

    def velocity(
        self, x: Float[Tensor, "b p e"], t: Float[Tensor, " b"], latents: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b p e"]:
        """Predict the velocity of noisy patches x at times t (0 data, 1 noise)."""
        condition = self.time(sinusoidal_embedding(1000 * t, self.width))
        patches = self.embed(x) + self.positions
        tokens = self.show(latents)
        if self.token_positions is None:
            x = patches + self._resize_to_patches(tokens)
        else:
            x = torch.cat([patches, tokens + self.token_positions], dim=1)
        for block in self.blocks:
            x = block(x, condition)
        modulation = self.modulation(F.silu(condition))
        shift, scale = rearrange(modulation, "b (two width) -> two b 1 width", two=2)
        return self.to_velocity(self.norm(x[:, : patches.shape[1]]) * (1 + scale) + shift)

    def _resize_to_patches(self, tokens: Float[Tensor, "b n width"]) -> Float[Tensor, "b p width"]:
        if self.num_tokens == self.rows**2:
            return tokens
        maps = rearrange(tokens, "b (h w) width -> b width h w", h=isqrt(self.num_tokens))
        maps = F.interpolate(maps, (self.rows, self.rows), mode="bilinear", antialias=True)
        return rearrange(maps, "b width h w -> b (h w) width")

    def _to_patches(self, images: Images) -> Float[Tensor, "b p e"]:
        return rearrange(images, "b c (h i) (w j) -> b (h w) (i j c)", i=self.patch, j=self.patch)
