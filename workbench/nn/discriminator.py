"""Patch discriminator with hinge losses, and the LeCam regularizer for small data sets.

The hinge losses follow VQGAN (arXiv:2012.09841), LeCam follows arXiv:2104.03310. The discriminator
is trained in the same backward pass as the tokenizer, on the same reconstruction: the generator's
loss treats the discriminator's weights as constants, and the discriminator's loss treats the
reconstruction as a constant.

Differences from the papers: VQGAN's code takes two optimizer steps, and its second step sees a
reconstruction that is one step newer. Every system uses this PatchGAN; SoftVQ-VAE and MAETok use
heads on a frozen DINO network with augmentations.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from workbench.core.batch_shares import batch_total
from workbench.core.types import Images

LOGIT_DECAY = 0.999  # of LeCam's running means


class PatchDiscriminator(nn.Module):
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


class AdversarialLoss(nn.Module):
    """A discriminator together with the generator's and the discriminator's loss.

    Parameters
    ----------
    channels : int
        Channels of the images.
    lecam : float
        Weight of the LeCam regularizer; 0 disables it.
    """

    real: Float[Tensor, ""]  # running mean of the logits of real images
    fake: Float[Tensor, ""]  # running mean of the logits of reconstructions

    def __init__(self, channels: int, *, lecam: float = 0.001) -> None:
        super().__init__()
        self.discriminator, self.lecam = PatchDiscriminator(channels), lecam
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def generator_loss(self, reconstruction: Images) -> Float[Tensor, ""]:
        """Return -mean D(reconstruction), without gradients for the discriminator."""
        constant = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return -functional_call(self.discriminator, constant, (reconstruction,)).mean()

    def discriminator_loss(self, images: Images, reconstruction: Images) -> Float[Tensor, ""]:
        """Return the hinge loss plus LeCam, without gradients for the generator."""
        real_logits = self.discriminator(images)
        fake_logits = self.discriminator(reconstruction.detach())
        loss = (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2
        if self.lecam:
            distance = (
                F.relu(real_logits - self.fake).square().mean()
                + F.relu(self.real - fake_logits).square().mean()
            )
            loss = loss + self.lecam * distance
        if self.training and torch.is_grad_enabled():
            means = torch.stack([real_logits.mean(), fake_logits.mean(), self.real.new_ones(())])
            totals = batch_total(means)
            if totals is not None:
                real, fake, num_shares = totals
                self.real.lerp_(real / num_shares, 1 - LOGIT_DECAY)
                self.fake.lerp_(fake / num_shares, 1 - LOGIT_DECAY)
        return loss
