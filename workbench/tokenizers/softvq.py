"""SoftVQ-VAE (arXiv:2412.10958): soft categorical mixes of codewords, so that few 1-D tokens
describe an image.

The mixes may be aligned to the features of a frozen teacher: a token represents the patches that it
would cover in row-major order.

Differences from the paper: entropy is computed per codebook (the released code pools them). All
linear layers start from the same distribution, with smaller outputs of branches, and tokens and
positions with a standard deviation of 0.1 (there 0.02). Teachers see images as they were trained on
them, DINOv2 with 224 pixels (the released code has 256 and a resampled patch).

The released models have further parts, which are off by default because small models do not gain
from them or because they need weights: a start from DINOv2 (`encoder_start`), class tokens,
`layer_scale`, `norm_eps=1e-6`, alignment, LPIPS, and the discriminator `dino`. The recipes of
published models switch them on.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Dataset, Images, Objective, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.vit import Encoder, ExtendedViTConfig, PixelDecoder
from workbench.quantizers.soft import SoftQuantizer
from workbench.tokenizers.base import SupportsPosterior
from workbench.tokenizers.perceptual_adversarial import (
    AdversarialTokenizer,
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

Alignment = Literal["repeat", "pool", "global"]


class SoftVQ(SupportsPosterior, AdversarialTokenizer):
    """Encoder, soft quantizer, decoder: differentiable, without straight-through gradient."""

    respects_active = True
    prepared_state = ("encoder.",)

    @dataclass(frozen=True, kw_only=True)
    class Config(PerceptualAdversarialConfig, ExtendedViTConfig):
        """Settings of a SoftVQ-VAE.

        Attributes
        ----------
        num_codebooks : int
            Number of codebooks over contiguous blocks of tokens; the paper's models have 4.
        codebook_size : int
            Codewords per codebook; the paper's models have 8192.
        logits : {"cosine", "distance"}
            Cosines of unit vectors, as released, or minus ``|x - w|``, as printed in the paper.
        temperature : float
            Temperature of the softmax over codewords; a lower one makes the mix harder.
        entropy_weight : float
            Weight of the entropy term.
        entropy_temperature : float
            Temperature in the entropy term only.
        align_weight : float
            Weight of the alignment to a teacher; the paper's models have 0.1.
        teacher : str
            Feature extractor of the alignment; the paper's is dinov2.
        align : {"repeat", "pool", "global"}
            Align each token with each of its patches (repeat), with their mean (pool), or the mean
            token with the mean patch (global).
        encoder_start : str
            Pretrained DINOv2 whose weights the encoder starts from, such as facebook/dinov2-base or
            a folder; empty: random weights.
        """

        num_codebooks: int = 1
        codebook_size: int = 256
        logits: Literal["cosine", "distance"] = "cosine"
        temperature: float = 0.07
        entropy_weight: float = 0.01
        entropy_temperature: float = 0.01
        align_weight: float = 0.0
        teacher: str = "hog"
        align: Alignment = "repeat"
        encoder_start: str = ""

        def __post_init__(self) -> None:
            ExtendedViTConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            for name in ("num_codebooks", "codebook_size"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
            if self.logits not in ("cosine", "distance"):
                raise unknown("kind of logits", self.logits, ("cosine", "distance"))
            if self.num_tokens % self.num_codebooks:
                raise UserError(
                    f"num_tokens must be a multiple of num_codebooks, got {self.num_tokens} tokens "
                    f"and {self.num_codebooks} codebooks."
                )
            for name in ("temperature", "entropy_temperature"):
                if getattr(self, name) <= 0:
                    raise UserError(f"{name} must be above 0, got {getattr(self, name)}.")
            self._check_alignment()

        def _check_alignment(self) -> None:
            if self.align not in get_args(Alignment):
                raise unknown("way to align", self.align, get_args(Alignment))
            if self.align_weight < 0:
                raise UserError(f"align_weight must be at least 0, got {self.align_weight}.")
            needs_blocks = self.align_weight and self.align != "global"
            if needs_blocks and self.patches % self.num_tokens:
                raise UserError(
                    f"num_tokens must divide the {self.patches} patches with align={self.align}, "
                    f"got {self.num_tokens}."
                )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, options=config.encoder_options)
        self.decoder = PixelDecoder(
            config, options=config.decoder_options, modulated=config.modulated
        )
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
        self.teacher = None
        if config.align_weight:
            self.teacher = get_feature_extractor(config.teacher, channels=config.channels)
            width = self.teacher.dim
            self.projection = nn.Sequential(
                nn.Linear(config.dim, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )

    def prepare(self, data: Dataset, seed: int) -> None:
        """Load the pretrained weights that the encoder starts from, if there are any."""
        from workbench.tokenizers.dinov2_start import load_dinov2

        if self.config.encoder_start:
            load_dinov2(self.encoder, self.config.encoder_start)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """Return the teacher of the alignment, if there is one."""
        return () if self.teacher is None else (self.teacher,)

    @property
    def codebook(self) -> Float[Tensor, "g k d"]:
        """Return the codewords as the quantizer compares them."""
        return self.quantizer.codewords

    def posterior(self, images: Images) -> Float[Tensor, "b n k"]:
        """Return the weight of each codeword of a token's codebook in its mix."""
        return self.quantizer.log_posterior(self.encoder(images)).exp()

    def encode(self, images: Images) -> Tokens:
        """Return the mix of each token, and its most probable code."""
        quantized = self.quantizer(self.encoder(images))
        return Tokens(quantized.latents, quantized.codes)

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(
        self, images: Images, features: Float[Tensor, "b p _"] | None = None
    ) -> Objective:
        """Return squared error, entropy term, and the optional terms.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        features : Tensor, shape (batch, patches, channels), optional
            Precomputed features of the teacher.

        Returns
        -------
        Objective
            The weighted terms.
        """
        quantized = self.quantizer(self.encoder(images))
        reconstruction = self.decode(Tokens(quantized.latents))
        pixel_loss = F.mse_loss(reconstruction, images)
        terms = {"pixel": pixel_loss, **quantized.losses}
        terms |= self.appearance(
            images,
            reconstruction,
            pixel_loss=pixel_loss,
            last_weight=self.decoder.last,
            progress=self.progress,
        )
        if self.teacher is not None:
            if features is None:
                features = self.teacher.features(images, self.feature_grid)
            cosine = alignment(self.projection(quantized.latents), features, self.config.align)
            terms["align"] = -self.config.align_weight * cosine
        return Objective(terms, reconstruction, quantized.codes)


def alignment(
    projected: Float[Tensor, "b n e"], features: Float[Tensor, "b p e"], mode: Alignment
) -> Float[Tensor, ""]:
    """Compute the mean cosine of projected tokens and the features of a teacher.

    Token i covers the patches i p/n to (i + 1) p/n - 1.

    Parameters
    ----------
    projected : Tensor, shape (batch, tokens, channels)
        Tokens, projected to the channels of the teacher.
    features : Tensor, shape (batch, patches, channels)
        Features of the patches.
    mode : {"repeat", "pool", "global"}
        Compare each token with each of its patches, with their mean, or the mean token with the
        mean patch.

    Returns
    -------
    Tensor, shape ()
        Mean cosine in [-1, 1].
    """
    patches_per_token = features.shape[1] // projected.shape[1]
    if mode == "repeat":
        projected = repeat(projected, "b n e -> b (n each) e", each=patches_per_token)
    elif mode == "pool":
        features = reduce(features, "b (n each) e -> b n e", "mean", each=patches_per_token)
    else:
        projected, features = projected.mean(dim=1), features.mean(dim=1)
    return F.cosine_similarity(projected, features, dim=-1).mean()
