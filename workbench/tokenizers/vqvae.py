"""VQ-VAE (arXiv:1711.00937) with one-dimensional latents: each token is one codeword."""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.core.types import Images, Objective, Tokens
from workbench.nn.vit import Encoder, ExtendedViTConfig, PixelDecoder
from workbench.quantizers.vector import CodebookConfig
from workbench.tokenizers.base import TrainableTokenizer


class VQVAE(TrainableTokenizer):
    """Encoder, nearest codeword, decoder, with a straight-through gradient."""

    discrete = True
    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(CodebookConfig, ExtendedViTConfig):
        """Settings of a VQ-VAE."""

        def __post_init__(self) -> None:
            ExtendedViTConfig.__post_init__(self)
            CodebookConfig.__post_init__(self)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, options=config.encoder_options)
        self.decoder = PixelDecoder(
            config, options=config.decoder_options, modulated=config.modulated
        )
        self.quantizer = config.make_quantizer(config.dim)

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
        return Objective(terms, reconstruction, quantized.codes)
