"""AE: a plain autoencoder with one-dimensional latents, the ceiling that quantizers are measured against.

With a `radius` its latents lie on a sphere: the control for SoftVQ, which with a large and even codebook does little
more than that (its latents are then the encoder's directions times a constant).
"""

from dataclasses import dataclass

import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.tokenizers.base import Tokenizer


class AE(Tokenizer):
    """Encoder, decoder, squared error; the latents are free, or of one norm."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Sizes, and the sphere."""

        radius: float | None = None  # c, the norm of every latent; None: latents are free

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.radius is not None and self.radius <= 0:
                raise UserError(
                    f"radius is {self.radius}; it must be above 0, or none for free latents."
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)

    def encode(self, images: Images) -> Tokens:
        """The encoder's output, as it is or on the sphere."""
        latents = self.encoder(images)
        if self.config.radius is not None:
            latents = self.config.radius * F.normalize(latents, dim=-1)
        return Tokens(latents)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Mean squared error of pixels in [-1, 1]."""
        reconstruction = self.decode(self.encode(images))
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)
