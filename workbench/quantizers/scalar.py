"""FSQ (arXiv:2309.15505): each channel is rounded to one of a few levels; their product is the codebook.

Here: atanh where the paper's listing has tan in the offset of even levels, so that 0 stays at 0 exactly.
"""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.types import Quantized


class ScalarQuantizer(nn.Module):
    """No parameters, no losses: codes are numbers in mixed radix, whose first digit counts fastest."""

    def __init__(self, *, levels: tuple[int, ...]) -> None:
        super().__init__()
        counts = torch.tensor(levels)
        self.codebook_size = math.prod(levels)  # K
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer(
            "place", counts.cumprod(dim=0) // counts, persistent=False
        )  # 1, L_1, L_1 L_2, ...
        self.register_buffer(
            "zero", counts // 2, persistent=False
        )  # the digit of 0; also the latents' scale

    @property
    def words(self) -> Float[Tensor, "1 k d"]:
        """The whole grid, in the order of the codes, within [-1, 1]."""
        return rearrange(
            self.look_up(torch.arange(self.codebook_size, device=self.levels.device)),
            "k d -> 1 k d",
        )

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Bound each channel, round it, and let the gradient pass the rounding as if it were the identity."""
        bounded = self.bound(x.float())
        rounded = bounded.detach().round()
        codes = reduce((rounded.long() + self.zero) * self.place, "b n d -> b n", "sum")
        latents = (rounded + (bounded - bounded.detach())) / self.zero
        return Quantized(latents=latents, codes=codes, losses={})

    def bound(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Into the interval whose integers are the levels: -2..2 for 5 of them, -4..3 for 8."""
        half = (
            (self.levels - 1) / 2 * 1.001
        )  # a little more than half the width, so that the outer levels are reached
        offset = (self.levels + 1) % 2 / 2
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset

    def look_up(self, codes: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        """The latents that codes stand for."""
        digits = rearrange(codes, "... -> ... 1") // self.place % self.levels
        return (digits - self.zero) / self.zero
