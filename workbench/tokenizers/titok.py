"""TiTok (arXiv:2406.07550): an image is a short sequence of codes without a grid.

A ViT reads patches and learned tokens; the tokens are quantized. A second ViT reads one learned
patch, repeated, and the quantized tokens. Its patches become pixels by a linear map and a
convolution. `TiTokVAE` has Gaussians in place of codes.

With `legacy`, the first release: the decoder predicts the codes of another VQGAN, whose decoder
makes the pixels, and the rows of the tokens are mixed before they are projected.

Differences from the paper: the training has one stage, in which all parts are trained by the
squared error of pixels and the quantizer's losses. There are no proxy codes to predict, and no
perceptual and adversarial terms. With `linear_init`, the network starts as a linear autoencoder.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.nn.maskgit import GROUPS, MaskGITDecoder
from workbench.nn.vit import Decoder, Encoder, PixelDecoder, ViTConfig, ViTOptions
from workbench.quantizers.gaussian import GaussianBottleneck
from workbench.quantizers.vector import CodebookConfig
from workbench.tokenizers.base import TrainableTokenizer

OPTIONS = ViTOptions(class_token=True, norm_input=True)  # of both transformers


class TiTok(TrainableTokenizer):
    """Encoder, nearest codeword of each token, decoder."""

    discrete = True

    @dataclass(frozen=True, kw_only=True)
    class Config(CodebookConfig, ViTConfig):
        """Settings of a TiTok with codes.

        Attributes
        ----------
        legacy : bool
            Whether the model is one of the first release (L-32, B-64, S-128).
        pixel_codes : int
            Number of codewords of the other VQGAN of the first release.
        pixel_dim : int
            Channels of these codewords.
        pixel_widths : tuple of int
            Channels of each level of the decoder of that VQGAN, the coarsest first.
        """

        legacy: bool = False
        pixel_codes: int = 1024
        pixel_dim: int = 256
        pixel_widths: tuple[int, ...] = (512, 256, 256, 128, 128)

        def __post_init__(self) -> None:
            ViTConfig.__post_init__(self)
            CodebookConfig.__post_init__(self)
            object.__setattr__(self, "pixel_widths", tuple(self.pixel_widths))  # JSON has a list
            for name in ("pixel_codes", "pixel_dim"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
            widths = ",".join(str(width) for width in self.pixel_widths)
            if not widths or any(width < 1 or width % GROUPS for width in self.pixel_widths):
                raise UserError(f"pixel_widths must be multiples of {GROUPS}, got {widths}.")
            if self.legacy and self.patch != 2 ** (len(self.pixel_widths) - 1):
                raise UserError(
                    "With legacy, each level of pixel_widths but the first doubles the side, up to "
                    f"the patch of {self.patch} pixels; got {widths}."
                )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = TiTokEncoder(config, mixes_tokens=config.legacy)
        self.decoder = LegacyDecoder(config) if config.legacy else TiTokDecoder(config)
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
        """Return the squared error and the losses of the quantizer."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        terms = {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}
        return Objective(terms, reconstruction, quantized.codes)


class TiTokVAE(TrainableTokenizer):
    """Encoder, one Gaussian per token, decoder. Latents are samples in training only."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ViTConfig):
        """Settings of a TiTok with Gaussians.

        Attributes
        ----------
        beta : float
            Weight of the divergence in nats, summed over tokens and channels, against a mean over
            pixels.
        """

        beta: float = 1e-6

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.beta < 0:
                raise UserError(f"beta must be at least 0, got {self.beta}.")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = TiTokEncoder(replace(config, dim=2 * config.dim))  # means, log variances
        self.decoder = TiTokDecoder(config)
        self.quantizer = GaussianBottleneck(beta=config.beta)

    def encode(self, images: Images) -> Tokens:
        """Return the means; in training mode, samples."""
        return Tokens(self.quantizer(self.encoder(images)).latents)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images) -> Objective:
        """Return the squared error, and beta times the divergence from a standard normal."""
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        terms = {"pixel": F.mse_loss(reconstruction, images), **quantized.losses}
        return Objective(terms, reconstruction)


class TiTokEncoder(nn.Module):
    """Encode images, which the network reads with values in [0, 1].

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    mixes_tokens : bool
        Read the rows of the tokens as the published code of the first release does.
    """

    def __init__(self, sizes: ViTConfig, *, mixes_tokens: bool = False) -> None:
        super().__init__()
        self.mixes_tokens = mixes_tokens
        self.vit = Encoder(sizes, options=OPTIONS)

    def forward(self, images: Images) -> Float[Tensor, "b n d"]:
        """Return the tokens before they are quantized."""
        rows = self.vit.token_rows(self.vit.embed_patches((images + 1) / 2))
        if self.mixes_tokens:
            # The numbers of all tokens, one after another, are read as (width, tokens).
            numbers = rearrange(rows, "b n width -> b (n width)")
            rows = rearrange(numbers, "b (width n) -> b n width", n=rows.shape[1])
        return self.vit.to_latents(rows)


class TiTokDecoder(nn.Module):
    """Decode tokens by a linear map of each patch to pixels, and a convolution of the image.

    Parameters
    ----------
    sizes : ViTConfig
        Sizes of the network.
    """

    def __init__(self, sizes: ViTConfig) -> None:
        super().__init__()
        self.pixels = PixelDecoder(sizes, options=OPTIONS)
        self.smooth = nn.Conv2d(sizes.channels, sizes.channels, 3, padding=1)
        if sizes.linear_init:
            nn.init.dirac_(self.smooth.weight)

    def forward(self, tokens: Tokens) -> Images:
        """Return images in [-1, 1]; the network's are in [0, 1]."""
        return 2 * self.smooth(self.pixels(tokens)) - 1


class LegacyDecoder(nn.Module):
    """Decode tokens to the codes of another VQGAN, and the expected codewords to pixels.

    Parameters
    ----------
    config : TiTok.Config
        Sizes of the network and of the other VQGAN.
    """

    def __init__(self, config: TiTok.Config) -> None:
        super().__init__()
        self.rows, _ = config.patch_grid
        width = 2 * config.decoder_size.width
        self.vit = Decoder(config, out=width, options=OPTIONS)
        self.to_logits = nn.Linear(width, config.pixel_codes)
        self.pixel_codebook = nn.Parameter(torch.randn(config.pixel_codes, config.pixel_dim))
        self.pixels = MaskGITDecoder(
            dim=config.pixel_dim, widths=config.pixel_widths, channels=config.channels
        )

    def forward(self, tokens: Tokens) -> Images:
        """Return images in [-1, 1]; the network's are in [0, 1]."""
        probabilities = self.to_logits(self.vit(tokens).tanh()).softmax(dim=-1)
        expected = einsum(probabilities, self.pixel_codebook, "b p k, k d -> b p d")
        grid = rearrange(expected, "b (h w) d -> b d h w", h=self.rows)
        return 2 * self.pixels(grid) - 1
