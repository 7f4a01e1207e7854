"""SoftVQ (arXiv:2412.10958): a token becomes a soft categorical mix of codewords.

Cosine logits, the codebook detached inside them, no straight-through, no commitment or codebook loss. Here: the entropy
term is computed for each codebook and then averaged; the released code pools code j of every book as one event.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.types import Quantized


class SoftQuantizer(nn.Module):
    """G codebooks over G contiguous blocks of tokens; latents are mixes of unit codewords, so of norm at most 1."""

    def __init__(
        self,
        *,
        books: int,  # G
        codes: int,  # K, codewords a book
        dim: int,  # d
        temperature: float = 0.07,  # tau, lower is harder
        entropy_weight: float = 0.01,  # lambda
        entropy_temperature: float = 0.01,  # of the regulariser alone, much sharper than tau
    ) -> None:
        super().__init__()
        self.books, self.temperature = books, temperature
        self.entropy_weight, self.entropy_temperature = entropy_weight, entropy_temperature
        self.codebook = nn.Parameter(F.normalize((2 * torch.rand(books, codes, dim) - 1) / codes, dim=-1))

    @property
    def words(self) -> Float[Tensor, "g k d"]:
        """The codewords, of unit norm."""
        return F.normalize(self.codebook, dim=-1)

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Mix the codewords of each token's book. The number of tokens must divide into `books`."""
        directions = rearrange(F.normalize(x, dim=-1), "b (g m) d -> g (b m) d", g=self.books)
        words = self.words
        similarity = einsum(directions, words.detach(), "g t d, g k d -> g t k")
        posterior = F.softmax(similarity / self.temperature, dim=-1)  # q(k | x)
        mixed = einsum(posterior, words, "g t k, g k d -> g t d")
        return Quantized(
            latents=rearrange(mixed, "g (b m) d -> b (g m) d", b=len(x)),
            codes=rearrange(posterior.argmax(dim=-1), "g (b m) -> b (g m)", b=len(x)),
            losses={"entropy": self.entropy_weight * entropy_gap(similarity / self.entropy_temperature)},
        )


def entropy_gap(logits: Float[Tensor, "g t k"]) -> Float[Tensor, ""]:
    """H(q(k|x)) - H(E_x q(k|x)), mean over books: least, at -log K, when tokens are certain and codes used evenly."""
    # In logarithms throughout: at a sharp temperature posteriors underflow to 0, where p log p has no finite gradient.
    log_posterior = F.log_softmax(logits, dim=-1)
    log_marginal = log_posterior.logsumexp(dim=1) - math.log(logits.shape[1])
    each = -(log_posterior.exp() * log_posterior).sum(dim=-1).mean(dim=-1)
    together = -(log_marginal.exp() * log_marginal).sum(dim=-1)
    return (each - together).mean()
