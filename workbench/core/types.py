"""The nouns every module shares, and the letters of their axes.

Words. An *image* lies in [-1, 1]. *Latents* are the vectors a decoder reads, one per token. *Codes* are indices into a
*codebook*, the table of vectors a quantizer may choose from. *Active* marks the tokens a decoder may look at.

Axes. b batch, n tokens, d channels of a token, k codes, g codebooks, p patches, c image channels, h height, w width.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Images = Float[Tensor, "b c h w"]


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer makes of a batch of images, and all that a decoder may see."""

    latents: Float[Tensor, "b n d"]
    codes: Int[Tensor, "b n"] | None = None  # of a soft quantizer: the most probable code
    active: Bool[Tensor, "b n"] | None = None  # None: every token is
    grid: tuple[int, int] | None = None  # rows and columns, where tokens have a place in the image


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of the encoder's output."""

    latents: Float[Tensor, "b n d"]
    codes: Int[Tensor, "b n"] | None
    losses: dict[str, Float[Tensor, ""]]  # already weighted


@dataclass(frozen=True)
class Objective:
    """One training step's loss as named terms, already weighted: their sum is what the optimiser sees."""

    terms: dict[str, Float[Tensor, ""]]
    reconstruction: Images | None = field(default=None, repr=False)

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()
