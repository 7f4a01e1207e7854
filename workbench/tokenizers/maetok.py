"""MAETok (arXiv:2502.03444): an autoencoder of 1-D tokens whose encoder sees a part of the image in
training.

Masked patches are replaced by one learned vector before positions are added; all tokens are kept.
Small decoders predict the features of teachers for the masked patches. Stage two freezes the
encoder and reduces the masking ratio gradually to fine-tune the decoder. It is a separate run that
starts from the weights of the first, `train("maetok-digits", out, start=first, tuning=True)`. With
mask_low=0 and mask_high=0, its decoder is trained on whole images only.

Differences from the paper: pixels have a squared error. As in the released code, features of
networks are compared by cosine (Eq. 8: by squared error). The decoders of teachers have no class
token. SigLIP sees images with its own mean and standard deviation (the released code has
ImageNet's). No paths of the decoder are dropped (there, 5 %). Linear layers, tokens and positions
are initialized as in this package's SoftVQ-VAE.

The released models have further parts, which are off by default because small models do not gain
from them or because they need weights: rotary positions and modulated decoders (`rotary`,
`modulated`), a class token of the encoder, `layer_scale`, `norm_eps=1e-6`, decoders of teachers
with three heads (`aux_heads`), LPIPS, and the discriminator `dino`. The recipes of published models
switch them on.
"""

import dataclasses
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.core.batch_shares import batch_draws, item_draws, masked_batch_mean
from workbench.core.errors import UserError, unknown
from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.vit import (
    Decoder,
    Encoder,
    ExtendedViTConfig,
    PixelDecoder,
    TransformerSize,
    ViTConfig,
)
from workbench.tokenizers.perceptual_adversarial import (
    AdversarialTokenizer,
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

RATIO_DEVIATION = 0.25  # of the masking ratio, before it is truncated
Masking = Literal["truncnorm", "uniform", "fixed", "sample"]
Score = Literal["masked", "all"]


class MAETok(AdversarialTokenizer):
    """Encoder, decoder and, in stage one, a shallow decoder per teacher."""

    respects_active = True

    @dataclass(frozen=True, kw_only=True)
    class Config(PerceptualAdversarialConfig, ExtendedViTConfig):
        """Settings of a MAETok.

        Attributes
        ----------
        mask : {"truncnorm", "uniform", "fixed", "sample"}
            Distribution of the masking ratio: one ratio per batch, with "sample" one per image;
            "fixed" is mask_high.
        mask_low : float
            Smallest fraction of masked patches.
        mask_high : float
            Largest fraction of masked patches, and the most probable one.
        targets : tuple of str
            Names of the teachers whose features are predicted; empty for pixels only.
        score : {"masked", "all"}
            Patches whose features count. "all" with mask_high 0 is the control without masks.
        aux_weight : float
            Weight of the term of each teacher.
        aux_width : int
            Channels of the decoder of each teacher.
        aux_depth : int
            Blocks of the decoder of each teacher.
        aux_heads : int, optional
            Attention heads of the decoder of each teacher, 3 in the paper; none: heads.
        learned_tokens : bool
            Whether latents are learned tokens. Otherwise they are the rows of the patches (Table 6
            of the paper), so that num_tokens is the number of patches.
        tuning : bool
            Stage two: only the decoder is trained, while the masking ratio falls from mask_high to
            0.
        """

        mask: Masking = "truncnorm"
        mask_low: float = 0.4
        mask_high: float = 0.6
        targets: tuple[str, ...] = ("hog",)
        score: Score = "masked"
        aux_weight: float = 1.0
        aux_width: int = 48
        aux_depth: int = 3
        aux_heads: int | None = None
        learned_tokens: bool = True
        tuning: bool = False

        def __post_init__(self) -> None:
            ExtendedViTConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            # JSON stores a list.
            targets = (self.targets,) if isinstance(self.targets, str) else self.targets
            object.__setattr__(self, "targets", tuple(name for name in targets if name))
            if self.mask not in get_args(Masking):
                raise unknown("mask", self.mask, get_args(Masking))
            if self.score not in get_args(Score):
                raise unknown("score", self.score, get_args(Score))
            if not 0 <= self.mask_low <= self.mask_high < 1:
                raise UserError(
                    "mask_low and mask_high must satisfy 0 <= mask_low <= mask_high < 1, "
                    f"got {self.mask_low} and {self.mask_high}."
                )
            self._check_targets()

        def _check_targets(self) -> None:
            if len(set(self.targets)) < len(self.targets):
                raise UserError(
                    f"targets must name each teacher once, got {', '.join(self.targets)}."
                )
            aux_heads = self.aux_size.heads
            if aux_heads < 1:
                raise UserError(f"aux_heads must be at least 1, got {aux_heads}.")
            if self.aux_width < 1 or self.aux_width % aux_heads:
                raise UserError(
                    f"aux_width must be a multiple of {aux_heads} heads, got {self.aux_width}."
                )
            if self.rotary and self.aux_width // aux_heads % 4:
                raise UserError(
                    "With rotary, aux_width must be a multiple of 4 times the number of heads, "
                    f"got {self.aux_width} and {aux_heads} heads."
                )
            if self.aux_depth < 1:
                raise UserError(f"aux_depth must be at least 1, got {self.aux_depth}.")
            if self.targets and self.score == "masked" and self.mask_high == 0 and not self.tuning:
                raise UserError(
                    'score must be "all" with mask_high 0, where no patch is masked, got "masked".'
                )

        @property
        def aux_size(self) -> TransformerSize:
            """Return the size of each teacher's decoder."""
            return TransformerSize(
                width=self.aux_width,
                depth=self.aux_depth,
                heads=self.heads if self.aux_heads is None else self.aux_heads,
            )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(
            config, learned=config.learned_tokens, options=config.encoder_options
        )
        self.decoder = PixelDecoder(
            config, options=config.decoder_options, modulated=config.modulated
        )
        self.mask_patch = nn.Parameter(0.02 * torch.randn(config.width))
        self.appearance = PerceptualAdversarialLoss(config, config.channels)
        # A plain tuple is not part of the checkpoint. Stage two has no targets.
        targets = () if config.tuning else config.targets
        self._teachers = tuple(
            get_feature_extractor(name, channels=config.channels) for name in targets
        )
        if config.tuning:
            self.encoder.requires_grad_(False)
            self.mask_patch.requires_grad_(False)
        sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(ViTConfig)}
        sizes |= {f"decoder_{name}": size for name, size in asdict(config.aux_size).items()}
        aux_sizes = ViTConfig(**sizes)
        self.aux_decoders = nn.ModuleList(
            Decoder(
                aux_sizes,
                out=teacher.dim,
                options=config.decoder_options,
                modulated=config.modulated,
            )
            for teacher in self.teachers
        )

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """Return one feature extractor per target."""
        return self._teachers

    def encode(self, images: Images) -> Tokens:
        """Encode whole images; masks are for training only."""
        return Tokens(self.encoder(images))

    def decode(self, tokens: Tokens) -> Images:
        """Decode tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images, *features: Float[Tensor, "b p _"]) -> Objective:
        """Return the squared error of all pixels, the optional terms, and the term of each teacher.

        In evaluation mode nothing is masked.

        Parameters
        ----------
        images : Tensor, shape (batch, channels, height, width)
            Images with values in [-1, 1].
        *features : Tensor, shape (batch, patches, channels)
            Precomputed features, one tensor per target.

        Returns
        -------
        Objective
            The weighted terms.
        """
        patches = self.encoder.embed_patches(images)
        mask = random_mask(self.ratios(len(images), images.device), patches.shape[1])
        masked = torch.where(rearrange(mask, "b p -> b p 1"), self.mask_patch, patches)
        tokens = Tokens(self.encoder.to_tokens(masked))
        reconstruction = self.decode(tokens)
        pixel_loss = F.mse_loss(reconstruction, images)
        terms = {"pixel": pixel_loss}
        terms |= self.appearance(
            images,
            reconstruction,
            pixel_loss=pixel_loss,
            last_weight=self.decoder.last,
            progress=self.progress,
        )
        targets = list(features) or self.features(images)
        if len(targets) != len(self.teachers):
            raise UserError(
                f"objective needs precomputed features of {len(self.teachers)} targets, "
                f"got {len(targets)}."
            )
        scored = mask if self.config.score == "masked" else torch.ones_like(mask)
        for teacher, decoder, target in zip(self.teachers, self.aux_decoders, targets, strict=True):
            loss = feature_loss(decoder(tokens), target, scored, directional=teacher.directional)
            terms[teacher.name] = self.config.aux_weight * loss
        return Objective(terms, reconstruction)

    def features(self, images: Images) -> list[Float[Tensor, "b p _"]]:
        """Compute the features of each teacher for the patches of images."""
        return [teacher.features(images, self.feature_grid) for teacher in self.teachers]

    def ratios(self, count: int, device: torch.device | None = None) -> Float[Tensor, " b"]:
        """Draw the fraction of patches to mask, per image.

        The ratio is random in stage one, decreasing in stage two, and 0 in evaluation mode.
        """
        low, high = self.config.mask_low, self.config.mask_high
        if not self.training:
            return torch.zeros(count, device=device)
        if self.config.tuning:
            return (high * (1 - self.progress)).expand(count)
        if self.config.mask == "sample":
            uniform = item_draws(torch.rand, (count,), device=device)
        else:
            uniform = batch_draws(torch.rand, (1,), device=device)
        if self.config.mask == "fixed":
            return torch.full_like(uniform, high).expand(count)
        if self.config.mask == "uniform":
            return (low + (high - low) * uniform).expand(count)
        return truncated_normal(uniform, low, high).expand(count)


def truncated_normal(uniform: Tensor, low: float, high: float) -> Tensor:
    """Turn uniform draws in [0, 1) into draws from N(high, 0.25^2) restricted to [low, high].

    The distribution function is inverted.
    """
    lowest = torch.special.ndtr(uniform.new_tensor((low - high) / RATIO_DEVIATION))
    normal = high + RATIO_DEVIATION * torch.special.ndtri(lowest + (0.5 - lowest) * uniform)
    return normal.clamp(low, high)


def random_mask(ratios: Float[Tensor, " b"], patches: int) -> Bool[Tensor, "b p"]:
    """Mask a fraction of the patches of each image, rounded up, at random.

    Parameters
    ----------
    ratios : Tensor, shape (batch,)
        Fractions in [0, 1].
    patches : int
        Patches per image.

    Returns
    -------
    Tensor of bool, shape (batch, patches)
        True for masked patches.
    """
    count = (ratios * patches - 1e-4).ceil()  # in float32, 0.6 x 25 is slightly above 15
    keys = item_draws(torch.rand, (len(ratios), patches), device=ratios.device)
    order = keys.argsort(dim=1)
    return order < rearrange(count, "b -> b 1")


def feature_loss(
    predicted: Float[Tensor, "b p e"],
    features: Float[Tensor, "b p e"],
    mask: Bool[Tensor, "b p"],
    *,
    directional: bool,
) -> Float[Tensor, ""]:
    """Compute the mean error of predicted features over the selected patches.

    Parameters
    ----------
    predicted, features : Tensor, shape (batch, patches, channels)
        Predicted and true features.
    mask : Tensor of bool, shape (batch, patches)
        The selected patches.
    directional : bool
        Use 1 - cosine instead of the squared error.

    Returns
    -------
    Tensor, shape ()
        The mean error; exactly 0 if no patch is selected.
    """
    if directional:
        error = 1 - F.cosine_similarity(predicted, features, dim=-1)
    else:
        error = (predicted - features).square().mean(dim=-1)
    return masked_batch_mean(error, mask)
