"""KL-VAE (arXiv:1312.6114, as in latent diffusion arXiv:2112.10752) with one-dimensional latents.

Differences from latent diffusion: there are no perceptual and adversarial terms.
"""

from dataclasses import dataclass, replace

import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, ExtendedViTConfig, PixelDecoder
from workbench.quantizers.gaussian import GaussianBottleneck
from workbench.tokenizers.base import TrainableTokenizer
from workbench.tokenizers.latent_regularizers import LatentDisturbance, LatentDisturbanceConfig


class KLVAE(TrainableTokenizer):
    """Encoder, one Gaussian per token, decoder. Latents are samples in training only."""

    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(LatentDisturbanceConfig, ExtendedViTConfig):
        """Settings of a KL-VAE.

        Attributes
        ----------
        beta : float
            Weight of the divergence in nats, summed over tokens and channels, against a mean over
            pixels. 0: no prior; about 1e-6: almost an autoencoder.
        """

        beta: float = 1e-6

        def __post_init__(self) -> None:
            ExtendedViTConfig.__post_init__(self)
            LatentDisturbanceConfig.__post_init__(self)
            if self.beta < 0:
                raise UserError(f"beta must be at least 0, got {self.beta}.")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        means_and_variances = replace(config, dim=2 * config.dim)
        self.encoder = Encoder(means_and_variances, options=config.encoder_options)
        self.quantizer = GaussianBottleneck(beta=config.beta)
        self.decoder = PixelDecoder(
            config, options=config.decoder_options, modulated=config.modulated
        )
        self.disturbance = LatentDisturbance(config, config.dim)

    def encode(self, images: Images) -> Tokens:
        """Return the means; in training mode, samples."""
        return Tokens(self.quantizer(self.encoder(images)).latents)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the squared error, and beta times the divergence from a standard normal."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(self.disturbance(quantized.latents)))
        terms = {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}
        return Objective(terms, reconstruction)
