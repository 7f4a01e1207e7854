"""UniCode2's cascaded codebook (arXiv:2506.20214): a frozen table selects codes, a trainable table
holds their values.

Row k of the value table E belongs to row k of the index table F and is initialized with it. No
trainable parameter takes part in the selection, so the usage of the codes is a property of the
features and of F, and training cannot change it. The other modes are its controls.
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
MODES_WITH_VALUES = ("cascade", "random", "single")  # modes that have an E


class CascadedCodebook(nn.Module):
    """Quantize normalized features by an index table F and, depending on the mode, a value table E.

    There are no losses: only the decoder's loss trains the values.

    Parameters
    ----------
    codebook_size : int
        K, rows of both tables.
    dim : int
        d, channels of a feature.
    mode : str
        ``cascade``
            F selects, E holds the values.
        ``frozen``
            F selects and holds the values.
        ``random``
            As cascade, but E starts as noise at the scale of F.
        ``single``
            E selects and holds the values.
        ``projector``
            A linear map of F selects and holds the values (VQGAN-LC, SimVQ).
        ``online``
            A codebook of running averages that starts as noise at the scale of F (VQ-VAE).
        ``continuous``
            No codes; features pass unchanged.
    unit : bool
        Whether features and codewords have unit norm.
    revive : float
        In mode online: replace codes used less often than this fraction of uniform usage by tokens.
    """

    index: Float[Tensor, "k d"]  # F

    def __init__(
        self,
        *,
        codebook_size: int,
        dim: int,
        mode: CascadeMode = "cascade",
        unit: bool = False,
        revive: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in get_args(CascadeMode):
            raise unknown("mode", mode, get_args(CascadeMode))
        self.mode = mode
        self.unit = unit
        start = torch.randn(codebook_size, dim)
        self.register_buffer("index", F.normalize(start, dim=-1) if unit else start)
        if mode in MODES_WITH_VALUES:
            # With sparse gradients, the optimizer leaves rows alone that no token selected.
            self.values = nn.Embedding(codebook_size, dim, sparse=True)  # E
        elif mode == "projector":
            self.projection = nn.Linear(dim, dim, bias=False)
            nn.init.eye_(self.projection.weight)
        elif mode == "online":
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
        """Set F, and initialize the trainable part from it.

        Parameters
        ----------
        index : Tensor, shape (codebook_size, dim)
            The new index table.
        seed : int
            Seed of the noise in the modes random and online.
        """
        self.index.copy_(index)
        noise = torch.randn(index.shape, generator=torch.Generator().manual_seed(seed))
        noise = noise.to(self.index)
        noise = self.index.mean(dim=0) + self.index.std(dim=0, correction=0) * noise
        if self.mode in ("cascade", "single"):
            self.values.weight.copy_(self.index)
        elif self.mode == "random":
            self.values.weight.copy_(noise)
        elif self.mode == "online":
            self.online.codebook.copy_(rearrange(noise, "k d -> 1 k d"))

    @property
    def table(self) -> Float[Tensor, "k d"] | None:
        """Return the values of the codes: E or what replaces it; None in mode continuous."""
        return None if self.mode == "continuous" else self._values()

    def forward(self, x: Float[Tensor, "b n d"]) -> Quantized:
        """Select codes by one table, and look up their values in the other."""
        if self.mode == "continuous":
            return Quantized(latents=x, codes=None, losses={})
        if self.mode == "online":
            quantized = self.online(x)
            return Quantized(latents=quantized.latents, codes=quantized.codes, losses={})
        values = self._values()
        selector = values.detach() if self.mode in ("single", "projector") else self.index
        flat_codes = nearest_code(rearrange(x, "b n d -> (b n) d"), selector)
        codes = rearrange(flat_codes, "(b n) -> b n", b=len(x))
        latents = F.embedding(codes, values, sparse=self.mode in MODES_WITH_VALUES)
        return Quantized(latents=latents, codes=codes, losses={})

    def _values(self) -> Float[Tensor, "k d"]:
        if self.mode == "frozen":
            return self.index
        if self.mode == "projector":
            return self.projection(self.index)
        if self.mode == "online":
            return self.online.codewords[0]
        return self.values.weight


@torch.no_grad()
def displacement(index: Float[Tensor, "k d"], values: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    """Compute how far each value has moved from its index, |E - F| / |F|.

    Parameters
    ----------
    index, values : Tensor, shape (codebook_size, dim)
        The tables F and E.

    Returns
    -------
    Tensor, shape (codebook_size,)
        Relative displacement; exactly 0 for a row that no token ever selected.
    """
    smallest = torch.finfo(index.dtype).tiny
    return (values - index).norm(dim=-1) / index.norm(dim=-1).clamp(min=smallest)


@torch.no_grad()
def self_retrieval(index: Float[Tensor, "k d"], values: Float[Tensor, "k d"]) -> float:
    """Compute the fraction of values whose nearest index is still their own.

    Parameters
    ----------
    index, values : Tensor, shape (codebook_size, dim)
        The tables F and E.

    Returns
    -------
    float
        Fraction in [0, 1].
    """
    rows = torch.arange(len(index), device=index.device)
    return (nearest_code(values, index) == rows).float().mean().item()
