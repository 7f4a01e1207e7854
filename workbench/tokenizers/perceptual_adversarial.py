"""What a reconstruction looks like: the optional perceptual and adversarial terms that the papers' recipes share.

Both are off in the small recipes: on images of 8 to 32 pixels they cost more than they show.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.features import get_feature_extractor
from workbench.nn.discriminator import AdversarialLoss
from workbench.nn.perceptual import feature_distance
from workbench.nn.weighting import adaptive_weight

RISE = 0.04  # share of the training in which the perceptual term rises: SoftVQ-VAE's 10,000 of 250,000 steps
MOST = 1e4  # the largest adaptive weight, as in VQGAN's code


@dataclass(frozen=True, kw_only=True)
class PerceptualAdversarialConfig:
    """The settings of both terms; a tokenizer's `Config` takes them in."""

    perceptual_weight: float = 0.0  # of the distance in a frozen network's features; 0: without
    perceptual: str = "random"  # that network, a teacher's name
    adversarial_weight: float = 0.0  # of a patch discriminator's verdict; 0: without
    adversarial_start: float = 0.1  # share of the training before discriminator and verdict begin
    adversarial_adaptive: bool = (
        True  # weigh the verdict by gradient norms at the decoder's last layer
    )
    lecam: float = 0.001  # of the discriminator's LeCam regulariser

    def __post_init__(self) -> None:
        for name in ("perceptual_weight", "adversarial_weight", "lecam"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be below 0.")
        if not 0 <= self.adversarial_start <= 1:
            raise UserError(
                f"adversarial_start is {self.adversarial_start}; it is a share of training, 0 to 1."
            )


class PerceptualAdversarialLoss(nn.Module):
    """Both terms. Its discriminator learns with the tokenizer, from a term of its own."""

    def __init__(self, settings: PerceptualAdversarialConfig, channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.network = (
            get_feature_extractor(settings.perceptual, channels=channels)
            if settings.perceptual_weight
            else None
        )
        self.adversary = (
            AdversarialLoss(channels, lecam=settings.lecam) if settings.adversarial_weight else None
        )

    def forward(
        self,
        images: Images,
        reconstruction: Images,
        *,
        pixel: Float[Tensor, ""],
        last: Tensor,
        progress: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms that are switched on, weighted; `last` is the decoder's last weight, `pixel` the other error."""
        terms: dict[str, Float[Tensor, ""]] = {}
        if self.network is not None:
            with torch.no_grad():
                seen = self.network.layers(images)
            distance = feature_distance(self.network.layers(reconstruction), seen)
            rise = (progress / RISE).clamp(max=1)
            terms["perceptual"] = self.settings.perceptual_weight * rise * distance
        if self.adversary is not None:
            begun = (progress > self.settings.adversarial_start).to(pixel.dtype)
            verdict, weight = self.adversary.fool(reconstruction), 1.0
            if self.settings.adversarial_adaptive and torch.is_grad_enabled():
                error = pixel + terms.get("perceptual", 0)
                weight = adaptive_weight(error, verdict, last, MOST)
            terms["adversarial"] = self.settings.adversarial_weight * weight * begun * verdict
            terms["discriminator"] = begun * self.adversary.judge(images, reconstruction)
        return terms
