"""SoftVQ (arXiv:2412.10958): each token becomes a soft categorical mix of codewords.

The codebook is detached inside the logits. There is no straight-through gradient and no commitment
or codebook loss.

Differences from the released code: the entropy term is computed per codebook and then averaged; the
released code pools code j of every codebook as one event.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.batch_shares import batch_log_mean
from workbench.core.types import Quantized


class SoftQuantizer(nn.Module):
    """Mix the codewords of G codebooks that serve G contiguous blocks of tokens.

    Latents are in the convex hull of the codewords of their codebook.

    Parameters
    ----------
    num_codebooks : int
        G; must divide the number of tokens.
    codebook_size : int
        K, codewords per codebook.
    dim : int
        d, channels of a token.
    logits : {"cosine", "distance"}
        Cosine of unit vectors, as released, or minus ``|x - w|``, as printed in the paper.
    temperature : float
        tau of the mix; a lower temperature makes it harder.
    entropy_weight : float
        lambda, the weight of the entropy term.
    entropy_temperature : float
        Temperature of the entropy term only, much lower than tau.
    """

    def __init__(
        self,
        *,
        num_codebooks: int,
        codebook_size: int,
        dim: int,
        logits: Literal["cosine", "distance"] = "cosine",
        temperature: float = 0.07,
        entropy_weight: float = 0.01,
        entropy_temperature: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_codebooks = num_codebooks
        self.logits = logits
        self.temperature = temperature
        self.entropy_weight = entropy_weight
        self.entropy_temperature = entropy_temperature
        uniform = 2 * torch.rand(num_codebooks, codebook_size, dim) - 1
        self.codebook = nn.Parameter(F.normalize(uniform / codebook_size, dim=-1))

    @property
    def codewords(self) -> Float[Tensor, "g k d"]:
        """Return the codewords as they are mixed: of unit norm if logits are cosines."""
        return F.normalize(self.codebook, dim=-1) if self.logits == "cosine" else self.codebook

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Mix the codewords of each token's codebook."""
        codewords = self.codewords
        similarity = self._similarity(self._by_codebook(x), codewords.detach())
        posterior = F.softmax(similarity / self.temperature, dim=-1)  # q(k | x)
        mixed = einsum(posterior, codewords, "g t k, g k d -> g t d")
        gap = entropy_gap(similarity / self.entropy_temperature)
        return Quantized(
            latents=rearrange(mixed, "g (b m) d -> b (g m) d", b=len(x)),
            codes=rearrange(posterior.argmax(dim=-1), "g (b m) -> b (g m)", b=len(x)),
            losses={"entropy": self.entropy_weight * gap},
        )

    def log_posterior(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """Return log q(k | x) of each token, over the codewords of its codebook."""
        similarity = self._similarity(self._by_codebook(x), self.codewords)
        log_posterior = F.log_softmax(similarity / self.temperature, dim=-1)
        return rearrange(log_posterior, "g (b m) k -> b (g m) k", b=len(x))

    def _by_codebook(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "g t d"]:
        return rearrange(x, "b (g m) d -> g (b m) d", g=self.num_codebooks)

    def _similarity(
        self, x: Float[Tensor, "g t d"], codewords: Float[Tensor, "g k d"]
    ) -> Float[Tensor, "g t k"]:
        if self.logits == "distance":
            return -torch.cdist(x, codewords)
        return einsum(F.normalize(x, dim=-1), codewords, "g t d, g k d -> g t k")


def entropy_gap(logits: Float[Tensor, "g t k"]) -> Float[Tensor, ""]:
    """Compute H(q(k|x)) - H(E_x q(k|x)), averaged over codebooks.

    Parameters
    ----------
    logits : Tensor, shape (codebooks, tokens, codewords)
        Unnormalized log probabilities of the codewords.

    Returns
    -------
    Tensor, shape ()
        The gap in nats, in [-log K, 0]. It is lowest if each token is certain and all codes are
        used equally often.
    """
    # Everything is in logarithms: at a low temperature posteriors underflow to 0, where p log p has
    # no finite gradient. Probabilities below e^-60 do not matter, and a CPU is five times slower on
    # denormal numbers.
    log_posterior = F.log_softmax(logits, dim=-1).clamp(min=-60)
    log_marginal = batch_log_mean(log_posterior.logsumexp(dim=1) - math.log(logits.shape[1]))
    token_entropy = -(log_posterior.exp() * log_posterior).sum(dim=-1).mean(dim=-1)
    marginal_entropy = -(log_marginal.exp() * log_marginal).sum(dim=-1)
    return (token_entropy - marginal_entropy).mean()
