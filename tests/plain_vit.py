"""Plain formulas of published vision transformers, written without the package's modules.

Each formula takes the name of a usual mistake of an import, so that tests can show that their
tolerance would notice it.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

TOLERANCE = 2e-5
HEAD_WIDTH = 64

Weights = dict[str, torch.Tensor]


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    """Draw weights so that every tensor matters: gains near 1, outputs of layers of size 1.

    What enters the first block is small, so that the epsilon of its norm matters.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=generator)
        if name.endswith("bias"):
            tensor *= 0.2
        elif len(shape) == 1:  # gains and layer scale
            tensor = 0.7 + 0.2 * tensor
        elif name.endswith("weight"):
            tensor /= math.prod(shape[1:]) ** 0.5
            if "patch_embed" in name:
                tensor *= 0.1
        elif "freqs" not in name:
            tensor *= 0.05
        weights[name] = tensor
    return weights


def save_checkpoint(folder: Path, weights: Weights, config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def linear_shapes(name: str, in_channels: int, out_channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_channels, in_channels), f"{name}.bias": (out_channels,)}


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def random_images(side: int, channels: int = 3, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def linear(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].flatten(1).T + weights[f"{name}.bias"]


def layer_norm(
    weights: Weights, name: str | None, x: torch.Tensor, eps: float, mistake: str | None
) -> torch.Tensor:
    if mistake == "eps":
        eps = 1e-5 if eps == 1e-6 else 1e-6
    centered = x - x.mean(dim=-1, keepdim=True)
    normalized = centered / (centered.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    if name is None:
        return normalized
    return normalized * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(projected: torch.Tensor, angles: torch.Tensor | None = None) -> torch.Tensor:
    """Mix the values of rows that are projected to queries, keys and values.

    The angles, shape (heads, rows, 32), rotate neighboring channels.
    """
    width = projected.shape[-1] // 3
    heads = []
    for head in range(width // HEAD_WIDTH):
        first = head * HEAD_WIDTH
        q, k, v = (
            projected[..., part * width + first : part * width + first + HEAD_WIDTH]
            for part in range(3)
        )
        if angles is not None:
            q, k = rotate_neighbors(q, angles[head]), rotate_neighbors(k, angles[head])
        heads.append((q @ k.mT / 8).softmax(dim=-1) @ v)
    return torch.cat(heads, dim=-1)


def rotate_neighbors(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    a, c = x[..., 0::2], x[..., 1::2]
    rotated = a * angles.cos() - c * angles.sin(), a * angles.sin() + c * angles.cos()
    return torch.stack(rotated, dim=-1).flatten(-2)


def mlp(
    weights: Weights, first: str, second: str, x: torch.Tensor, mistake: str | None
) -> torch.Tensor:
    approximate = "tanh" if mistake == "tanh" else "none"
    return linear(weights, second, F.gelu(linear(weights, first, x), approximate=approximate))


def cut_patches(images: torch.Tensor, size: int) -> torch.Tensor:
    """Cut images to (batch, patches, numbers), in the order (channel, row, column)."""
    rows = images.unfold(2, size, size).unfold(3, size, size)  # b c h w i j
    return rows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def join_patches(numbers: torch.Tensor, size: int, channels: int = 3) -> torch.Tensor:
    """Join patches whose numbers are in the order (row, column, channel)."""
    side = math.isqrt(numbers.shape[1])
    images = torch.empty(len(numbers), channels, side * size, side * size)
    for index in range(side**2):
        top, left = index // side * size, index % side * size
        patch = numbers[:, index].reshape(-1, size, size, channels).permute(0, 3, 1, 2)
        images[:, :, top : top + size, left : left + size] = patch
    return images
