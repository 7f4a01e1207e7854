"""FSQ (arXiv:2309.15505) with one-dimensional latents: each channel of a token is one of a few levels."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.scalar import ScalarQuantizer
from workbench.tokenizers.base import Tokenizer

MOST = 2**20  # codes: the whole grid is written beside the codes, for analyses to read


class FSQVAE(Tokenizer):
    """Encoder, rounding, decoder: a codebook that is a fixed grid, so nothing in it can die."""

    discrete = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Sizes, and the grid."""

        dim: int = 4  # d, as many as levels
        levels: tuple[int, ...] = (
            8,
            5,
            5,
            5,
        )  # L_i of each channel, their product is K; the paper advises 5 or more

        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "levels", tuple(self.levels))  # JSON gives lists
            shown = ",".join(map(str, self.levels))
            if len(self.levels) != self.dim:
                raise UserError(
                    f"levels {shown} are for {len(self.levels)} channels, and dim is {self.dim}."
                )
            if min(self.levels) < 3:
                raise UserError(
                    f"levels are {shown}; each must be at least 3, for the bound cannot split a channel in 2."
                )
            if math.prod(self.levels) > MOST:
                raise UserError(
                    f"levels {shown} make {math.prod(self.levels)} codes; at most {MOST} can be listed."
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.quantizer = ScalarQuantizer(levels=config.levels)

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """The grid, in the order of the codes."""
        return self.quantizer.words

    def encode(self, images: Images) -> Tokens:
        """Each token's point of the grid and its index."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Squared error alone: the grid needs no help."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        return Objective(
            {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}, reconstruction
        )
