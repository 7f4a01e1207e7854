"""VA-VAE (arXiv:2501.01423): a convolutional KL autoencoder whose latents are aligned to a frozen teacher's features.

More channels a token reconstruct better and generate worse; alignment breaks the dilemma. The released tokenizer aligns
hard at first, as reconstruction is quick to recover, then relaxes the weight, then adds the margins: `stages`.

Here: errors are means over pixels where the paper's are sums, which the adaptive weights absorb; the perceptual and
adversarial terms are off unless asked for.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.conv import ConvConfig, ConvDecoder, ConvEncoder
from workbench.nn.weighting import adaptive_weight
from workbench.quantizers.gaussian import GaussianBottleneck
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.perceptual_adversarial import (
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

STAGES = (100 / 130, 115 / 130)  # shares of the training at which they change: 100 + 15 + 15 epochs
HARD = 5  # times the weight in the first: 0.5 to 0.1
MOST = 1e8  # the largest adaptive weight


class VAVAE(Tokenizer):
    """Encoder, diagonal Gaussian, decoder; two marginal losses pull the latents towards the teacher."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PerceptualAdversarialConfig, ConvConfig):
        """Sizes, the divergence, and the alignment."""

        kl_weight: float = 1e-6  # of a nat, against an error summed over pixels, as in the paper
        teacher: str = "hog"  # see workbench.features.get_feature_extractor; the paper's is dinov2
        align_weight: float = 0.1  # w_hyper; 0: a plain KL autoencoder
        margin_cosine: float = (
            0.5  # m1: a token this near to its teacher's direction (1 - m1) is left alone
        )
        margin_distance: float = (
            0.25  # m2: a pair whose similarity is this near to the teacher's is left alone
        )
        align: Literal["sample", "mean"] = (
            "sample"  # what is aligned, of the posterior; the paper: its sample
        )
        project: Literal["up", "down"] = (
            "up"  # latents to the teacher's channels, or the teacher to the latents'
        )
        adaptive: bool = (
            True  # weigh the alignment by gradient norms at the encoder's last convolution
        )
        stages: bool = (
            False  # three of them, as released: see STAGES; False: one, as in the paper's ablations
        )
        noise: float = 0.0  # control: deviation of Gaussian noise on the latents in training

        def __post_init__(self) -> None:
            ConvConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            for name in ("kl_weight", "align_weight", "margin_cosine", "margin_distance", "noise"):
                if getattr(self, name) < 0:
                    raise UserError(f"{name} is {getattr(self, name)}; it must not be below 0.")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = ConvEncoder(config, out=2 * config.dim), ConvDecoder(config)
        pixels = config.channels * config.side**2
        self.bottleneck = GaussianBottleneck(
            beta=config.kl_weight / pixels
        )  # our error is a mean over pixels
        self.appearance = PerceptualAdversarialLoss(config, config.channels)
        self.teacher = (
            get_feature_extractor(config.teacher, channels=config.channels)
            if config.align_weight
            else None
        )
        if self.teacher is not None:
            ends = (
                (config.dim, self.teacher.dim)
                if config.project == "up"
                else (self.teacher.dim, config.dim)
            )
            self.projection = nn.Linear(*ends, bias=config.project == "down")

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """The one that it aligns to."""
        return () if self.teacher is None else (self.teacher,)

    @property
    def cells(self) -> tuple[int, int]:
        """The tokens' own."""
        return self.config.grid

    def encode(self, images: Images) -> Tokens:
        """The posterior's mean, a token a place."""
        mean, _ = rearrange(self.encoder(images), "b n (two d) -> two b n d", two=2)
        return Tokens(mean, grid=self.config.grid)

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images; one that is not active is a zero."""
        active = tokens.active
        return self.decoder(
            tokens.latents if active is None else tokens.latents * rearrange(active, "b n -> b n 1")
        )

    def objective(
        self, images: Images, features: Float[Tensor, "b n _"] | None = None
    ) -> Objective:
        """Absolute error, divergence, and the alignment at its adaptive weight.

        The teacher's features, where they were computed before, spare its work.
        """
        moments = self.encoder(images)
        quantized = self.bottleneck(moments)
        latents = quantized.latents
        if self.training and self.config.noise:
            latents = latents + self.config.noise * torch.randn_like(latents)
        reconstruction = self.decoder(latents)
        pixel = F.l1_loss(reconstruction, images)
        terms = {"pixel": pixel, **quantized.losses}
        looks = {"pixel": pixel, "last": self.decoder.last, "progress": self.progress}
        terms |= self.appearance(images, reconstruction, **looks)
        if self.teacher is not None:
            mean = rearrange(moments, "b n (two d) -> two b n d", two=2)[0]
            if features is None:
                features = self.teacher.features(images, self.config.grid)
            misfit = self.misfit(
                quantized.latents if self.config.align == "sample" else mean, features
            )
            weight = self.config.align_weight * (HARD if self.stage == 0 else 1)
            if (
                self.config.adaptive and torch.is_grad_enabled()
            ):  # without gradients there is nothing to weigh by
                error = pixel + terms.get("perceptual", 0)
                weight = weight * adaptive_weight(error, misfit, self.encoder.last.weight, MOST)
            terms["align"] = weight * misfit
        return Objective(terms, reconstruction)

    @property
    def stage(self) -> int:
        """0 aligns hard and without margins, 1 relaxes the weight, 2 adds the margins."""
        return bisect_right(STAGES, float(self.progress)) if self.config.stages else 2

    def misfit(
        self, latents: Float[Tensor, "b n d"], features: Float[Tensor, "b n e"]
    ) -> Float[Tensor, ""]:
        """L_mcos + L_mdms, both of the projected latents."""
        if self.config.project == "up":
            latents = self.projection(latents)
        else:
            features = self.projection(features)
        with_margins = self.stage == 2
        near = marginal_cosine(latents, features, with_margins * self.config.margin_cosine)
        return near + marginal_distance(
            latents, features, with_margins * self.config.margin_distance
        )


def marginal_cosine(
    z: Float[Tensor, "b n e"], f: Float[Tensor, "b n e"], margin: float
) -> Float[Tensor, ""]:
    """Eq. 3, L_mcos: how far each token's direction is from its teacher's, beyond the margin; mean over tokens."""
    return F.relu(1 - margin - F.cosine_similarity(z, f, dim=-1)).mean()


def marginal_distance(
    z: Float[Tensor, "b n e"], f: Float[Tensor, "b n k"], margin: float
) -> Float[Tensor, ""]:
    """Eq. 4, L_mdms: how much an image's token-to-token cosines differ from the teacher's, beyond the margin."""
    return F.relu((_similarities(z) - _similarities(f)).abs() - margin).mean()


def _similarities(x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n m"]:
    unit = F.normalize(x, dim=-1)
    return unit @ unit.mT
