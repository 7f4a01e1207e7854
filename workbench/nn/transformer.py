"""The only transformer: pre-norm blocks, plain or modulated by a condition (adaLN-zero, arXiv:2212.09748)."""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

Norm = Literal["layer", "rms"]
Inner = Literal["gelu", "swiglu"]


class RMSNorm(nn.Module):
    """Rows of root mean square 1 times a learned gain (arXiv:1910.07467), computed in float32 whatever comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Normalise the last axis."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight, eps=1e-6).to(x.dtype)


class KVCache:
    """The keys and values of the rows that one causal attention has already seen: they need not be computed again."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def joined(
        self, keys: Float[Tensor, "b heads t e"], values: Float[Tensor, "b heads t e"]
    ) -> tuple[Float[Tensor, "b heads s e"], Float[Tensor, "b heads s e"]]:
        """Those seen before and the new ones, which from now on have been seen too."""
        if self.keys is not None and self.values is not None:
            keys, values = (
                torch.cat([self.keys, keys], dim=2),
                torch.cat([self.values, values], dim=2),
            )
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention over every row, over the visible rows alone, or over the rows so far."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        # Bounded queries and keys keep attention from saturating in long low-precision runs (arXiv:2302.05442).
        self.norm_q = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(width // heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        visible: Bool[Tensor, "b t"] | None = None,
        turns: Float[Tensor, "two t half"] | None = None,
        *,
        causal: bool = False,
        past: KVCache | None = None,
    ) -> Tensor:
        """Mix the rows; a row that is not visible is never looked at. `turns`: by which places rotate (RoPE).

        `causal`: no row looks at later ones (without `visible`). `past`: the rows that came before these.
        """
        q, k, v = rearrange(
            self.project_in(x),
            "b t (three heads e) -> three b heads t e",
            three=3,
            heads=self.heads,
        )
        q, k = self.norm_q(q), self.norm_k(k)
        if turns is not None:
            q, k = apply_rotary(q, turns), apply_rotary(k, turns)
        if past is not None:
            k, v = past.joined(k, v)
        mask, new, all_rows = None, q.shape[2], k.shape[2]
        if visible is not None:
            mask = rearrange(visible, "b t -> b 1 1 t")
        elif causal and new < all_rows:
            mask = torch.ones(new, all_rows, dtype=torch.bool, device=x.device).tril(all_rows - new)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and new == all_rows
        )
        return self.project_out(rearrange(mixed, "b heads t e -> b t (heads e)"))


class MLP(nn.Sequential):
    """Two layers, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class SwiGLU(nn.Module):
    """A gated MLP (arXiv:2002.05202), two thirds as wide inside, so that it has as many weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width * 2 // 3
        self.project_in, self.project_out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b t width"]) -> Float[Tensor, "b t width"]:
        """One half, after SiLU, scales the other."""
        gate, value = self.project_in(x).chunk(2, dim=-1)
        return self.project_out(F.silu(gate) * value)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        visible: Bool[Tensor, "b t"] | None = None,
        *,
        causal: bool = False,
        past: KVCache | None = None,
    ) -> Tensor:
        """Attention, then the MLP, each added to the stream."""
        x = x + self.attention(self.norm_1(x), visible, causal=causal, past=past)
        return x + self.mlp(self.norm_2(x))


class ModulatedBlock(nn.Module):
    """A block whose norms are shifted, scaled and gated by a condition; the identity before training."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm: Norm = "layer",
        mlp: Inner = "gelu",
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = normalize(norm, width), normalize(norm, width)
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.mlp = MLP(width) if mlp == "gelu" else SwiGLU(width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        condition: Float[Tensor, "b width"],
        turns: Float[Tensor, "two t half"] | None = None,
    ) -> Tensor:
        """Attention, then the MLP, each modulated and gated by the condition."""
        modulation = rearrange(
            self.modulation(F.silu(condition)), "b (six width) -> six b 1 width", six=6
        )
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
        x = x + gate_1 * self.attention(self.norm_1(x) * (1 + scale_1) + shift_1, turns=turns)
        return x + gate_2 * self.mlp(self.norm_2(x) * (1 + scale_2) + shift_2)


def normalize(norm: Norm, width: int) -> nn.Module:
    """The norm before a modulation: LayerNorm without a gain (DiT), or RMSNorm with one (LightningDiT)."""
    return nn.LayerNorm(width, elementwise_affine=False) if norm == "layer" else RMSNorm(width)


def rotary_angles(places: Float[Tensor, "t axes"], width: int) -> Float[Tensor, "two t half"]:
    """Cosines and sines of RoPE's angles (arXiv:2104.09864) for heads of that width, an equal share for each axis."""
    pairs = width // (2 * places.shape[1])
    frequencies = 1e4 ** (-torch.arange(pairs, device=places.device) / pairs)
    angles = rearrange(
        einsum(places, frequencies, "t axes, pairs -> t axes pairs"),
        "t axes pairs -> t (axes pairs)",
    )
    return torch.stack([angles.cos(), angles.sin()])


def apply_rotary(
    x: Float[Tensor, "b heads t e"], turns: Float[Tensor, "two t half"]
) -> Float[Tensor, "b heads t e"]:
    """Turn each pair of channels (i, i + half) by its place's angle: products then depend on differences of places."""
    cos, sin = turns.to(x.dtype)
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


def init_weights(module: nn.Module, depth: int) -> None:
    """Small weights; what is added to the stream shrinks with depth, so that a block starts near the identity."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(
                part.weight, std=0.02 if part.in_features > 64 else part.in_features**-0.5 / 6
            )
            nn.init.zeros_(part.bias)
        if name.endswith(("project_out", "mlp.2")):
            part.weight.data /= (2 * depth) ** 0.5
