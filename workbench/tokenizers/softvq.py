"""SoftVQ-VAE (arXiv:2412.10958): a soft categorical mix of codewords, so that few 1-D tokens carry an image.

Here: squared error and the entropy term; without the perceptual, adversarial and teacher-alignment terms.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.errors import UserError, unknown
from workbench.nn.vit import Encoder, PixelDecoder, Sizes
from workbench.quantizers.soft import SoftQuantizer
from workbench.tokenizers.tokenizer import Tokenizer
from workbench.types import Images, Objective, Tokens


class SoftVQ(Tokenizer):
    """Encoder, soft quantizer, decoder: fully differentiable, no straight-through and no commitment."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Sizes):
        """Sizes, and the soft codebooks."""

        books: int = 1  # G, codebooks over contiguous blocks of tokens; the paper's models have 4
        codes: int = 256  # K, codewords a book; the paper's models have 8192
        logits: Literal["cosine", "distance"] = "cosine"  # of unit vectors, as released; minus |x - w|, as printed
        temperature: float = 0.07  # tau, lower is harder
        entropy_weight: float = 0.01  # lambda
        entropy_temperature: float = 0.01  # temperature of the entropy term alone

        def __post_init__(self) -> None:
            super().__post_init__()
            if min(self.books, self.codes) < 1:
                raise UserError(f"books and codes must be at least 1; got {self.books} and {self.codes}.")
            if self.logits not in ("cosine", "distance"):
                raise unknown("kind of logits", self.logits, ("cosine", "distance"))
            if self.tokens % self.books:
                raise UserError(f"{self.tokens} tokens do not divide into {self.books} books of equal blocks.")
            if min(self.temperature, self.entropy_temperature) <= 0:
                raise UserError(f"temperatures must be above 0; got {self.temperature}, {self.entropy_temperature}.")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.quantizer = SoftQuantizer(
            books=config.books,
            codes=config.codes,
            dim=config.dim,
            logits=config.logits,
            temperature=config.temperature,
            entropy_weight=config.entropy_weight,
            entropy_temperature=config.entropy_temperature,
        )

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """The codewords in use, as the quantizer compares them."""
        return self.quantizer.words

    def encode(self, images: Images) -> Tokens:
        """The mixes, and each one's most probable code."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Squared error plus the entropy term."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        return Objective({"pixel": F.mse_loss(reconstruction, images), **quantized.losses}, reconstruction)
