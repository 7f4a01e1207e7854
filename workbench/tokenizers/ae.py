"""AE: a plain autoencoder with one-dimensional latents, the upper bound for quantizers.

With a `radius`, its latents are on a sphere. This is the control for SoftVQ with a large, evenly
used codebook, whose latents are approximately the directions of the encoder's outputs times a
constant.
"""

from dataclasses import dataclass

import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, ExtendedViTConfig, PixelDecoder
from workbench.tokenizers.base import TrainableTokenizer


class AE(TrainableTokenizer):
    """Encoder and decoder trained by squared error; latents may have a fixed norm."""

    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ExtendedViTConfig):
        """Settings of an AE.

        Attributes
        ----------
        radius : float, optional
            Norm of every latent; none: unconstrained latents.
        """

        radius: float | None = None

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.radius is not None and self.radius <= 0:
                raise UserError(
                    f"radius must be above 0, or none for unconstrained latents, got {self.radius}."
                )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, options=config.encoder_options)
        self.decoder = PixelDecoder(
            config, options=config.decoder_options, modulated=config.modulated
        )

    def encode(self, images: Images) -> Tokens:
        """Return the encoder's output, scaled to the radius if there is one."""
        latents = self.encoder(images)
        if self.config.radius is not None:
            latents = self.config.radius * F.normalize(latents, dim=-1)
        return Tokens(latents)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the mean squared error of pixels in [-1, 1]."""
        reconstruction = self.decode(self.encode(images))
        return Objective({"pixel": F.mse_loss(reconstruction, images)}, reconstruction)
