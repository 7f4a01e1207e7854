"""The adversary: a patch discriminator with hinge losses, and a regulariser for small data (LeCam).

Hinge losses after VQGAN (arXiv:2012.09841), LeCam after arXiv:2104.03310. It learns in the same backward pass as the
tokenizer, from the same reconstruction: the generator's term sees its weights as constants, and its own term sees the
reconstruction as one. VQGAN's code steps twice, and shows the second step a reconstruction that is one step newer.

Here: a PatchGAN for every system. SoftVQ-VAE and MAETok use heads on a frozen DINO network, with augmentations.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from workbench.core.types import Images

LOGIT_DECAY = 0.999  # of LeCam's running means


class PatchDiscriminator(nn.Module):
    """Images to a map of logits, one a patch: above 0 is real. Group norms, so each image is judged on its own."""

    def __init__(self, channels: int, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for layer in range(1, layers):
            before, after = width * 2 ** (layer - 1), width * 2**layer
            parts += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.GroupNorm(8, after),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*parts, nn.Conv2d(width * 2 ** (layers - 1), 1, 3, padding=1))

    def forward(self, images: Images) -> Float[Tensor, "b 1 rows columns"]:
        """The logits."""
        return self.body(images)


class AdversarialLoss(nn.Module):
    """A discriminator and its two losses."""

    def __init__(self, channels: int, *, lecam: float = 0.001) -> None:
        super().__init__()
        self.discriminator, self.lecam = PatchDiscriminator(channels), lecam
        self.register_buffer("real", torch.zeros(()))  # running means of the logits
        self.register_buffer("fake", torch.zeros(()))

    def fool(self, reconstruction: Images) -> Float[Tensor, ""]:
        """The generator's loss, - mean D(reconstruction); the discriminator gets no gradient from it."""
        constant = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return -functional_call(self.discriminator, constant, (reconstruction,)).mean()

    def judge(self, images: Images, reconstruction: Images) -> Float[Tensor, ""]:
        """The discriminator's hinge loss and LeCam; the generator gets no gradient from it."""
        real, fake = self.discriminator(images), self.discriminator(reconstruction.detach())
        loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        if self.lecam:
            distance = (
                F.relu(real - self.fake).square().mean() + F.relu(self.real - fake).square().mean()
            )
            loss = loss + self.lecam * distance
        if self.training and torch.is_grad_enabled():
            self.real.lerp_(real.detach().mean(), 1 - LOGIT_DECAY)
            self.fake.lerp_(fake.detach().mean(), 1 - LOGIT_DECAY)
        return loss
