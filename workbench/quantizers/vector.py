"""VQ (arXiv:1711.00937): a token becomes its nearest codeword, its gradient copied straight through.

The codebook learns by gradient (Eq. 3) or as a running average of the tokens that chose it (Appendix A.1). Here: codes
that fell out of use are revived, and the average is not smoothed: a code moves when it is chosen, and only then.
"""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.types import Quantized
from workbench.quantizers.nearest import nearest_code


class VectorQuantizer(nn.Module):
    """One codebook. While it trains, each forward pass with gradients also counts who was chosen; see `revive`."""

    counts: Float[
        Tensor, " k"
    ]  # running average of the tokens that chose a code, a batch; 0 before the first

    def __init__(
        self,
        *,
        codebook_size: int,  # K
        dim: int,  # d
        commitment: float = 0.25,  # beta
        cosine: bool = False,  # compare unit vectors; the latents are unit codewords
        learn: Literal["gradient", "ema"] = "gradient",
        decay: float = 0.95,  # of the running averages, a batch
        revive: float = 0.0,  # replace codes chosen less often than this share of B L / K by tokens; 0: never
    ) -> None:
        super().__init__()
        self.commitment, self.cosine, self.learn = commitment, cosine, learn
        self.decay, self.revive = decay, revive
        # At the scale of the encoder's output: uniform(-1/K, 1/K) puts every code in one spot, and one wins them all.
        codebook = F.normalize(torch.randn(1, codebook_size, dim), dim=-1)
        if learn == "ema":
            self.register_buffer("codebook", codebook)
            self.register_buffer("sums", torch.zeros(codebook_size, dim))
        else:
            self.codebook = nn.Parameter(codebook)
        self.register_buffer("counts", torch.zeros(codebook_size))

    @property
    def words(self) -> Float[Tensor, "1 k d"]:
        """The codewords as they are compared: of unit norm where distances are between unit vectors."""
        return F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Choose the nearest codeword of each token; losses pull the token to the code and, by gradient, back."""
        x = F.normalize(x.float(), dim=-1) if self.cosine else x.float()
        tokens, learning = (
            rearrange(x.detach(), "b n d -> (b n) d"),
            self.training and torch.is_grad_enabled(),
        )
        if learning and self.revive:
            self._revive(tokens)
        words = self.words[0]
        flat = nearest_code(tokens, words)
        codes = rearrange(flat, "(b n) -> b n", b=len(x))
        chosen = F.embedding(codes, words)
        if learning:
            self._follow(tokens, flat)
        losses = {"commitment": self.commitment * F.mse_loss(x, chosen.detach())}
        if self.learn == "gradient":
            losses["codebook"] = F.mse_loss(chosen, x.detach())
        return Quantized(latents=chosen.detach() + (x - x.detach()), codes=codes, losses=losses)

    @torch.no_grad()
    def _revive(self, tokens: Float[Tensor, "t d"]) -> None:
        """Move codes out of use to random tokens, each to another one; counts begin at 0, so at first all of them."""
        usual = _everywhere(self.counts.new_tensor(float(len(tokens)))).item() / len(self.counts)
        # No more codes than tokens: two codes in one place are one code. The others' turn comes with the next batch.
        least = self.counts.topk(min(len(tokens), len(self.counts)), largest=False)
        dead = least.indices[least.values < self.revive * usual]
        drawn = _first(tokens[torch.randperm(len(tokens), device=tokens.device)[: len(dead)]])
        self.codebook[0, dead] = drawn
        self.counts[dead] = usual
        if self.learn == "ema":
            self.sums[dead] = drawn * usual

    @torch.no_grad()
    def _follow(self, tokens: Float[Tensor, "t d"], codes: Int[Tensor, " t"]) -> None:
        """Move the running averages, and with them the codes that were chosen."""
        chosen = _everywhere(
            torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(tokens[:, 0]))
        )
        self.counts.lerp_(chosen, 1 - self.decay)
        if self.learn == "ema":
            sums = _everywhere(torch.zeros_like(self.sums).index_add_(0, codes, tokens))
            self.sums.lerp_(sums, 1 - self.decay)
            hit = chosen > 0  # of the others sum and count shrink alike, and their ratio stays
            self.codebook[0, hit] = self.sums[hit] / self.counts[hit, None]


def _everywhere(part: Tensor) -> Tensor:
    """The sum over all processes that train together."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(part)
    return part


def _first(value: Tensor) -> Tensor:
    """The first process's, so that codebooks stay one."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(value := value.contiguous(), src=0)
    return value
