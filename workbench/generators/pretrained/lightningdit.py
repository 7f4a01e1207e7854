"""LightningDiT (arXiv:2501.01423) in its published format.

The network is `SiT` with the settings of the paper's code. The code differs in three conventions:
time runs from noise (0) to data (1) and the velocity is data - noise, so that the output layer is
negated and the network reads 1 - t; and a rotation turns neighboring channels, where ours turns
channels i and i + half, so that the rows of queries and keys are permuted.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from workbench.generators.pretrained.base import PretrainedGenerator
from workbench.generators.pretrained.diffusion_transformer import (
    STATS_NAMES,
    build,
    find_moments,
    grid_rows,
    heads_of,
    left_out,
    network_file,
    patch_size,
    read_config,
    rename,
    sizes,
)
from workbench.generators.transformer import SiT
from workbench.storage.foreign_weights import read_weights
from workbench.storage.published import Address

PATTERNS = ("*.safetensors", "*.pt", "config.json")
ROTATIONS = "feat_rope."  # cosines and sines that are computed here
GUIDED_CHANNELS = 3
GUIDANCE_START = 0.10  # of the 64-epoch model, in the paper's direction of time
SHIFT = 0.3  # in the paper's direction of time
SAMPLING_STEPS = 249  # between 250 points
NO_ROTATIONS = (
    "The file has no rotations of positions (feat_rope), so that the network has none; if it does, "
    'write {"use_rope": true} into a config.json next to it.'
)
GUIDANCE_NOTE = (
    "The published figures use guidance 10 from time 0.10 (64 epochs) or 6.7 from 0.125 (800 "
    "epochs; option guidance_start), on the first 3 channels."
)


def load(
    address: Address,
    *,
    revision: str | None = None,
    stats: str | None = None,
    heads: int | None = None,
    guidance_start: float = GUIDANCE_START,
    guided_channels: int = GUIDED_CHANNELS,
    sampling_steps: int = SAMPLING_STEPS,
) -> PretrainedGenerator:
    """Load a LightningDiT.

    Parameters
    ----------
    address : Address
        A folder, a file, or the id of a repository on the hub.
    revision : str, optional
        A branch, tag or commit on the hub.
    stats : str, optional
        The file with the mean and the standard deviation of each channel, if it is not next to the
        weights.
    heads : int, optional
        Attention heads, if neither the tensors nor config.json determine them.
    guidance_start : float
        Time from which guidance is applied, from 0 (noise) to 1 (data), as the paper counts it.
    guided_channels : int
        Channels with guidance; the number of all channels guides all.
    sampling_steps : int
        Euler steps of a sample.

    Returns
    -------
    PretrainedGenerator
        The generator. Its samples have the published mean and deviation.

    Raises
    ------
    UserError
        If the files cannot be found or read, or do not fit the network.
    """
    folder = address.resolve(PATTERNS, revision=revision)
    path = network_file(folder)
    stored = read_weights(path)
    rotations = {name: value for name, value in stored.items() if name.startswith(ROTATIONS)}
    weights = rename(path, {n: value for n, value in stored.items() if n not in rotations})
    shape = sizes(weights, patch_size(path, stored))
    head_width = _head_width(stored)
    config = read_config(path)
    if head_width is None:
        num_heads = heads_of(path, config, heads)
    else:
        num_heads = shape["width"] // head_width
    has_rotations = bool(rotations) or bool(config.get("use_rope", False))
    rows = grid_rows(path, shape["num_tokens"])
    mean, std, files = find_moments(path, stats, shape["dim"], example=STATS_NAMES[1])
    settings: dict[str, Any] = {
        **shape,
        "rows": rows,
        "heads": num_heads,
        "mean": tuple(mean),
        "std": tuple(std),
        "by_channel": True,
        "norm": "rms" if "norm.weight" in weights else "layer",
        "norm_eps": 1e-6,
        "mlp": "swiglu" if "blocks.0.mlp.project_in.weight" in weights else "gelu-tanh",
        "positions": "sines+rope" if has_rotations else "sines",
        "stored_positions": True,
        "qk_norm": "blocks.0.attention.norm_q.weight" in weights,
        "time_embedding": "unscaled",
        "reversed_time": True,
        "direction_weight": 1.0,
        "shift": 1 / SHIFT,
        "interval": (0.0, 1 - guidance_start),
        "guided_channels": min(guided_channels, shape["dim"]),
        "solver": "euler",
        "sampling_steps": sampling_steps,
    }
    if has_rotations:
        weights = permute_rotated_channels(weights, num_heads)
    for name in ("to_velocity.weight", "to_velocity.bias"):
        weights[name] = -weights[name]
    return PretrainedGenerator(
        generator=build(path, SiT.Config(**settings), weights),
        files=(path, *files),
        license=None,
        notes=(*left_out(rotations), *(() if has_rotations else (NO_ROTATIONS,)), GUIDANCE_NOTE),
    )


def _head_width(weights: Mapping[str, Tensor]) -> int | None:
    """Return the channels of a head from the rotations or the norms of queries, if there are."""
    for name in (f"{ROTATIONS}freqs_cos", "blocks.0.attn.q_norm.weight"):
        if name in weights:
            return weights[name].shape[-1]
    return None


def permute_rotated_channels(weights: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Return the weights with the channels of queries and keys in our order.

    In the published order, channel a * half + 2 * i + r of a head is member r of pair i of axis a.
    Here it is channel r * half + a * half / 2 + i.
    """
    permuted = dict(weights)
    for name, value in weights.items():
        if ".attention.project_in." in name:
            queries, keys, values = rearrange(
                value, "(three heads e) ... -> three heads e ...", three=3, heads=heads
            )
            parts = [_permute(queries, 1), _permute(keys, 1), values]
            permuted[name] = torch.stack(parts).reshape(value.shape)
        elif ".attention.norm_" in name:
            permuted[name] = _permute(value, 0)
    return permuted


def _permute(value: Tensor, axis: int) -> Tensor:
    order = rearrange(
        torch.arange(value.shape[axis]), "(axes pairs two) -> (two axes pairs)", axes=2, two=2
    )
    return value.index_select(axis, order)
