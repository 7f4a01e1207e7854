"""VQ-VAE (arXiv:1711.00937) with one-dimensional latents: each token is one codeword."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import UserError, unknown
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.vector import VectorQuantizer
from workbench.tokenizers.base import Tokenizer


class VQVAE(Tokenizer):
    """Encoder, nearest codeword, decoder; the gradient goes straight through the choice."""

    discrete = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Sizes, and the codebook."""

        codebook_size: int = 256  # K, codewords
        commitment: float = 0.25  # beta, pulls the encoder to its codes
        cosine: bool = True  # distances between unit vectors
        learn: Literal["gradient", "ema"] = (
            "ema"  # the codebook: by gradient, or as a running average of its tokens
        )
        decay: float = 0.95  # of the running averages, a batch
        revive: float = (
            0.1  # replace codes chosen less often than this share of an even use; 0: never
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.codebook_size < 1:
                raise UserError(f"codebook_size is {self.codebook_size}; it must be at least 1.")
            if self.commitment < 0:
                raise UserError(f"commitment is {self.commitment}; it must not be below 0.")
            if self.learn not in ("gradient", "ema"):
                raise unknown("way to learn a codebook", self.learn, ("gradient", "ema"))
            for name in ("decay", "revive"):
                if not 0 <= getattr(self, name) < 1:
                    raise UserError(
                        f"{name} is {getattr(self, name)}; it must be at least 0 and below 1."
                    )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.quantizer = VectorQuantizer(
            codebook_size=config.codebook_size,
            dim=config.dim,
            commitment=config.commitment,
            cosine=config.cosine,
            learn=config.learn,
            decay=config.decay,
            revive=config.revive,
        )

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """The codewords in use, as the quantizer compares them."""
        return self.quantizer.words

    def encode(self, images: Images) -> Tokens:
        """Each token's nearest codeword and its index."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Eq. 3: squared error, commitment loss, and the codebook loss where the codebook learns by gradient."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        return Objective(
            {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}, reconstruction
        )
