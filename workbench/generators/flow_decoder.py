"""A decoder that draws: a diffusion transformer over an image's patches that is shown a tokenizer's latents.

DiT's blocks (arXiv:2212.09748) on the linear path of `generators.path`, predicting the velocity of pixels in [-1, 1].
Latents are all that it is told, so what they leave open it fills in from the noise.
"""

from math import isqrt

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.generators.interpolants import interpolant, sample_times
from workbench.generators.samplers import euler, sampling_times
from workbench.generators.transformer import grid, sinusoidal_embedding
from workbench.nn.transformer import ModulatedBlock, init_weights, normalize


class FlowDecoder(nn.Module):
    """Latents to images along a learned flow; latents on a grid are added to the patches where they lie.

    A grid of another fineness than the patches' is resized (bilinear). On a `line` latents have no place in the image:
    they are rows of their own, beside the patches'. Raises UserError where the sizes do not fit.
    """

    def __init__(
        self,
        *,
        side: int,  # pixels, height and width
        channels: int,
        patch: int,  # pixels
        num_tokens: int,  # L; a square number, unless on a line
        dim: int,  # d
        width: int,
        depth: int,
        heads: int,
        line: bool = False,
    ) -> None:
        super().__init__()
        if side % patch or width % heads or width % 4:
            told = f"side {side} must be a multiple of patch {patch}, and width {width} of 4 and of {heads} heads"
            raise UserError(f"{told}, for a flow decoder.")
        if not line and isqrt(num_tokens) ** 2 != num_tokens:
            raise UserError(
                f"{num_tokens} latents make no square grid. Use {isqrt(num_tokens) ** 2}, or put them on a line."
            )
        self.side, self.channels, self.patch, self.rows = side, channels, patch, side // patch
        self.num_tokens, self.line, self.width = num_tokens, line, width
        self.embed, self.show = nn.Linear(channels * patch**2, width), nn.Linear(dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(ModulatedBlock(width, heads) for _ in range(depth))
        self.norm, self.modulation = normalize("layer", width), nn.Linear(width, 2 * width)
        self.to_velocity = nn.Linear(width, channels * patch**2)
        init_weights(self, depth)
        # adaLN-zero: every block, and the output, start at nothing.
        for zero in (
            *(block.modulation for block in self.blocks),
            self.modulation,
            self.to_velocity,
        ):
            nn.init.zeros_(zero.weight)
        places = grid(self.rows**2, self.rows)
        positions = torch.cat(
            [sinusoidal_embedding(axis, width // places.shape[1]) for axis in places.T], dim=1
        )
        self.register_buffer("positions", positions, persistent=False)
        self.token_positions = nn.Parameter(0.1 * torch.randn(num_tokens, width)) if line else None

    def loss(self, latents: Float[Tensor, "b n d"], images: Images) -> Float[Tensor, ""]:
        """Mean squared error of the velocity at logit-normal times; before training 1 + the mean of pixels^2."""
        data = self._cut(images)
        noise = torch.randn_like(data)
        at = interpolant("linear", sample_times("logit-normal", "linear", len(data), data))
        return F.mse_loss(self.velocity(at.mix(data, noise), at.t, latents), at.slope(data, noise))

    def forward(self, latents: Float[Tensor, "b n d"], *, steps: int = 20, seed: int = 0) -> Images:
        """Images, by Euler from noise that depends on the seed alone: every image of a batch starts from the same."""
        if steps < 1:
            raise UserError(f"a flow decoder takes at least 1 step; got {steps}.")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.channels, self.side, self.side, generator=generator).to(latents)
        start = repeat(self._cut(noise), "1 p e -> b p e", b=len(latents))
        drawn = euler(
            lambda x, t: self.velocity(x, x.new_full((len(x),), t), latents),
            start,
            sampling_times(steps),
        )
        return rearrange(
            drawn, "b (h w) (i j c) -> b c (h i) (w j)", i=self.patch, j=self.patch, h=self.rows
        )

    def velocity(
        self, x: Float[Tensor, "b p e"], t: Float[Tensor, " b"], latents: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b p e"]:
        """The velocity of noisy patches x at times t (0 data, 1 noise), for latents."""
        condition, patches = (
            self.time(sinusoidal_embedding(1000 * t, self.width)),
            self.embed(x) + self.positions,
        )
        shown = self.show(latents)
        x = (
            torch.cat([patches, shown + self.token_positions], dim=1)
            if self.line
            else patches + self._spread(shown)
        )
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = rearrange(
            self.modulation(F.silu(condition)), "b (two width) -> two b 1 width", two=2
        )
        return self.to_velocity(self.norm(x[:, : patches.shape[1]]) * (1 + scale) + shift)

    def _spread(self, shown: Float[Tensor, "b n width"]) -> Float[Tensor, "b p width"]:
        if self.num_tokens == self.rows**2:
            return shown
        maps = rearrange(shown, "b (h w) width -> b width h w", h=isqrt(self.num_tokens))
        maps = F.interpolate(maps, (self.rows, self.rows), mode="bilinear", antialias=True)
        return rearrange(maps, "b width h w -> b (h w) width")

    def _cut(self, images: Images) -> Float[Tensor, "b p e"]:
        return rearrange(images, "b c (h i) (w j) -> b (h w) (i j c)", i=self.patch, j=self.patch)
