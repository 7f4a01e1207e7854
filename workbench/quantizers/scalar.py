"""FSQ (arXiv:2309.15505): each channel is rounded to one of a few levels; their product is the
codebook.

Differences from the paper: the offset of even levels uses atanh where the paper's listing has tan,
so that 0 stays at exactly 0.
"""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.types import Quantized


class ScalarQuantizer(nn.Module):
    """Round each channel to a fixed grid. There are no parameters and no losses.

    Codes are numbers in mixed radix whose first digit varies fastest.

    Parameters
    ----------
    levels : tuple of int
        Number of levels per channel.
    """

    levels: Int[Tensor, " d"]
    place_values: Int[Tensor, " d"]  # 1, L_1, L_1 L_2, ...
    zero: Int[Tensor, " d"]  # the digit of the value 0; also the scale of the latents

    def __init__(self, *, levels: tuple[int, ...]) -> None:
        super().__init__()
        counts = torch.tensor(levels)
        self.codebook_size = math.prod(levels)  # K
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer("place_values", counts.cumprod(dim=0) // counts, persistent=False)
        self.register_buffer("zero", counts // 2, persistent=False)

    @property
    def codewords(self) -> Float[Tensor, "1 k d"]:
        """Return the whole grid in the order of the codes, within [-1, 1]."""
        codes = torch.arange(self.codebook_size, device=self.levels.device)
        return rearrange(self.look_up(codes), "k d -> 1 k d")

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Bound and round each channel; the gradient of the rounding is that of the identity."""
        bounded = self.bound(x.float())
        rounded = bounded.detach().round()
        codes = reduce((rounded.long() + self.zero) * self.place_values, "b n d -> b n", "sum")
        latents = (rounded + (bounded - bounded.detach())) / self.zero
        return Quantized(latents=latents, codes=codes, losses={})

    def bound(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Map each channel into the interval whose integers are the levels.

        The integers are -2..2 for 5 levels and -4..3 for 8.
        """
        # Slightly more than half the width, so that the outer levels are reached.
        half = (self.levels - 1) / 2 * 1.001
        offset: Tensor = (self.levels + 1) % 2 / 2
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset

    def look_up(self, codes: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        """Return the latents of codes."""
        digits = rearrange(codes, "... -> ... 1") // self.place_values % self.levels
        return (digits - self.zero) / self.zero
