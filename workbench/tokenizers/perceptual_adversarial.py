"""Optional perceptual and adversarial loss terms that several papers share.

Both are off in the small recipes: on images of 8 to 32 pixels, they cost more than they gain.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.features import get_feature_extractor
from workbench.nn.discriminator import AdversarialLoss
from workbench.nn.weighting import adaptive_weight

# Fraction of the training in which the perceptual term rises: SoftVQ-VAE's 10,000 of 250,000 steps.
RISE_FRACTION = 0.04
MAX_ADAPTIVE_WEIGHT = 1e4  # as in VQGAN's code


@dataclass(frozen=True, kw_only=True)
class PerceptualAdversarialConfig:
    """Settings of both terms; the `Config` of a tokenizer inherits them."""

    perceptual_weight: float = 0.0  # of the distance in the features of a frozen network; 0: off
    perceptual: str = "random"  # name of that feature extractor; the papers' is lpips
    adversarial_weight: float = 0.0  # of the loss of a patch discriminator; 0: off
    # Fraction of the training after which the adversarial terms start.
    adversarial_start: float = 0.1
    # Scale the adversarial term by gradient norms at the last layer of the decoder.
    adversarial_adaptive: bool = True
    lecam: float = 0.001  # of the discriminator's LeCam regularizer

    def __post_init__(self) -> None:
        for name in ("perceptual_weight", "adversarial_weight", "lecam"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.adversarial_start <= 1:
            raise UserError(
                "adversarial_start must be a fraction of the training between 0 and 1, "
                f"got {self.adversarial_start}."
            )


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
            self.adversary = AdversarialLoss(channels, lecam=config.lecam)

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
            rise = (progress / RISE_FRACTION).clamp(max=1)
            terms["perceptual"] = self.config.perceptual_weight * rise * distance
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
