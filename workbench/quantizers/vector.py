"""VQ (arXiv:1711.00937): each token becomes its nearest codeword, with a straight-through gradient.

The codebook is trained by gradient (Eq. 3) or as a running average of the tokens assigned to it
(Appendix A.1).

Differences from the paper: codes that are no longer used are replaced by tokens (`revive`). The
running average is not smoothed, so that a code moves only in steps that select it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.core.batch_shares import batch_draws, batch_items, batch_total
from workbench.core.errors import UserError, unknown
from workbench.core.types import Quantized
from workbench.quantizers.nearest import nearest_code


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Settings of the quantizer; the `Config` of a tokenizer inherits them.

    Attributes
    ----------
    codebook_size : int
        Number of codewords.
    commitment : float
        Weight of the commitment loss, which pulls the outputs of the encoder to their codewords.
    cosine : bool
        Whether codewords and outputs of the encoder are compared as unit vectors.
    learn : {"gradient", "ema"}
        Train the codebook by gradient, or as a running average of its tokens (ema).
    decay : float
        Decay of the running averages, per batch.
    revive : float
        Replace codes that are used less often than this fraction of uniform usage; 0: never.
    """

    codebook_size: int = 256
    commitment: float = 0.25
    cosine: bool = True
    learn: Literal["gradient", "ema"] = "ema"
    decay: float = 0.95
    revive: float = 0.1

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise UserError(f"codebook_size must be at least 1, got {self.codebook_size}.")
        if self.commitment < 0:
            raise UserError(f"commitment must be at least 0, got {self.commitment}.")
        if self.learn not in ("gradient", "ema"):
            raise unknown("way to learn a codebook", self.learn, ("gradient", "ema"))
        for name in ("decay", "revive"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name} must be at least 0 and below 1, got {getattr(self, name)}."
                )

    def make_quantizer(self, dim: int) -> "VectorQuantizer":
        """Return a quantizer of tokens with `dim` channels."""
        return VectorQuantizer(
            codebook_size=self.codebook_size,
            dim=dim,
            commitment=self.commitment,
            cosine=self.cosine,
            learn=self.learn,
            decay=self.decay,
            revive=self.revive,
        )


class VectorQuantizer(nn.Module):
    """Replace tokens by their nearest codewords of one codebook.

    In training mode, each forward pass with gradients also updates the usage counts of the codes.

    Parameters
    ----------
    codebook_size : int
        K, number of codewords.
    dim : int
        d, channels of a token.
    commitment : float
        beta, weight of the commitment loss.
    cosine : bool
        Compare unit vectors; the latents are then unit codewords.
    learn : {"gradient", "ema"}
        Train the codebook by gradient or as a running average.
    decay : float
        Decay of the running averages, per batch.
    revive : float
        Replace codes that are selected less often than this fraction of uniform usage, B L / K, by
        tokens; 0 disables it.
    """

    # Running average of the number of tokens per code and batch; 0 before the first batch.
    counts: Float[Tensor, " k"]
    # Running average of the sums of these tokens; only with learn="ema".
    sums: Float[Tensor, "k d"]

    def __init__(
        self,
        *,
        codebook_size: int,
        dim: int,
        commitment: float = 0.25,
        cosine: bool = False,
        learn: Literal["gradient", "ema"] = "gradient",
        decay: float = 0.95,
        revive: float = 0.0,
    ) -> None:
        super().__init__()
        self.commitment = commitment
        self.cosine = cosine
        self.learn = learn
        self.decay = decay
        self.revive = revive
        # At the scale of the encoder's output. Uniform(-1/K, 1/K) puts all codes in one spot, and
        # one code takes all tokens.
        codebook = F.normalize(torch.randn(1, codebook_size, dim), dim=-1)
        if learn == "ema":
            self.register_buffer("codebook", codebook)
            self.register_buffer("sums", torch.zeros(codebook_size, dim))
        else:
            self.codebook = nn.Parameter(codebook)
        self.register_buffer("counts", torch.zeros(codebook_size))

    @property
    def codewords(self) -> Float[Tensor, "1 k d"]:
        """Return the codewords as they are compared: of unit norm with `cosine`."""
        return F.normalize(self.codebook, dim=-1) if self.cosine else self.codebook

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Select the nearest codeword of each token.

        The losses pull tokens towards their codewords and, if the codebook is trained by gradient,
        codewords towards their tokens.
        """
        x = F.normalize(x.float(), dim=-1) if self.cosine else x.float()
        tokens = rearrange(x.detach(), "b n d -> (b n) d")
        is_learning = self.training and torch.is_grad_enabled()
        if is_learning and self.revive:
            every_token = batch_items(x)
            if every_token is not None:
                self._revive_unused_codes(rearrange(every_token, "b n d -> (b n) d"))
        codewords = self.codewords[0]
        flat_codes = nearest_code(tokens, codewords)
        codes = rearrange(flat_codes, "(b n) -> b n", b=len(x))
        selected = F.embedding(codes, codewords)
        if is_learning:
            self._update_averages(tokens, flat_codes)
        losses = {"commitment": self.commitment * F.mse_loss(x, selected.detach())}
        if self.learn == "gradient":
            losses["codebook"] = F.mse_loss(selected, x.detach())
        return Quantized(latents=selected.detach() + (x - x.detach()), codes=codes, losses=losses)

    @torch.no_grad()
    def _revive_unused_codes(self, tokens: Float[Tensor, "t d"]) -> None:
        """Move unused codes to distinct random tokens.

        Counts start at 0, so the first batch moves all codes.

        Parameters
        ----------
        tokens : Tensor, shape (tokens, dim)
            The tokens of the whole batch.
        """
        uniform = len(tokens) / len(self.counts)
        # No more codes than tokens: two codes at one point are one code. The rest follows in the
        # next batch.
        rarest = self.counts.topk(min(len(tokens), len(self.counts)), largest=False)
        dead = rarest.indices[rarest.values < self.revive * uniform]
        order = batch_draws(torch.randperm, len(tokens), device=tokens.device)
        replacements = tokens[order[: len(dead)]]
        self.codebook[0, dead] = replacements
        self.counts[dead] = uniform
        if self.learn == "ema":
            self.sums[dead] = replacements * uniform

    @torch.no_grad()
    def _update_averages(self, tokens: Float[Tensor, "t d"], codes: Int[Tensor, " t"]) -> None:
        """Update the running averages and, with them, the codes that were selected."""
        ones = torch.ones_like(tokens[:, 0])
        counts = batch_total(torch.zeros_like(self.counts).index_add_(0, codes, ones))
        if counts is not None:
            self.counts.lerp_(counts, 1 - self.decay)
        if self.learn != "ema":
            return
        sums = batch_total(torch.zeros_like(self.sums).index_add_(0, codes, tokens))
        if counts is not None and sums is not None:
            self.sums.lerp_(sums, 1 - self.decay)
            # Sum and count of all other codes shrink alike, so that their ratio is unchanged.
            selected = counts > 0
            self.codebook[0, selected] = self.sums[selected] / self.counts[selected, None]
