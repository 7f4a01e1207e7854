"""Discriminators of patches with hinge losses, and the LeCam regularizer for small datasets.

The hinge losses follow VQGAN (arXiv:2012.09841), LeCam follows arXiv:2104.03310. The discriminator
is trained in the same backward pass as the tokenizer, on the same reconstruction: the generator's
loss treats the discriminator's weights as constants, and the discriminator's loss treats the
reconstruction as a constant.

Differences from the papers: VQGAN's code takes two optimizer steps, and its second step sees a
reconstruction that is one step newer. LeCam's running means are updated after they are used, in the
released code of SoftVQ-VAE before. `PatchDiscriminator` is a small network for small images;
`PatchGAN` is that of the papers. Its BatchNorms have the statistics of the images of one process
and one part of the batch, and no running means, as only training needs it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from workbench.core.batch_shares import batch_total
from workbench.core.errors import UserError
from workbench.core.types import Images
from workbench.nn.diff_augment import diff_augment

LOGIT_DECAY = 0.999  # of LeCam's running means
STRONG_CUTOUT = 0.5  # side of the square of the consistency term, as a fraction of the image's
PATCHGAN_WIDTHS = (64, 128, 256, 512)
PATCHGAN_MIN_SIDE = 24  # pixels, for one logit


class Discriminator(nn.Module):
    """Predict logits of images; positive means real."""

    def update_state(self) -> None:
        """Update what depends on the weights alone, once per step of training."""


class PatchDiscriminator(Discriminator):
    """Predict one logit per image patch; positive means real.

    Normalization is by group, so that the logits of an image do not depend on the rest of the
    batch.

    Parameters
    ----------
    channels : int
        Channels of the images.
    width : int
        Channels after the first convolution.
    layers : int
        Number of convolutions before the output; the channels double with each.
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for layer in range(1, layers):
            in_width, out_width = width * 2 ** (layer - 1), width * 2**layer
            parts += [
                nn.Conv2d(in_width, out_width, 3, padding=1, bias=False),
                nn.GroupNorm(8, out_width),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*parts, nn.Conv2d(width * 2 ** (layers - 1), 1, 3, padding=1))

    def forward(self, images: Images) -> Float[Tensor, "b 1 rows columns"]:
        """Return the map of logits."""
        return self.body(images)


class PatchGAN(Discriminator):
    """The discriminator of VQGAN and VA-VAE: each logit sees 70 x 70 pixels (arXiv:1611.07004).

    Parameters
    ----------
    channels : int
        Channels of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = PATCHGAN_WIDTHS[0]
        parts: list[nn.Module] = [
            nn.Conv2d(channels, first, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        in_width = first
        for width in PATCHGAN_WIDTHS[1:]:
            stride = 1 if width == PATCHGAN_WIDTHS[-1] else 2
            parts += [
                nn.Conv2d(in_width, width, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width, track_running_stats=False),
                nn.LeakyReLU(0.2),
            ]
            in_width = width
        self.body = nn.Sequential(*parts, nn.Conv2d(in_width, 1, 4, padding=1))
        self.body.apply(_init_patchgan)

    def forward(self, images: Images) -> Float[Tensor, "b 1 rows columns"]:
        """Return the map of logits."""
        side = min(images.shape[2:])
        if side < PATCHGAN_MIN_SIDE:
            raise UserError(
                "The discriminator `patchgan` needs images of at least "
                f"{PATCHGAN_MIN_SIDE} pixels, got {side}."
            )
        return self.body(images)


def _init_patchgan(part: nn.Module) -> None:
    if isinstance(part, nn.Conv2d):
        nn.init.normal_(part.weight, 0.0, 0.02)
    if isinstance(part, nn.BatchNorm2d):
        nn.init.normal_(part.weight, 1.0, 0.02)


class AdversarialLoss(nn.Module):
    """A discriminator together with the generator's and the discriminator's loss.

    Parameters
    ----------
    discriminator : Discriminator
        The network that distinguishes images from reconstructions.
    lecam : float
        Weight of the LeCam regularizer; 0 disables it.
    weight : float
        Weight of the discriminator's hinge loss and of LeCam.
    augmentation : float
        Probability of each augmentation (`diff_augment`) of what the discriminator sees.
    consistency : float
        Weight of the squared difference between the logits of strongly augmented images and those
        that the hinge loss has; 0 disables it.
    """

    real: Float[Tensor, ""]  # running mean of the logits of real images
    fake: Float[Tensor, ""]  # running mean of the logits of reconstructions

    def __init__(
        self,
        discriminator: Discriminator,
        *,
        lecam: float = 0.001,
        weight: float = 1.0,
        augmentation: float = 0.0,
        consistency: float = 0.0,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.lecam = lecam
        self.weight = weight
        self.augmentation = augmentation
        self.consistency = consistency
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def generator_loss(self, reconstruction: Images) -> Float[Tensor, ""]:
        """Return -mean D(reconstruction), without gradients for the discriminator."""
        constant = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        seen = diff_augment(reconstruction, probability=self.augmentation)
        return -functional_call(self.discriminator, constant, (seen,)).mean()

    def discriminator_loss(self, images: Images, reconstruction: Images) -> Float[Tensor, ""]:
        """Return the hinge loss, LeCam and consistency, without gradients for the generator."""
        fake_images = reconstruction.detach()
        real_logits = self._logits(images)
        fake_logits = self._logits(fake_images)
        loss = (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2
        if self.lecam:
            distance = (
                F.relu(real_logits - self.fake).square().mean()
                + F.relu(self.real - fake_logits).square().mean()
            )
            loss = loss + self.lecam * distance
        loss = self.weight * loss
        if self.consistency:
            strong_logits = [self._strong_logits(images), self._strong_logits(fake_images)]
            difference = torch.cat([real_logits, fake_logits]) - torch.cat(strong_logits)
            loss = loss + self.consistency * difference.square().mean()
        if self.training and torch.is_grad_enabled():
            self._update_state(real_logits, fake_logits)
        return loss

    def _logits(self, images: Images) -> Tensor:
        return self.discriminator(diff_augment(images, probability=self.augmentation))

    def _strong_logits(self, images: Images) -> Tensor:
        return self.discriminator(diff_augment(images, probability=1.0, cutout=STRONG_CUTOUT))

    def _update_state(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Update the running means and the discriminator, once per step."""
        means = torch.stack([real_logits.mean(), fake_logits.mean(), self.real.new_ones(())])
        totals = batch_total(means)
        if totals is None:
            return
        real, fake, num_shares = totals
        self.real.lerp_(real / num_shares, 1 - LOGIT_DECAY)
        self.fake.lerp_(fake / num_shares, 1 - LOGIT_DECAY)
        self.discriminator.update_state()
