"""Pre-norm transformer blocks, plain or modulated by a condition.

The modulation is adaLN-zero (arXiv:2212.09748).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

Norm = Literal["layer", "rms"]
MLPKind = Literal["gelu", "gelu-tanh", "swiglu"]
LAYER_NORM_EPS = 1e-5
MIXED_ROTARY_BASE = 10.0  # of the frequencies; lower than RoPE's, as images have short axes


class RMSNorm(nn.Module):
    """Scale each row to root mean square 1, times a learned gain (arXiv:1910.07467).

    The norm is computed in float32 for inputs of any precision.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Normalize the last axis."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight, eps=1e-6).to(x.dtype)


class KVCache:
    """Keys and values of the rows that a causal attention has processed so far."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(
        self, keys: Float[Tensor, "b heads t e"], values: Float[Tensor, "b heads t e"]
    ) -> tuple[Float[Tensor, "b heads s e"], Float[Tensor, "b heads s e"]]:
        """Store new keys and values, and return all that are stored."""
        if self.keys is not None and self.values is not None:
            keys = torch.cat([self.keys, keys], dim=2)
            values = torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention: full, over visible rows only, or causal.

    Parameters
    ----------
    width : int
        Channels of a row.
    heads : int
        Number of heads; must divide `width`.
    qk_norm : bool
        Normalize queries and keys by RMSNorm.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        # Bounded queries and keys keep attention from saturating in long low-precision runs
        # (arXiv:2302.05442).
        self.norm_q = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(width // heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        visible: Bool[Tensor, "b t"] | None = None,
        rotation: Float[Tensor, "two *per_head t half"] | None = None,
        *,
        causal: bool = False,
        past: KVCache | None = None,
    ) -> Tensor:
        """Mix the rows.

        Parameters
        ----------
        x : Tensor, shape (batch, rows, width)
            The rows.
        visible : Tensor of bool, shape (batch, rows), optional
            Rows that others may attend to; all by default.
        rotation : Tensor, shape (2, rows, half) or (2, heads, rows, half), optional
            Cosines and sines from `rotary_angles` (RoPE) or `MixedRotary`.
        causal : bool
            Let no row attend to later rows. Not combined with `visible`.
        past : KVCache, optional
            Keys and values of the rows before these; updated in place.

        Returns
        -------
        Tensor, shape (batch, rows, width)
            The mixed rows.
        """
        q, k, v = rearrange(
            self.project_in(x),
            "b t (three heads e) -> three b heads t e",
            three=3,
            heads=self.heads,
        )
        q, k = self.norm_q(q), self.norm_k(k)
        if rotation is not None:
            q, k = apply_rotary(q, rotation), apply_rotary(k, rotation)
        if past is not None:
            k, v = past.append(k, v)
        num_new, num_rows = q.shape[2], k.shape[2]
        mask = None
        if visible is not None:
            mask = rearrange(visible, "b t -> b 1 1 t")
        elif causal and num_new < num_rows:
            full = torch.ones(num_new, num_rows, dtype=torch.bool, device=x.device)
            mask = full.tril(num_rows - num_new)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and num_new == num_rows
        )
        return self.project_out(rearrange(mixed, "b heads t e -> b t (heads e)"))


class MLP(nn.Sequential):
    """Two linear layers with GELU between them and four times the width inside.

    Parameters
    ----------
    width : int
        Channels of a row.
    approximate : {"none", "tanh"}
        Form of GELU: exact, or approximated by tanh.
    """

    def __init__(self, width: int, approximate: Literal["none", "tanh"] = "none") -> None:
        super().__init__(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate),
            nn.Linear(4 * width, width),
        )


class SwiGLU(nn.Module):
    """Gated MLP (arXiv:2002.05202).

    It is two thirds as wide inside as `MLP`, so that both have equally many weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width * 2 // 3
        self.project_in = nn.Linear(width, 2 * hidden)
        self.project_out = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b t width"]) -> Float[Tensor, "b t width"]:
        """Scale one half of the hidden channels by SiLU of the other half."""
        gate, value = self.project_in(x).chunk(2, dim=-1)
        return self.project_out(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block.

    Parameters
    ----------
    width : int
        Channels of a row.
    heads : int
        Number of attention heads.
    norm_eps : float
        Added to the variance in each LayerNorm.
    layer_scale : float, optional
        Initial value of one learned gain per channel of each branch (arXiv:2103.17239); none: no
        gains.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm_eps: float = LAYER_NORM_EPS,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width)
        self.scale_1 = _layer_scale(width, layer_scale)
        self.scale_2 = _layer_scale(width, layer_scale)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        visible: Bool[Tensor, "b t"] | None = None,
        rotation: Float[Tensor, "two *per_head t half"] | None = None,
        *,
        causal: bool = False,
        past: KVCache | None = None,
    ) -> Tensor:
        """Add the outputs of attention and MLP to the residual stream."""
        attended = self.attention(self.norm_1(x), visible, rotation, causal=causal, past=past)
        x = x + self.scale_1(attended)
        return x + self.scale_2(self.mlp(self.norm_2(x)))


class LayerScale(nn.Module):
    """One learned gain per channel.

    Parameters
    ----------
    width : int
        Channels of a row.
    start : float
        Initial value of all gains.
    """

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Float[Tensor, "b t width"]) -> Float[Tensor, "b t width"]:
        """Scale the channels."""
        return x * self.gain


def _layer_scale(width: int, start: float | None) -> nn.Module:
    return nn.Identity() if start is None else LayerScale(width, start)


class ModulatedBlock(nn.Module):
    """Block whose norms are shifted, scaled and gated by a condition.

    Parameters
    ----------
    width : int
        Channels of a row.
    heads : int
        Number of attention heads.
    norm : {"layer", "rms"}
        Norm before each modulation.
    mlp : {"gelu", "gelu-tanh", "swiglu"}
        Kind of MLP.
    qk_norm : bool
        Normalize queries and keys.
    norm_eps : float
        Added to the variance by LayerNorm; RMSNorm has 1e-6.

    Notes
    -----
    The modulation starts at zero, so that the block is the identity before training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm: Norm = "layer",
        mlp: MLPKind = "gelu",
        qk_norm: bool = False,
        norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        self.norm_1 = modulation_norm(norm, width, norm_eps)
        self.norm_2 = modulation_norm(norm, width, norm_eps)
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.mlp = make_mlp(mlp, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        condition: Float[Tensor, "b width"],
        rotation: Float[Tensor, "two t half"] | None = None,
    ) -> Tensor:
        """Apply attention and MLP, each modulated and gated by the condition."""
        modulation = rearrange(
            self.modulation(F.silu(condition)), "b (six width) -> six b 1 width", six=6
        )
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
        attended = self.attention(self.norm_1(x) * (1 + scale_1) + shift_1, rotation=rotation)
        x = x + gate_1 * attended
        return x + gate_2 * self.mlp(self.norm_2(x) * (1 + scale_2) + shift_2)


def make_mlp(kind: MLPKind, width: int) -> nn.Module:
    """Return the MLP of a block."""
    if kind == "swiglu":
        return SwiGLU(width)
    return MLP(width, "tanh" if kind == "gelu-tanh" else "none")


class TokenModulatedBlock(nn.Module):
    """Block of MAETok's decoder: the latents scale and shift the normalized rows of their tokens.

    The rows of the tokens are the last ones. All other rows are normalized only.

    Parameters
    ----------
    width : int
        Channels of a row.
    heads : int
        Number of attention heads.
    dim : int
        Channels of a latent.
    norm_eps : float
        Added to the variance in each LayerNorm.

    Notes
    -----
    The modulation starts at zero, so that the patches do not see the tokens before training.
    """

    def __init__(
        self, width: int, heads: int, *, dim: int, norm_eps: float = LAYER_NORM_EPS
    ) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=norm_eps, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, eps=norm_eps, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.mlp = MLP(width)
        self.modulation = nn.Linear(dim, 4 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "b t width"],
        visible: Bool[Tensor, "b t"] | None = None,
        rotation: Float[Tensor, "two *per_head t half"] | None = None,
        *,
        latents: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b t width"]:
        """Add the outputs of attention and MLP to the residual stream."""
        modulation = self.modulation(F.silu(latents))
        shift_1, scale_1, shift_2, scale_2 = modulation.chunk(4, dim=-1)
        rows = _modulate_last(self.norm_1(x), shift_1, scale_1)
        x = x + self.attention(rows, visible, rotation)
        return x + self.mlp(_modulate_last(self.norm_2(x), shift_2, scale_2))


def _modulate_last(
    x: Float[Tensor, "b t width"],
    shift: Float[Tensor, "b n width"],
    scale: Float[Tensor, "b n width"],
) -> Float[Tensor, "b t width"]:
    """Scale and shift the last n rows. As in MAETok, a scale of zero removes a row."""
    num_tokens = shift.shape[1]
    return torch.cat([x[:, :-num_tokens], x[:, -num_tokens:] * scale + shift], dim=1)


def modulation_norm(norm: Norm, width: int, eps: float = LAYER_NORM_EPS) -> nn.Module:
    """Return the norm before a modulation.

    It is LayerNorm without a gain (DiT), or RMSNorm with a gain (LightningDiT). RMSNorm does not
    use `eps`.
    """
    if norm == "rms":
        return RMSNorm(width)
    return nn.LayerNorm(width, eps=eps, elementwise_affine=False)


def rotary_angles(positions: Float[Tensor, "t axes"], width: int) -> Float[Tensor, "two t half"]:
    """Compute the cosines and sines of the angles of rotary embeddings (RoPE, arXiv:2104.09864).

    Parameters
    ----------
    positions : Tensor, shape (rows, axes)
        Position of each row on each axis.
    width : int
        Channels of an attention head, shared equally between the axes.

    Returns
    -------
    Tensor, shape (2, rows, width / 2)
        Cosines and sines.
    """
    pairs = width // (2 * positions.shape[1])
    frequencies = 1e4 ** (-torch.arange(pairs, device=positions.device) / pairs)
    angles = rearrange(
        einsum(positions, frequencies, "t axes, pairs -> t axes pairs"),
        "t axes pairs -> t (axes pairs)",
    )
    return torch.stack([angles.cos(), angles.sin()])


class MixedRotary(nn.Module):
    """Rotary embeddings of patches with learned frequencies (RoPE-Mixed, arXiv:2403.13298).

    Each block, head and pair of channels has a frequency on both axes. They start as random
    rotations of the axes, one per head. Rows that are not patches are not rotated.

    Parameters
    ----------
    depth : int
        Number of blocks.
    heads : int
        Attention heads of a block.
    width : int
        Channels of a head; a multiple of 4.
    grid : tuple of int
        Rows and columns of patches of an image.
    before, after : int
        Rows before and after the patches.
    """

    def __init__(
        self,
        *,
        depth: int,
        heads: int,
        width: int,
        grid: tuple[int, int],
        before: int,
        after: int,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.before = before
        self.after = after
        magnitudes = MIXED_ROTARY_BASE ** (-torch.arange(0, width, 4) / width)
        direction = 2 * math.pi * torch.rand(depth, heads, 1)
        directions = torch.cat([direction, direction + math.pi / 2], dim=2)
        directions = directions.repeat_interleave(width // 4, dim=2)
        axes = torch.stack([directions.cos(), directions.sin()])
        self.frequencies = nn.Parameter(axes * magnitudes.repeat(2))

    def forward(self) -> list[Float[Tensor, "two heads t half"]]:
        """Return the cosines and sines of the angles of all rows, one tensor per block."""
        rows, columns = self.grid
        patch = torch.arange(rows * columns, device=self.frequencies.device)
        outside = (self.before, self.after)
        # Position (0, 0) is not rotated.
        x = F.pad((patch % columns).float(), outside)
        y = F.pad((patch // columns).float(), outside)
        x_frequencies, y_frequencies = rearrange(
            self.frequencies, "two depth heads half -> two depth heads 1 half"
        )
        # Elementwise, so that mixed precision does not round the angles.
        angles = x[:, None] * x_frequencies + y[:, None] * y_frequencies
        return list(torch.stack([angles.cos(), angles.sin()], dim=1))


def apply_rotary(
    x: Float[Tensor, "b heads t e"], rotation: Float[Tensor, "two *per_head t half"]
) -> Float[Tensor, "b heads t e"]:
    """Rotate each pair of channels (i, i + half) by the angle of its row.

    The product of two rotated rows depends only on the difference of their positions.
    """
    cos, sin = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def init_weights(module: nn.Module, depth: int) -> None:
    """Initialize linear layers with small weights.

    Layers that add to the residual stream shrink with the depth, so that each block starts near the
    identity.
    """
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        std = 0.02 if part.in_features > 64 else part.in_features**-0.5 / 6
        nn.init.trunc_normal_(part.weight, std=std)
        nn.init.zeros_(part.bias)
        if name.endswith(("project_out", "mlp.2")):
            part.weight.data /= (2 * depth) ** 0.5


def init_xavier(module: nn.Module) -> None:
    """Initialize linear layers uniformly by their sizes (Glorot), and biases with zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
