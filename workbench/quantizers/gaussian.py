"""The variational bottleneck (arXiv:1312.6114): a token is a diagonal Gaussian, sampled in training, its mean after."""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.types import Quantized

LOG_VARIANCE = (
    -30.0,
    20.0,
)  # bounds, as in latent diffusion (arXiv:2112.10752); beyond them exp() over- or underflows


class GaussianBottleneck(nn.Module):
    """Means and log variances to latents, and beta times the divergence from a standard normal."""

    def __init__(self, *, beta: float) -> None:
        super().__init__()
        self.beta = beta  # weight of the divergence, a nat

    def forward(self, moments: Float[Tensor, "b n two_d"]) -> Quantized:
        """Of 2 d channels the first d are means, the others log variances, clamped to [-30, 20]."""
        mean, log_variance = rearrange(moments.float(), "b n (two d) -> two b n d", two=2)
        log_variance = log_variance.clamp(*LOG_VARIANCE)
        latents = mean
        if self.training:
            latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return Quantized(
            latents=latents, codes=None, losses={"kl": self.beta * divergence(mean, log_variance)}
        )


def divergence(
    mean: Float[Tensor, "b n d"], log_variance: Float[Tensor, "b n d"]
) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, 1)) in nats: summed over an image's tokens and channels, mean over images."""
    # Appendix B.
    each = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return reduce(each, "b n d -> b", "sum").mean()
