"""MAETok (arXiv:2502.03444): an autoencoder of 1-D tokens whose encoder sees a part of the image while it learns.

Masked patches become one learned vector before they get positions; all tokens are kept; small decoders predict
teachers' features of the masked patches. Stage two freezes the encoder and unmasks by degrees to mend the decoder:
a run of its own that starts from the first one's weights, `train("maetok-digits", out, start=first, tuning=True)`;
with mask_low=0, mask_high=0 its decoder learns from whole images throughout.

Here: squared error for pixels, the perceptual and adversarial terms off unless asked for; learned positions instead of
rotary ones; plain decoders without adaLN. As in the released code, networks' features are compared by cosine (Eq. 8: by
squared error).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Images, Objective, Tokens
from workbench.features import FeatureExtractor, get_feature_extractor
from workbench.nn.vit import Decoder, Encoder, PixelDecoder, ViTConfig
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.perceptual_adversarial import (
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

DEVIATION = 0.25  # of the masking ratio, before it is truncated
Masking = Literal["truncnorm", "uniform", "fixed", "sample"]
Score = Literal["masked", "all"]


class MAETok(Tokenizer):
    """Encoder, decoder, and in stage one a shallow decoder for each teacher."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PerceptualAdversarialConfig, ViTConfig):
        """Sizes, the mask, what is predicted from the tokens, and the stage."""

        mask: Masking = "truncnorm"  # how a ratio is drawn: one a batch, "fixed" at mask_high; "sample": one an image
        mask_low: float = 0.4  # least share of patches that are masked
        mask_high: float = 0.6  # largest share, and the most probable
        targets: tuple[str, ...] = ("hog",)  # names of teachers; () for pixels alone
        score: Score = "masked"  # patches whose features count; with mask_high 0, "all" is the unmasked control
        aux_weight: float = 1.0  # of each teacher's term
        aux_width: int = 48  # of each teacher's decoder
        aux_depth: int = 3  # blocks of each teacher's decoder
        learned_tokens: bool = True  # False: the patches' own rows are the latents (Table 6), so num_tokens is their number
        tuning: bool = (
            False  # stage two: the decoder alone, while the ratio falls from mask_high to 0
        )

        def __post_init__(self) -> None:
            ViTConfig.__post_init__(self)
            PerceptualAdversarialConfig.__post_init__(self)
            named = (
                (self.targets,) if isinstance(self.targets, str) else self.targets
            )  # JSON keeps a list
            object.__setattr__(self, "targets", tuple(name for name in named if name))
            for name, kind in (("mask", Masking), ("score", Score)):
                if getattr(self, name) not in get_args(kind):
                    raise unknown(name, getattr(self, name), get_args(kind))
            if not 0 <= self.mask_low <= self.mask_high < 1:
                told = f"mask_low {self.mask_low} and mask_high {self.mask_high}"
                raise UserError(
                    f"{told} are no range of shares; 0 <= mask_low <= mask_high < 1 is."
                )
            self._check_targets()

        def _check_targets(self) -> None:
            if len(set(self.targets)) < len(self.targets):
                raise UserError(
                    f"targets {', '.join(self.targets)} name a teacher twice; name each once."
                )
            if self.aux_width < 1 or self.aux_width % self.heads:
                raise UserError(
                    f"aux_width {self.aux_width} does not divide into {self.heads} heads."
                )
            if self.aux_depth < 1:
                raise UserError(f"aux_depth is {self.aux_depth}; it must be at least 1.")
            if self.targets and self.score == "masked" and self.mask_high == 0 and not self.tuning:
                raise UserError(
                    'With mask_high 0 no patch is masked, so targets need score "all", not "masked".'
                )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(config, learned=config.learned_tokens)
        self.decoder = PixelDecoder(config)
        self.mask_patch = nn.Parameter(0.02 * torch.randn(config.width))
        self.appearance = PerceptualAdversarialLoss(config, config.channels)
        # A plain tuple: no part of the checkpoint. Stage two has no targets.
        targets = () if config.tuning else config.targets
        self._teachers = tuple(
            get_feature_extractor(name, channels=config.channels) for name in targets
        )
        if config.tuning:
            self.encoder.requires_grad_(False)
            self.mask_patch.requires_grad_(False)
        shared = {
            field.name: getattr(config, field.name) for field in dataclasses.fields(ViTConfig)
        }
        shallow = ViTConfig(**(shared | {"width": config.aux_width, "depth": config.aux_depth}))
        self.aux_decoders = nn.ModuleList(
            Decoder(shallow, out=teacher.dim) for teacher in self.teachers
        )

    @property
    def teachers(self) -> tuple[FeatureExtractor, ...]:
        """One for each target."""
        return self._teachers

    def encode(self, images: Images) -> Tokens:
        """Tokens of the whole image: masks are for training alone."""
        return Tokens(self.encoder(images))

    def decode(self, tokens: Tokens) -> Images:
        """Tokens to images."""
        return self.decoder(tokens)

    def objective(self, images: Images, *features: Float[Tensor, "b p _"]) -> Objective:
        """Squared error of every pixel, and each teacher's term on masked patches; in eval mode nothing is masked.

        Features that were computed before, one for each target, spare the teachers' work.
        """
        patches = self.encoder.look(images)
        mask = random_mask(self.ratios(len(images), images.device), patches.shape[1])
        tokens = Tokens(
            self.encoder.read(
                torch.where(rearrange(mask, "b p -> b p 1"), self.mask_patch, patches)
            )
        )
        reconstruction = self.decode(tokens)
        pixel = F.mse_loss(reconstruction, images)
        looks = {"pixel": pixel, "last": self.decoder.last, "progress": self.progress}
        terms = {"pixel": pixel, **self.appearance(images, reconstruction, **looks)}
        known = list(features) or self.features(images)
        if len(known) != len(self.teachers):
            came = f"features of {len(known)} teacher{'s' * (len(known) > 1)} came with the images"
            names = ", ".join(teacher.name for teacher in self.teachers)
            raise UserError(f"{came}, but targets name {len(self.teachers)}: {names or 'none'}.")
        scored = mask if self.config.score == "masked" else torch.ones_like(mask)
        for teacher, decoder, feature in zip(self.teachers, self.aux_decoders, known, strict=True):
            loss = feature_loss(decoder(tokens), feature, scored, directional=teacher.directional)
            terms[teacher.name] = self.config.aux_weight * loss
        return Objective(terms, reconstruction)

    def features(self, images: Images) -> list[Float[Tensor, "b p _"]]:
        """What each teacher says of the images' patches."""
        return [teacher.features(images, self.cells) for teacher in self.teachers]

    def ratios(self, count: int, device: torch.device | None = None) -> Float[Tensor, " b"]:
        """Shares of patches to mask, image by image: drawn in stage one, falling in stage two, 0 in eval mode."""
        low, high = self.config.mask_low, self.config.mask_high
        if not self.training:
            return torch.zeros(count, device=device)
        if self.config.tuning:
            return (high * (1 - self.progress)).expand(count)
        uniform = torch.rand(count if self.config.mask == "sample" else 1, device=device)
        if self.config.mask == "fixed":
            return torch.full_like(uniform, high).expand(count)
        if self.config.mask == "uniform":
            return (low + (high - low) * uniform).expand(count)
        return truncated_normal(uniform, low, high).expand(count)


def truncated_normal(uniform: Tensor, low: float, high: float) -> Tensor:
    """Draws from N(high, 0.25^2) restricted to [low, high], from draws in [0, 1), by inverting its distribution."""
    least = torch.special.ndtr(uniform.new_tensor((low - high) / DEVIATION))
    drawn = high + DEVIATION * torch.special.ndtri(least + (0.5 - least) * uniform)
    return drawn.clamp(low, high)


def random_mask(ratios: Float[Tensor, " b"], patches: int) -> Bool[Tensor, "b p"]:
    """For each image, its share of the patches rounded up, chosen at random."""
    count = (ratios * patches - 1e-4).ceil()  # float32 has 0.6 x 25 a little above 15
    order = torch.rand(len(ratios), patches, device=ratios.device).argsort(dim=1)
    return order < rearrange(count, "b -> b 1")


def feature_loss(
    predicted: Float[Tensor, "b p e"],
    features: Float[Tensor, "b p e"],
    mask: Bool[Tensor, "b p"],
    *,
    directional: bool,
) -> Float[Tensor, ""]:
    """Mean over the masked patches of 1 - cosine, or of the squared error; exactly 0 if there is none."""
    if directional:
        error = 1 - F.cosine_similarity(predicted, features, dim=-1)
    else:
        error = (predicted - features).square().mean(dim=-1)
    return (error * mask).sum() / mask.sum().clamp(min=1)
