"""Variational bottleneck (arXiv:1312.6114): each token is a diagonal Gaussian.

Latents are samples in training mode and means in evaluation mode.
"""

import zlib

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.batch_shares import item_noise
from workbench.core.types import Images, Quantized

# Bounds as in latent diffusion (arXiv:2112.10752); beyond them exp() overflows or underflows.
LOG_VARIANCE_RANGE = (-30.0, 20.0)


class GaussianBottleneck(nn.Module):
    """Turn means and log variances into latents, with a penalty on the divergence from a standard
    normal.

    Parameters
    ----------
    beta : float
        Weight of the divergence, per nat.
    """

    def __init__(self, *, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, moments: Float[Tensor, "b n two_d"]) -> Quantized:
        """Split 2 d channels into means and log variances, and draw the latents."""
        mean, log_variance = rearrange(moments.float(), "b n (two d) -> two b n d", two=2)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
        latents = mean
        if self.training:
            latents = mean + (log_variance / 2).exp() * item_noise(mean)
        losses = {"kl": self.beta * divergence(mean, log_variance)}
        return Quantized(latents=latents, codes=None, losses=losses)


def sample_posterior(
    mean: Float[Tensor, "b *shape"],
    log_variance: Float[Tensor, "b *shape"],
    images: Images,
    *,
    seed: int,
) -> Float[Tensor, "b *shape"]:
    """Draw one sample per image that depends on nothing but the image and the seed.

    Parameters
    ----------
    mean, log_variance : Tensor, shape (batch, ...)
        Parameters of the Gaussians. Log variances are clamped to LOG_VARIANCE_RANGE.
    images : Tensor, shape (batch, channels, height, width)
        The images that were encoded.
    seed : int
        Another seed gives other noise.

    Returns
    -------
    Tensor, shape (batch, ...)
        The samples. The other images of the batch do not change them.
    """
    noise = []
    for image in images.detach().float().cpu():
        generator = torch.Generator().manual_seed(zlib.crc32(image.numpy().tobytes(), seed))
        noise.append(torch.randn(mean.shape[1:], generator=generator))
    deviation = (log_variance.clamp(*LOG_VARIANCE_RANGE) / 2).exp()
    return mean + deviation * torch.stack(noise).to(mean)


def divergence(
    mean: Float[Tensor, "b n d"], log_variance: Float[Tensor, "b n d"]
) -> Float[Tensor, ""]:
    """Compute KL(N(mean, variance) || N(0, 1)) in nats (Appendix B).

    Parameters
    ----------
    mean, log_variance : Tensor, shape (batch, tokens, dim)
        Parameters of the Gaussians.

    Returns
    -------
    Tensor, shape ()
        The divergence, summed over tokens and channels, averaged over images.
    """
    per_channel = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return reduce(per_channel, "b n d -> b", "sum").mean()
