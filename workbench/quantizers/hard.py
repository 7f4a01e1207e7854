"""VQ (arXiv:1711.00937): a token becomes its nearest codeword, its gradient copied straight through."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.types import Quantized


class HardQuantizer(nn.Module):
    """One codebook, learned by gradient. Distances are Euclidean, or between unit vectors with `cosine`."""

    def __init__(self, *, codes: int, dim: int, commitment: float = 0.25, cosine: bool = False) -> None:
        super().__init__()
        self.commitment, self.cosine = commitment, cosine
        # At the scale of the encoder's output: uniform(-1/K, 1/K) puts every code in one spot, and one wins them all.
        self.codebook = nn.Parameter(F.normalize(torch.randn(1, codes, dim), dim=-1))

    @property
    def words(self) -> Float[Tensor, "1 k d"]:
        """The codewords as they are compared: of unit norm where distances are between unit vectors."""
        return F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Choose the nearest codeword of each token; losses pull the code to the token and the token to the code."""
        words = self.words[0]
        if self.cosine:
            x = F.normalize(x, dim=-1)
        codes = rearrange(_nearest(rearrange(x, "b n d -> (b n) d"), words), "(b n) -> b n", b=len(x))
        chosen = F.embedding(codes, words)
        return Quantized(
            latents=x + (chosen - x).detach(),
            codes=codes,
            losses={
                "codebook": F.mse_loss(chosen, x.detach()),
                "commitment": self.commitment * F.mse_loss(x, chosen.detach()),
            },
        )


@torch.no_grad()
def _nearest(x: Float[Tensor, "t d"], words: Float[Tensor, "k d"]) -> Tensor:
    # |x - w|^2 = |x|^2 - 2 x.w + |w|^2, and |x|^2 does not change the order.
    return (words.square().sum(dim=-1) - 2 * x @ words.T).argmin(dim=-1)
