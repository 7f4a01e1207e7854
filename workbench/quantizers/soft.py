"""SoftVQ (arXiv:2412.10958): a token becomes a soft categorical mix of codewords.

The codebook is detached inside the logits; no straight-through, no commitment or codebook loss. Here: the entropy term
is computed for each codebook and then averaged; the released code pools code j of every book as one event.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.types import Quantized


class SoftQuantizer(nn.Module):
    """G codebooks over G contiguous blocks of tokens; latents lie in the convex hull of their book's codewords."""

    def __init__(
        self,
        *,
        num_codebooks: int,  # G
        codebook_size: int,  # K, codewords per codebook
        dim: int,  # d
        logits: Literal[
            "cosine", "distance"
        ] = "cosine",  # of unit vectors, as released; minus |x - w|, as printed
        temperature: float = 0.07,  # tau, lower is harder
        entropy_weight: float = 0.01,  # lambda
        entropy_temperature: float = 0.01,  # of the regulariser alone, much sharper than tau
    ) -> None:
        super().__init__()
        self.num_codebooks, self.logits, self.temperature = num_codebooks, logits, temperature
        self.entropy_weight, self.entropy_temperature = entropy_weight, entropy_temperature
        self.codebook = nn.Parameter(
            F.normalize(
                (2 * torch.rand(num_codebooks, codebook_size, dim) - 1) / codebook_size, dim=-1
            )
        )

    @property
    def words(self) -> Float[Tensor, "g k d"]:
        """The codewords as they are compared and mixed: of unit norm where logits are cosines."""
        return F.normalize(self.codebook, dim=-1) if self.logits == "cosine" else self.codebook

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Mix the codewords of each token's book. The number of tokens must divide into `num_codebooks`."""
        words = self.words
        similarity = self._similarity(
            rearrange(x, "b (g m) d -> g (b m) d", g=self.num_codebooks), words.detach()
        )
        posterior = F.softmax(similarity / self.temperature, dim=-1)  # q(k | x)
        mixed = einsum(posterior, words, "g t k, g k d -> g t d")
        return Quantized(
            latents=rearrange(mixed, "g (b m) d -> b (g m) d", b=len(x)),
            codes=rearrange(posterior.argmax(dim=-1), "g (b m) -> b (g m)", b=len(x)),
            losses={
                "entropy": self.entropy_weight * entropy_gap(similarity / self.entropy_temperature)
            },
        )

    def log_posterior(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """log q(k | x) of each token, over the codewords of its book."""
        similarity = self._similarity(
            rearrange(x, "b (g m) d -> g (b m) d", g=self.num_codebooks), self.words
        )
        return rearrange(
            F.log_softmax(similarity / self.temperature, dim=-1), "g (b m) k -> b (g m) k", b=len(x)
        )

    def _similarity(
        self, x: Float[Tensor, "g t d"], words: Float[Tensor, "g k d"]
    ) -> Float[Tensor, "g t k"]:
        if self.logits == "distance":
            return -torch.cdist(x, words)
        return einsum(F.normalize(x, dim=-1), words, "g t d, g k d -> g t k")


def entropy_gap(logits: Float[Tensor, "g t k"]) -> Float[Tensor, ""]:
    """H(q(k|x)) - H(E_x q(k|x)), mean over books: least, at -log K, when tokens are certain and codes used evenly."""
    # In logarithms throughout: at a sharp temperature posteriors underflow to 0, where p log p has no finite gradient.
    # Nothing below e^-60 counts, and a CPU takes five times as long over numbers that are all but 0 (denormal).
    log_posterior = F.log_softmax(logits, dim=-1).clamp(min=-60)
    log_marginal = log_posterior.logsumexp(dim=1) - math.log(logits.shape[1])
    each = -(log_posterior.exp() * log_posterior).sum(dim=-1).mean(dim=-1)
    together = -(log_marginal.exp() * log_marginal).sum(dim=-1)
    return (each - together).mean()
