"""VA-VAE (arXiv:2501.01423): a convolutional KL autoencoder whose latents are aligned to the
features of a teacher.

More channels per token improve reconstruction and harm generation; alignment resolves the conflict.
The released tokenizer first aligns with a high weight, as reconstruction recovers quickly, then
reduces the weight, then adds the margins (`stages`).

Differences from the paper: errors are means over pixels where the paper's are sums, which the
adaptive weights absorb. The perceptual and adversarial terms are off by default; with LPIPS, the
discriminator `patchgan`, `lecam=0` and `perceptual_rise=0`, they are the paper's. The teacher sees
images as it was trained on them (the released code does not normalize them). The stages are one run
with one state of the optimizer (there, three runs). Latents are means of the posterior, or, with a
`sample_seed`, samples as there.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.batch_shares import item_noise
from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.conv import ConvConfig, ConvDecoder, ConvEncoder
from workbench.nn.weighting import adaptive_weight
from workbench.quantizers.gaussian import GaussianBottleneck, sample_posterior
from workbench.tokenizers.latent_regularizers import (
    LatentDisturbance,
    LatentRegularizerConfig,
    regularization_terms,
)
from workbench.tokenizers.perceptual_adversarial import (
    AdversarialTokenizer,
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

# Fractions of the training at which the stages change: 100 + 15 + 15 epochs.
STAGE_STARTS = (100 / 130, 115 / 130)
FIRST_STAGE_FACTOR = 5  # of the alignment weight in the first stage: 0.5 instead of 0.1
MAX_ADAPTIVE_WEIGHT = 1e8


class VAVAE(AdversarialTokenizer):
    """Encoder, diagonal Gaussian, decoder, and two losses that align latents to a teacher."""

    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(LatentRegularizerConfig, PerceptualAdversarialConfig, ConvConfig):
        """Settings of a VA-VAE.

        Attributes
        ----------
        kl_weight : float
            Weight of the divergence per nat, against an error summed over pixels, as in the paper.
        teacher : str
            Feature extractor of the alignment; the paper's is dinov2.
        align_weight : float
            Weight of the alignment; 0: a plain KL autoencoder.
        margin_cosine : float
            Tokens whose cosine with the features of the teacher is above 1 minus this margin have
            no cosine loss.
        margin_distance : float
            Pairs of tokens whose similarity is this close to that of the teacher have no distance
            loss.
        align : {"sample", "mean"}
            Align a sample of the posterior, as in the paper, or its mean.
        project : {"up", "down"}
            Project latents to the channels of the teacher (up), or the features of the teacher to
            those of the latents (down).
        adaptive : bool
            Whether the alignment is scaled by gradient norms at the last convolution of the
            encoder.
        stages : bool
            Whether training has three stages, as released, or one, as in the paper's ablations.
        noise : float
            Standard deviation of Gaussian noise on the latents in training, as a control.
        sample_seed : int, optional
            Seed of the noise with which images are encoded to a sample of the posterior, as for the
            published latents; none: to its mean.
        """

        kl_weight: float = 1e-6
        teacher: str = "hog"
        align_weight: float = 0.1
        margin_cosine: float = 0.5
        margin_distance: float = 0.25
        align: Literal["sample", "mean"] = "sample"
        project: Literal["up", "down"] = "up"
        adaptive: bool = True
        stages: bool = False
        noise: float = 0.0
        sample_seed: int | None = None

        def __post_init__(self) -> None:
            ConvConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            LatentRegularizerConfig.__post_init__(self)
            if self.equivariance_weight and not self.size.is_square:
                raise UserError(
                    "equivariance_weight turns images by a quarter, for which they must be square;"
                    f" got side {self.side}."
                )
            for name in (
                "kl_weight",
                "align_weight",
                "margin_cosine",
                "margin_distance",
                "noise",
                "sample_seed",
            ):
                value = getattr(self, name)
                if value is not None and value < 0:
                    raise UserError(f"{name} must be at least 0, got {value}.")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = ConvEncoder(config, parts=2), ConvDecoder(config)
        # Our error is a mean over pixels.
        self.bottleneck = GaussianBottleneck(
            beta=config.kl_weight / (config.channels * config.size.pixels)
        )
        self.appearance = PerceptualAdversarialLoss(config, config.channels)
        self.disturbance = LatentDisturbance(config, config.dim)
        self.teacher = None
        if config.align_weight:
            self.teacher = get_feature_extractor(config.teacher, channels=config.channels)
            if config.project == "up":
                self.projection = nn.Linear(config.dim, self.teacher.dim, bias=False)
            else:
                self.projection = nn.Linear(self.teacher.dim, config.dim)

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """Return the teacher of the alignment, if there is one."""
        return () if self.teacher is None else (self.teacher,)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens."""
        return self.config.grid

    def encode(self, images: Images) -> Tokens:
        """Return the mean of the posterior, or a sample, one token per grid position."""
        mean, log_variance = rearrange(self.encoder(images), "b n (two d) -> two b n d", two=2)
        latents = mean
        if self.config.sample_seed is not None:
            latents = sample_posterior(mean, log_variance, images, seed=self.config.sample_seed)
        return Tokens(latents, grid=self.config.grid_of(images))

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images; inactive tokens are zero."""
        latents = tokens.latents
        if tokens.active is not None:
            latents = latents * rearrange(tokens.active, "b n -> b n 1")
        return self.decoder(latents, tokens.grid)

    def objective(
        self, images: Images, features: Float[Tensor, "b n _"] | None = None
    ) -> Objective:
        """Return absolute error, divergence, the optional terms, and the alignment at its adaptive
        weight.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        features : Tensor, shape (batch, tokens, channels), optional
            Precomputed features of the teacher.

        Returns
        -------
        Objective
            The weighted terms.
        """
        moments = self.encoder(images)
        quantized = self.bottleneck(moments)
        latents = quantized.latents
        if self.training and self.config.noise:
            latents = latents + self.config.noise * item_noise(latents)
        latents = self.disturbance(latents)
        grid = self.config.grid_of(images)
        reconstruction = self.decoder(latents, grid)
        pixel_loss = F.l1_loss(reconstruction, images)
        terms = {"pixel": pixel_loss, **quantized.losses}
        terms |= self.appearance(
            images,
            reconstruction,
            pixel_loss=pixel_loss,
            last_weight=self.decoder.last,
            progress=self.progress,
        )
        terms |= regularization_terms(self.config, images, quantized.latents, grid, self.decoder)
        if self.teacher is not None:
            if features is None:
                features = self.teacher.features(images, grid)
            mean, _ = rearrange(moments, "b n (two d) -> two b n d", two=2)
            aligned = quantized.latents if self.config.align == "sample" else mean
            loss = self.alignment_loss(aligned, features)
            weight: float | Tensor = self.config.align_weight
            if self.stage == 0:
                weight = weight * FIRST_STAGE_FACTOR
            # Without gradients, there is nothing to compute the adaptive weight from.
            if self.config.adaptive and torch.is_grad_enabled():
                error = pixel_loss
                if "perceptual" in terms:
                    error = pixel_loss + terms["perceptual"]
                last_weight = self.encoder.last.weight
                weight = weight * adaptive_weight(error, loss, last_weight, MAX_ADAPTIVE_WEIGHT)
            terms["align"] = weight * loss
        return Objective(terms, reconstruction)

    @property
    def stage(self) -> int:
        """Return the stage of the alignment.

        Stage 0 has a high weight and no margins, 1 the normal weight, 2 also the margins.
        """
        return bisect_right(STAGE_STARTS, float(self.progress)) if self.config.stages else 2

    def alignment_loss(
        self, latents: Float[Tensor, "b n d"], features: Float[Tensor, "b n e"]
    ) -> Float[Tensor, ""]:
        """Compute L_mcos + L_mdms of latents and features after the projection.

        Parameters
        ----------
        latents : Tensor, shape (batch, tokens, dim)
            Latents of the images, in the scale of the tokenizer.
        features : Tensor, shape (batch, tokens, channels)
            Features of the teacher.

        Returns
        -------
        Tensor, shape ()
            The loss.
        """
        if self.config.project == "up":
            latents = self.projection(latents)
        else:
            features = self.projection(features)
        has_margins = self.stage == 2
        margin_cosine = self.config.margin_cosine if has_margins else 0.0
        margin_distance = self.config.margin_distance if has_margins else 0.0
        cosine_loss = marginal_cosine(latents, features, margin_cosine)
        return cosine_loss + marginal_distance(latents, features, margin_distance)


def marginal_cosine(
    z: Float[Tensor, "b n e"], f: Float[Tensor, "b n e"], margin: float
) -> Float[Tensor, ""]:
    """Compute L_mcos (Eq. 3): 1 - cosine of each token and its feature, beyond a margin.

    Parameters
    ----------
    z, f : Tensor, shape (batch, tokens, channels)
        Projected latents and features.
    margin : float
        m1.

    Returns
    -------
    Tensor, shape ()
        Mean over tokens and images.
    """
    return F.relu(1 - margin - F.cosine_similarity(z, f, dim=-1)).mean()


def marginal_distance(
    z: Float[Tensor, "b n e"], f: Float[Tensor, "b n k"], margin: float
) -> Float[Tensor, ""]:
    """Compute L_mdms (Eq. 4): the difference of token-to-token cosines of latents and features,
    beyond a margin.

    Parameters
    ----------
    z, f : Tensor, shape (batch, tokens, channels)
        Latents and features; their channels may differ.
    margin : float
        m2.

    Returns
    -------
    Tensor, shape ()
        Mean over pairs of tokens and images.
    """
    return F.relu((_similarities(z) - _similarities(f)).abs() - margin).mean()


def _similarities(x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n m"]:
    unit = F.normalize(x, dim=-1)
    return unit @ unit.mT
