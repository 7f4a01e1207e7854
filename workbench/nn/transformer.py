"""The only transformer: pre-norm blocks, plain or modulated by a condition (adaLN-zero, arXiv:2212.09748)."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention over every row, or over the visible rows alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t width"], visible: Bool[Tensor, "b t"] | None = None) -> Tensor:
        """Mix the rows; a row that is not visible is never looked at."""
        q, k, v = rearrange(self.project_in(x), "b t (three heads e) -> three b heads t e", three=3, heads=self.heads)
        mask = None if visible is None else rearrange(visible, "b t -> b 1 1 t")
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.project_out(rearrange(mixed, "b heads t e -> b t (heads e)"))


class MLP(nn.Sequential):
    """Two layers, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Float[Tensor, "b t width"], visible: Bool[Tensor, "b t"] | None = None) -> Tensor:
        """Attention, then the MLP, each added to the stream."""
        x = x + self.attention(self.norm_1(x), visible)
        return x + self.mlp(self.norm_2(x))


class ModulatedBlock(nn.Module):
    """A block whose norms are shifted, scaled and gated by a condition; the identity before training."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention, self.mlp = Attention(width, heads), MLP(width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "b t width"], condition: Float[Tensor, "b width"]) -> Tensor:
        """Attention, then the MLP, each modulated and gated by the condition."""
        modulation = rearrange(self.modulation(F.silu(condition)), "b (six width) -> six b 1 width", six=6)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
        x = x + gate_1 * self.attention(self.norm(x) * (1 + scale_1) + shift_1)
        return x + gate_2 * self.mlp(self.norm(x) * (1 + scale_2) + shift_2)


def initialise(module: nn.Module, depth: int) -> None:
    """Small weights; what is added to the stream shrinks with depth, so that a block starts near the identity."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02 if part.in_features > 64 else part.in_features**-0.5 / 6)
            nn.init.zeros_(part.bias)
        if name.endswith(("project_out", "mlp.2")):
            part.weight.data /= (2 * depth) ** 0.5
