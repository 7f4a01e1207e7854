"""Optional perceptual and adversarial loss terms that several papers share.

Both terms are off in the small recipes: on images of 8 to 32 pixels, they cost more than they gain.
Schedules are fractions of the training; the papers state steps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError, unknown
from workbench.core.types import Images
from workbench.features import get_feature_extractor
from workbench.features.hub import HubExtractor
from workbench.nn.dino_discriminator import DINODiscriminator
from workbench.nn.discriminator import (
    AdversarialLoss,
    Discriminator,
    PatchDiscriminator,
    PatchGAN,
)
from workbench.nn.weighting import adaptive_weight
from workbench.tokenizers.base import TrainableTokenizer

MAX_ADAPTIVE_WEIGHT = 1e4  # as in VQGAN's code
DISCRIMINATORS = {"small": PatchDiscriminator, "patchgan": PatchGAN}
DISCRIMINATOR_FAMILIES = ("dino", "dinov2")  # of frozen networks under a discriminator


@dataclass(frozen=True, kw_only=True)
class PerceptualAdversarialConfig:
    """Settings of both terms; the `Config` of a tokenizer inherits them.

    Attributes
    ----------
    perceptual_weight : float
        Weight of the distance in the features of a frozen network; 0: off.
    perceptual : str
        Feature extractor of that distance; the papers' is lpips.
    perceptual_rise : float
        Fraction of the training in which the perceptual term rises: 10,000 of 250,000 steps in
        SoftVQ-VAE.
    adversarial_weight : float
        Weight of the loss of a discriminator; 0: off.
    adversarial_start : float
        Fraction of the training after which the adversarial terms start.
    adversarial_adaptive : bool
        Whether the adversarial term is scaled by gradient norms at the last layer of the decoder.
    lecam : float
        Weight of the LeCam regularizer of the discriminator.
    discriminator : str
        small: for small images; patchgan: that of VQGAN and VA-VAE, which sees 70 x 70 pixels; a
        frozen network with trained heads, such as dino or dinov2:FOLDER: that of SoftVQ-VAE.
    discriminator_weight : float
        Weight of the loss of the discriminator itself.
    discriminator_augmentation : float
        Probability of each augmentation of the images that the discriminator sees (DiffAugment).
    consistency_weight : float
        Weight of the difference between the logits of weakly and of strongly augmented images; 0:
        off.
    """

    perceptual_weight: float = 0.0
    perceptual: str = "random"
    perceptual_rise: float = 0.04
    adversarial_weight: float = 0.0
    adversarial_start: float = 0.1
    adversarial_adaptive: bool = True
    lecam: float = 0.001
    discriminator: str = "small"
    discriminator_weight: float = 1.0
    discriminator_augmentation: float = 0.0
    consistency_weight: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            "perceptual_weight",
            "adversarial_weight",
            "lecam",
            "discriminator_weight",
            "consistency_weight",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for name in ("adversarial_start", "perceptual_rise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"{name} must be a fraction of the training between 0 and 1, "
                    f"got {getattr(self, name)}."
                )
        if not 0 <= self.discriminator_augmentation <= 1:
            raise UserError(
                "discriminator_augmentation must be a probability between 0 and 1, "
                f"got {self.discriminator_augmentation}."
            )
        family = self.discriminator.partition(":")[0]
        if self.discriminator not in DISCRIMINATORS and family not in DISCRIMINATOR_FAMILIES:
            raise unknown(
                "discriminator", self.discriminator, [*DISCRIMINATORS, *DISCRIMINATOR_FAMILIES]
            )


class AdversarialTokenizer(TrainableTokenizer):
    """A tokenizer with both terms."""

    appearance: "PerceptualAdversarialLoss"

    @property
    def adversary(self) -> nn.Module | None:
        """Return the part that is trained against the rest, if there is one."""
        return self.appearance.adversary


def make_discriminator(name: str, channels: int) -> Discriminator:
    """Build the discriminator of a name.

    Parameters
    ----------
    name : str
        `small`, `patchgan`, or a feature extractor of the families dino and dinov2.
    channels : int
        Channels of the images.

    Raises
    ------
    UserError
        If the frozen network is not on this machine and cannot be downloaded.
    """
    if name in DISCRIMINATORS:
        return DISCRIMINATORS[name](channels)
    family, _, model = name.partition(":")
    return DINODiscriminator(HubExtractor(family, model))


class PerceptualAdversarialLoss(nn.Module):
    """Compute both terms. The discriminator is trained with the tokenizer, by a term of its own.

    Parameters
    ----------
    config : PerceptualAdversarialConfig
        Settings of both terms.
    channels : int
        Channels of the images.
    """

    def __init__(self, config: PerceptualAdversarialConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.extractor = None
        if config.perceptual_weight:
            self.extractor = get_feature_extractor(config.perceptual, channels=channels)
        self.adversary = None
        if config.adversarial_weight:
            self.adversary = AdversarialLoss(
                make_discriminator(config.discriminator, channels),
                lecam=config.lecam,
                weight=config.discriminator_weight,
                augmentation=config.discriminator_augmentation,
                consistency=config.consistency_weight,
            )

    def forward(
        self,
        images: Images,
        reconstruction: Images,
        *,
        pixel_loss: Float[Tensor, ""],
        last_weight: Tensor,
        progress: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, ""]]:
        """Compute the terms that are switched on.

        Parameters
        ----------
        images, reconstruction : Tensor, shape (batch, channels, height, width)
            Images in [-1, 1] and their reconstructions.
        pixel_loss : Tensor, shape ()
            Reconstruction error, the reference of the adaptive weight.
        last_weight : Tensor
            Weight of the decoder's last layer, at which the adaptive weight is measured.
        progress : Tensor, shape ()
            Fraction of the training that is done.

        Returns
        -------
        dict of str to Tensor, shape ()
            Weighted terms: `perceptual`, `adversarial` and `discriminator`.
        """
        terms: dict[str, Float[Tensor, ""]] = {}
        error = pixel_loss
        if self.extractor is not None:
            distance = self.extractor.perceptual_distance(reconstruction, images)
            terms["perceptual"] = self.config.perceptual_weight * self._rise(progress) * distance
            error = pixel_loss + terms["perceptual"]
        if self.adversary is not None:
            has_started = (progress > self.config.adversarial_start).to(pixel_loss.dtype)
            generator_loss = self.adversary.generator_loss(reconstruction)
            weight: float | Tensor = self.config.adversarial_weight
            if self.config.adversarial_adaptive and torch.is_grad_enabled():
                weight = weight * adaptive_weight(
                    error, generator_loss, last_weight, MAX_ADAPTIVE_WEIGHT
                )
            terms["adversarial"] = weight * has_started * generator_loss
            discriminator_loss = self.adversary.discriminator_loss(images, reconstruction)
            terms["discriminator"] = has_started * discriminator_loss
        return terms

    def _rise(self, progress: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the fraction of the perceptual weight at a progress."""
        if not self.config.perceptual_rise:
            return torch.ones_like(progress)
        return (progress / self.config.perceptual_rise).clamp(max=1)
