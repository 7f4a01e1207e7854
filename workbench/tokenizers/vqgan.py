"""VQGAN (arXiv:2012.09841): a convolutional autoencoder whose tokens are codewords of one codebook.

The network is that of latent diffusion's VQ autoencoders. With `cosine` and few channels per token,
the system is the tokenizer of LlamaGen (arXiv:2406.06525).

Differences from the paper: the codebook starts on the unit sphere instead of in a small cube around
0, and is trained as a running average, with unused codes revived, unless `learn` and `revive`
change this. The perceptual and adversarial terms are off by default; with LPIPS and the
discriminator `patchgan`, they are the paper's.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.core.errors import unknown
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.conv import ConvConfig, ConvDecoder, ConvEncoder
from workbench.quantizers.vector import CodebookConfig
from workbench.tokenizers.perceptual_adversarial import (
    AdversarialTokenizer,
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

PIXEL_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


class VQGAN(AdversarialTokenizer):
    """Convolutional encoder, nearest codeword, convolutional decoder."""

    discrete = True
    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(PerceptualAdversarialConfig, CodebookConfig, ConvConfig):
        """Settings of a VQGAN.

        Attributes
        ----------
        pixel : {"l1", "l2"}
            Reconstruction error: absolute (l1), as in the paper, or squared (l2), as in LlamaGen.
        """

        pixel: Literal["l1", "l2"] = "l1"

        def __post_init__(self) -> None:
            ConvConfig.__post_init__(self)
            CodebookConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            if self.pixel not in PIXEL_LOSSES:
                raise unknown("pixel loss", self.pixel, PIXEL_LOSSES)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = ConvEncoder(config), ConvDecoder(config)
        self.quantizer = config.make_quantizer(config.dim)
        self.appearance = PerceptualAdversarialLoss(config, config.channels)

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """Return the codewords as the quantizer compares them."""
        return self.quantizer.codewords

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens."""
        return self.config.grid

    def encode(self, images: Images) -> Tokens:
        """Return the nearest codeword of each grid position, and its index."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes, grid=self.config.grid_of(images))

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images; inactive tokens are zero."""
        latents = tokens.latents
        if tokens.active is not None:
            latents = latents * rearrange(tokens.active, "b n -> b n 1")
        return self.decoder(latents, tokens.grid)

    def objective(self, images: Images) -> Objective:
        """Return reconstruction error, losses of the quantizer, and the optional terms."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decoder(quantized.latents, self.config.grid_of(images))
        pixel_loss = PIXEL_LOSSES[self.config.pixel](reconstruction, images)
        terms = {"pixel": pixel_loss, **quantized.losses}
        terms |= self.appearance(
            images,
            reconstruction,
            pixel_loss=pixel_loss,
            last_weight=self.decoder.last,
            progress=self.progress,
        )
        return Objective(terms, reconstruction, quantized.codes)
