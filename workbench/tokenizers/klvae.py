"""KL-VAE (arXiv:1312.6114, as in latent diffusion arXiv:2112.10752) with one-dimensional latents.

Here: without the perceptual and adversarial terms.
"""

from dataclasses import dataclass, replace

import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.gaussian import GaussianBottleneck
from workbench.tokenizers.base import Tokenizer


class KLVAE(Tokenizer):
    """Encoder, a Gaussian for each token, decoder; sampled in training, the means after."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Sizes, and how variational."""

        # Of the divergence in nats, summed over an image's tokens and channels, beside a mean over its pixels.
        beta: float = 1e-6  # 0: no prior; about 1e-6: an autoencoder in all but name

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.beta < 0:
                raise UserError(f"beta is {self.beta}; it must not be below 0.")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(replace(config, dim=2 * config.dim))  # means and log variances
        self.quantizer, self.decoder = GaussianBottleneck(beta=config.beta), PixelDecoder(config)

    def encode(self, images: Images) -> Tokens:
        """The means; while training, samples."""
        return Tokens(self.quantizer(self.encoder(images)).latents)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Squared error, and beta times the divergence from a standard normal."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        return Objective(
            {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}, reconstruction
        )
