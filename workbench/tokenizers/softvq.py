"""SoftVQ-VAE (arXiv:2412.10958): a soft categorical mix of codewords, so that few 1-D tokens carry an image.

The mixes may be aligned to a frozen teacher's features: a token stands for the patches it would cover, row by row.

Here: the encoder starts from random weights (the paper's from DINOv2's); entropy is computed for each codebook (the
released code pools them); alignment, perceptual and adversarial terms are off unless asked for.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.vit import Encoder, PixelDecoder, ViTConfig
from workbench.quantizers.soft import SoftQuantizer
from workbench.tokenizers.base import SupportsPosterior
from workbench.tokenizers.perceptual_adversarial import (
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

Align = Literal["repeat", "pool", "global"]


class SoftVQ(SupportsPosterior):
    """Encoder, soft quantizer, decoder: fully differentiable, no straight-through and no commitment."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PerceptualAdversarialConfig, ViTConfig):
        """Sizes, the soft codebooks, and the alignment."""

        num_codebooks: int = (
            1  # G, codebooks over contiguous blocks of tokens; the paper's models have 4
        )
        codebook_size: int = 256  # K, codewords a book; the paper's models have 8192
        logits: Literal["cosine", "distance"] = (
            "cosine"  # of unit vectors, as released; minus |x - w|, as printed
        )
        temperature: float = 0.07  # tau, lower is harder
        entropy_weight: float = 0.01  # lambda
        entropy_temperature: float = 0.01  # temperature of the entropy term alone
        align_weight: float = 0.0  # of the alignment; the paper's models have 0.1
        teacher: str = "hog"  # whose features; the paper's is dinov2
        align: Align = "repeat"  # each token for its patches; "pool": its patches' mean; "global": mean to mean

        def __post_init__(self) -> None:
            ViTConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            if min(self.num_codebooks, self.codebook_size) < 1:
                raise UserError(
                    f"num_codebooks and codebook_size must be at least 1; got {self.num_codebooks} and {self.codebook_size}."
                )
            if self.logits not in ("cosine", "distance"):
                raise unknown("kind of logits", self.logits, ("cosine", "distance"))
            if self.num_tokens % self.num_codebooks:
                raise UserError(
                    f"{self.num_tokens} tokens do not divide into {self.num_codebooks} codebooks of equal blocks."
                )
            if self.align not in get_args(Align):
                raise unknown("way to align", self.align, get_args(Align))
            if self.align_weight < 0:
                raise UserError(f"align_weight is {self.align_weight}; it must not be below 0.")
            if self.align_weight and self.align != "global" and self.patches % self.num_tokens:
                raise UserError(
                    f"{self.patches} patches do not divide among {self.num_tokens} tokens, as align={self.align} needs."
                )
            if min(self.temperature, self.entropy_temperature) <= 0:
                raise UserError(
                    f"temperatures must be above 0; got {self.temperature}, {self.entropy_temperature}."
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = Encoder(config), PixelDecoder(config)
        self.quantizer = SoftQuantizer(
            num_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            dim=config.dim,
            logits=config.logits,
            temperature=config.temperature,
            entropy_weight=config.entropy_weight,
            entropy_temperature=config.entropy_temperature,
        )
        self.appearance = PerceptualAdversarialLoss(config, config.channels)
        self.teacher = (
            get_feature_extractor(config.teacher, channels=config.channels)
            if config.align_weight
            else None
        )
        if self.teacher is not None:
            e = self.teacher.dim
            layers = (
                nn.Linear(config.dim, e),
                nn.SiLU(),
                nn.Linear(e, e),
                nn.SiLU(),
                nn.Linear(e, e),
            )
            self.projection = nn.Sequential(*layers)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """The one that it aligns to."""
        return () if self.teacher is None else (self.teacher,)

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """The codewords in use, as the quantizer compares them."""
        return self.quantizer.words

    def posterior(self, images: Images) -> Float[Tensor, "b n k"]:
        """The share of each codeword of a token's book in its mix."""
        return self.quantizer.log_posterior(self.encoder(images)).exp()

    def encode(self, images: Images) -> Tokens:
        """The mixes, and each one's most probable code."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(
        self, images: Images, features: Float[Tensor, "b p _"] | None = None
    ) -> Objective:
        """Squared error plus the entropy term, and what else was asked for.

        The teacher's features, where they were computed before, spare its work.
        """
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        pixel = F.mse_loss(reconstruction, images)
        looks = {"pixel": pixel, "last": self.decoder.last, "progress": self.progress}
        terms = {
            "pixel": pixel,
            **quantized.losses,
            **self.appearance(images, reconstruction, **looks),
        }
        if self.teacher is not None:
            features = self.teacher.features(images, self.cells) if features is None else features
            agreement = alignment(self.projection(quantized.latents), features, self.config.align)
            terms["align"] = -self.config.align_weight * agreement
        return Objective(terms, reconstruction)


def alignment(
    projected: Float[Tensor, "b n e"], features: Float[Tensor, "b p e"], how: Align
) -> Float[Tensor, ""]:
    """Mean cosine of projected tokens and a teacher's features; token i covers patches i p/n to (i + 1) p/n - 1."""
    each = features.shape[1] // projected.shape[1]
    if how == "repeat":
        projected = repeat(projected, "b n e -> b (n each) e", each=each)
    elif how == "pool":
        features = reduce(features, "b (n each) e -> b n e", "mean", each=each)
    else:
        projected, features = projected.mean(dim=1), features.mean(dim=1)
    return F.cosine_similarity(projected, features, dim=-1).mean()
