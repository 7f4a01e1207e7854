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
from workbench.tokenizers.base import TrainableTokenizer


class VQVAE(TrainableTokenizer):
    """Encoder, nearest codeword, decoder, with a straight-through gradient."""

    discrete = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Settings of a VQ-VAE."""

        codebook_size: int = 256  # K, number of codewords
        commitment: float = 0.25  # beta, pulls the encoder's outputs to their codewords
        cosine: bool = True  # compare unit vectors
        # Train the codebook by gradient or as a running average of its tokens.
        learn: Literal["gradient", "ema"] = "ema"
        decay: float = 0.95  # of the running averages, per batch
        # Replace codes used less often than this fraction of uniform usage; 0: never.
        revive: float = 0.1

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.codebook_size < 1:
                raise UserError(f"codebook_size must be at least 1, got {self.codebook_size}.")
            if self.commitment < 0:
                raise UserError(f"commitment must be at least 0, got {self.commitment}.")
            if self.learn not in ("gradient", "ema"):
                raise unknown("way to learn a codebook", self.learn, ("gradient", "ema"))
            for name in ("decay", "revive"):
                if not 0 <= getattr(self, name) < 1:
                    raise UserError(
                        f"{name} must be at least 0 and below 1, got {getattr(self, name)}."
                    )

    config: Config

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
        """Return the codewords as the quantizer compares them."""
        return self.quantizer.codewords

    def encode(self, images: Images) -> Tokens:
        """Return the nearest codeword of each token, and its index."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return Eq. 3: squared error, commitment and, with learn="gradient", codebook loss."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        terms = {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}
        return Objective(terms, reconstruction)
