"""FSQ (arXiv:2309.15505) with one-dimensional latents: few levels per channel of a token."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.scalar import ScalarQuantizer
from workbench.tokenizers.base import TrainableTokenizer

MAX_CODES = 2**20  # the whole grid is stored next to the codes, for the analyses


class FSQVAE(TrainableTokenizer):
    """Encoder, rounding, decoder. The codebook is a fixed grid, so no code can die."""

    discrete = True
    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Settings of an FSQ-VAE.

        Attributes
        ----------
        dim : int
            Channels of a token: the number of levels.
        levels : tuple of int
            Number of values of each channel; their product is the number of codes. The paper
            recommends at least 5.
        """

        dim: int = 4
        levels: tuple[int, ...] = (8, 5, 5, 5)

        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "levels", tuple(self.levels))  # JSON gives lists
            text = ",".join(map(str, self.levels))
            if len(self.levels) != self.dim:
                raise UserError(
                    f"levels must have one number per channel, got {text} for dim {self.dim}."
                )
            if min(self.levels) < 3:
                raise UserError(
                    "levels must be at least 3, because the bound cannot split a channel in 2; "
                    f"got {text}."
                )
            if math.prod(self.levels) > MAX_CODES:
                raise UserError(
                    f"levels must make at most {MAX_CODES} codes, got {text}, "
                    f"which make {math.prod(self.levels)}."
                )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.quantizer = ScalarQuantizer(levels=config.levels)

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """Return the grid in the order of the codes."""
        return self.quantizer.codewords

    def encode(self, images: Images) -> Tokens:
        """Return the grid point of each token, and its index."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the squared error; the grid needs no other term."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        terms = {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}
        return Objective(terms, reconstruction, quantized.codes)
