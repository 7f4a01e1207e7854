"""The autoencoders of latent diffusion's code as plain functions of a state dict.

They are written from the published layout alone, so that they check the modules of the package. The
argument `mistake` makes one usual mistake.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def random_weights(
    *,
    quantized: bool,
    attention: tuple[bool, bool] = (True, True),
    middle: bool = True,
    channels: int = 3,
    width: int = 32,
    multipliers: tuple[int, ...] = (1, 2),
    blocks: int = 1,
    z: int = 6,
    dim: int = 4,
    codes: int = 24,
    seed: int = 0,
) -> Weights:
    """Return seeded weights; `attention` is that of the coarsest level, per encoder and decoder."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def conv(name: str, inputs: int, outputs: int, kernel: int, gain: float = 1.0) -> None:
        scale = gain / math.sqrt(inputs * kernel**2)
        shape = (outputs, inputs, kernel, kernel)
        weights[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)
        weights[f"{name}.bias"] = 0.01 * torch.randn(outputs, generator=generator)

    def norm(name: str, size: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.2 * torch.randn(size, generator=generator)
        weights[f"{name}.bias"] = 0.2 * torch.randn(size, generator=generator)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs, 3)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attend(name: str, size: int) -> None:
        norm(f"{name}.norm", size)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", size, size, 1, gain=2.0)

    def center(half: str, size: int) -> None:
        block(f"{half}.mid.block_1", size, size)
        if middle:
            attend(f"{half}.mid.attn_1", size)
        block(f"{half}.mid.block_2", size, size)

    parts = 1 if quantized else 2
    # Small activations, so that the epsilon of the norms matters.
    conv("encoder.conv_in", channels, width, 3, gain=0.05)
    current = width
    for level, multiplier in enumerate(multipliers):
        for index in range(blocks):
            block(f"encoder.down.{level}.block.{index}", current, width * multiplier)
            current = width * multiplier
            if attention[0] and level == len(multipliers) - 1:
                attend(f"encoder.down.{level}.attn.{index}", current)
        if level < len(multipliers) - 1:
            conv(f"encoder.down.{level}.downsample.conv", current, current, 3)
    center("encoder", current)
    norm("encoder.norm_out", current)
    conv("encoder.conv_out", current, parts * z, 3)
    conv("quant_conv", parts * z, parts * dim, 1)
    if quantized:
        weights["quantize.embedding.weight"] = torch.randn(codes, dim, generator=generator)
    conv("post_quant_conv", dim, z, 1)
    conv("decoder.conv_in", z, current, 3, gain=0.05)
    center("decoder", current)
    for level in reversed(range(len(multipliers))):
        for index in range(blocks + 1):
            block(f"decoder.up.{level}.block.{index}", current, width * multipliers[level])
            current = width * multipliers[level]
            if attention[1] and level == len(multipliers) - 1:
                attend(f"decoder.up.{level}.attn.{index}", current)
        if level:
            conv(f"decoder.up.{level}.upsample.conv", current, current, 3)
    norm("decoder.norm_out", current)
    conv("decoder.conv_out", current, channels, 3)
    return weights


def encode(w: Weights, images: Tensor, mistake: str = "") -> Tensor:
    """Return what leaves `quant_conv`, shape (b, c, h, w)."""
    x = (images + 1) / 2 if mistake == "unit range" else images
    x = _conv(w, "encoder.conv_in", x, padding=1)
    level = 0
    while f"encoder.down.{level}.block.0.conv1.weight" in w:
        x = _blocks(w, f"encoder.down.{level}", x, mistake)
        if f"encoder.down.{level}.downsample.conv.weight" in w:
            x = _downsample(w, f"encoder.down.{level}.downsample.conv", x, mistake)
        level += 1
    x = _middle(w, "encoder", x, mistake)
    x = F.silu(_norm(w, "encoder.norm_out", x, mistake))
    return _conv(w, "quant_conv", _conv(w, "encoder.conv_out", x, padding=1))


def quantize(w: Weights, z: Tensor, *, unit: bool = False, mistake: str = "") -> tuple:
    """Return the codes, shape (b, h w), and the codewords, shape (b, c, h, w)."""
    stored = w["quantize.embedding.weight"]
    table = F.normalize(stored, dim=-1) if unit else stored
    tokens = z.flatten(2).mT
    tokens = F.normalize(tokens, dim=-1) if unit else tokens
    codes = torch.cdist(tokens, table[None]).argmin(-1)
    rows = stored if mistake == "stored codeword" else table
    return codes, rows[codes].mT.reshape(z.shape)


def decode(w: Weights, z: Tensor, mistake: str = "") -> Tensor:
    """Return images of latents of shape (b, c, h, w)."""
    x = _conv(w, "decoder.conv_in", _conv(w, "post_quant_conv", z), padding=1)
    x = _middle(w, "decoder", x, mistake)
    levels = {int(name.split(".")[2]) for name in w if name.startswith("decoder.up.")}
    for level in sorted(levels, reverse=True):
        x = _blocks(w, f"decoder.up.{level}", x, mistake)
        if level:
            mode = "bilinear" if mistake == "bilinear growth" else "nearest"
            x = F.interpolate(x, scale_factor=2, mode=mode)
            x = _conv(w, f"decoder.up.{level}.upsample.conv", x, padding=1)
    x = F.silu(_norm(w, "decoder.norm_out", x, mistake))
    return _conv(w, "decoder.conv_out", x, padding=1)


def _conv(w: Weights, name: str, x: Tensor, **options) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)


def _norm(w: Weights, name: str, x: Tensor, mistake: str) -> Tensor:
    eps = 1e-5 if mistake == "epsilon" else 1e-6
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _downsample(w: Weights, name: str, x: Tensor, mistake: str) -> Tensor:
    if mistake == "symmetric padding":
        return _conv(w, name, x, stride=2, padding=1)
    sides = (1, 0, 1, 0) if mistake == "top left padding" else (0, 1, 0, 1)
    return _conv(w, name, F.pad(x, sides), stride=2)


def _block(w: Weights, name: str, x: Tensor, mistake: str) -> Tensor:
    h = _conv(w, f"{name}.conv1", F.silu(_norm(w, f"{name}.norm1", x, mistake)), padding=1)
    h = _conv(w, f"{name}.conv2", F.silu(_norm(w, f"{name}.norm2", h, mistake)), padding=1)
    if f"{name}.nin_shortcut.weight" in w:
        x = _conv(w, f"{name}.nin_shortcut", x)
    return x + h


def _attention(w: Weights, name: str, x: Tensor, mistake: str) -> Tensor:
    n = _norm(w, f"{name}.norm", x, mistake)
    q, k, v = (_conv(w, f"{name}.{part}", n).flatten(2) for part in "qkv")
    channels = q.shape[1]
    scale = channels if mistake == "attention scale" else math.sqrt(channels)
    weights = torch.softmax(torch.einsum("bcq,bck->bqk", q, k) / scale, dim=-1)
    mixed = torch.einsum("bqk,bck->bcq", weights, v).reshape(x.shape)
    return x + _conv(w, f"{name}.proj_out", mixed)


def _blocks(w: Weights, level: str, x: Tensor, mistake: str) -> Tensor:
    index = 0
    while f"{level}.block.{index}.conv1.weight" in w:
        x = _block(w, f"{level}.block.{index}", x, mistake)
        if f"{level}.attn.{index}.q.weight" in w and mistake != "no attention":
            x = _attention(w, f"{level}.attn.{index}", x, mistake)
        index += 1
    return x


def _middle(w: Weights, half: str, x: Tensor, mistake: str) -> Tensor:
    x = _block(w, f"{half}.mid.block_1", x, mistake)
    if f"{half}.mid.attn_1.q.weight" in w:
        x = _attention(w, f"{half}.mid.attn_1", x, mistake)
    return _block(w, f"{half}.mid.block_2", x, mistake)
