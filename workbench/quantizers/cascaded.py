"""UniCode2's cascade (arXiv:2506.20214): a frozen table decides a token's index, a trainable one holds what it says.

Row k of E belongs to row k of F and starts there. Nothing that learns takes part in the choice, so which codes are used
is a property of the features and of F, and training cannot change it. The other roles are its controls.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.errors import unknown
from workbench.core.types import Quantized
from workbench.quantizers.nearest import nearest_code
from workbench.quantizers.vector import VectorQuantizer

CascadeMode = Literal["cascade", "frozen", "random", "single", "projector", "online", "continuous"]
WITH_VALUES = ("cascade", "random", "single")  # roles that have an E


class CascadedCodebook(nn.Module):
    """F, and by role what is learned beside it; x comes normalised. There are no losses: the decoder's is all.

    cascade: choose by F, say E. frozen: E is F. random: E starts from noise at F's scale. single: E chooses too.
    projector: a linear map of F chooses and says (VQGAN-LC, SimVQ). online: averaged codes from noise at F's scale
    (VQ-VAE); with `revive` they begin as tokens, and those out of use become tokens again. continuous: no codes.
    """

    index: Float[Tensor, "k d"]  # F

    def __init__(
        self,
        *,
        codebook_size: int,
        dim: int,
        role: CascadeMode = "cascade",
        unit: bool = False,
        revive: float = 0.0,
    ) -> None:
        super().__init__()
        if role not in get_args(CascadeMode):
            raise unknown("role", role, get_args(CascadeMode))
        self.role, self.unit = role, unit
        start = torch.randn(codebook_size, dim)
        self.register_buffer("index", F.normalize(start, dim=-1) if unit else start)
        if role in WITH_VALUES:
            # Sparse gradients: an optimiser that honours them leaves rows alone that no token hit.
            self.values = nn.Embedding(codebook_size, dim, sparse=True)  # E
        elif role == "projector":
            self.projection = nn.Linear(dim, dim, bias=False)
            nn.init.eye_(self.projection.weight)
        elif role == "online":
            self.online = VectorQuantizer(
                codebook_size=codebook_size,
                dim=dim,
                commitment=0.0,
                cosine=unit,
                learn="ema",
                revive=revive,
            )
        self.fill(self.index, seed=0)

    @torch.no_grad()
    def fill(self, index: Float[Tensor, "k d"], *, seed: int) -> None:
        """Make this F, and start what is learned from it."""
        self.index.copy_(index)
        noise = torch.randn(index.shape, generator=torch.Generator().manual_seed(seed)).to(
            self.index
        )
        noise = self.index.mean(dim=0) + self.index.std(dim=0, correction=0) * noise
        if self.role in ("cascade", "single"):
            self.values.weight.copy_(self.index)
        elif self.role == "random":
            self.values.weight.copy_(noise)
        elif self.role == "online":
            self.online.codebook.copy_(rearrange(noise, "k d -> 1 k d"))

    @property
    def table(self) -> Float[Tensor, "k d"] | None:
        """What the codes say: E, or what stands for it; None where there are no codes."""
        if self.role == "continuous":
            return None
        if self.role == "frozen":
            return self.index
        if self.role == "projector":
            return self.projection(self.index)
        return self.online.words[0] if self.role == "online" else self.values.weight

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Choose by one table, and say the row of the other."""
        if self.role == "continuous":
            return Quantized(latents=x, codes=None, losses={})
        if self.role == "online":
            quantized = self.online(x)
            return Quantized(latents=quantized.latents, codes=quantized.codes, losses={})
        said = self.table
        chooses = said.detach() if self.role in ("single", "projector") else self.index
        codes = rearrange(
            nearest_code(rearrange(x, "b n d -> (b n) d"), chooses), "(b n) -> b n", b=len(x)
        )
        latents = F.embedding(codes, said, sparse=self.role in WITH_VALUES)
        return Quantized(latents=latents, codes=codes, losses={})


@torch.no_grad()
def displacement(index: Float[Tensor, "k d"], values: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """How far each value has gone from its index, |E - F| / |F|; exactly 0 for a row that was never hit."""
    return (values - index).norm(dim=-1) / index.norm(dim=-1).clamp(
        min=torch.finfo(index.dtype).tiny
    )


@torch.no_grad()
def self_retrieval(index: Float[Tensor, "k d"], values: Float[Tensor, "k d"]) -> float:
    """The share of values that are still nearest to their own index: they have not left its cell."""
    own = torch.arange(len(index), device=index.device)
    return (nearest_code(values, index) == own).float().mean().item()
