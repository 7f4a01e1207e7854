"""DiT (arXiv:2212.09748) in its published format, with fixed or learned variances.

Timesteps, noise schedule and the order of outputs are those of the paper's code. Its moments are
one number, the scale of the autoencoder's latents (0.18215 of Stable Diffusion's).
"""

from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.generators.noise_schedules import Schedule
from workbench.generators.pretrained.base import PretrainedGenerator
from workbench.generators.pretrained.diffusion_transformer import (
    build,
    find_moments,
    grid_rows,
    heads_of,
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
GUIDED_CHANNELS = 3
SAMPLING_STEPS = 250
GUIDANCE_NOTE = "The published figures use guidance 1.5 (or 1.25) on the first 3 channels."


def load(
    address: Address,
    *,
    revision: str | None = None,
    scale: float | None = None,
    stats: str | None = None,
    heads: int | None = None,
    schedule: Schedule = "ddpm-linear",
    guided_channels: int = GUIDED_CHANNELS,
    sampling_steps: int = SAMPLING_STEPS,
) -> PretrainedGenerator:
    """Load a DiT.

    Parameters
    ----------
    address : Address
        A folder, a file, or the id of a repository on the hub.
    revision : str, optional
        A branch, tag or commit on the hub.
    scale : float, optional
        The number by which the latents were multiplied, such as 0.18215.
    stats : str, optional
        A file with the mean and the standard deviation of the latents, in place of a scale.
    heads : int, optional
        Attention heads, if config.json does not state num_heads.
    schedule : {"ddpm-linear", "ddpm-cosine"}
        The noise schedule; linear in the paper.
    guided_channels : int
        Channels with guidance; the number of all channels guides all.
    sampling_steps : int
        Reverse steps of a sample, at most 1000.

    Returns
    -------
    PretrainedGenerator
        The generator. Its samples have the published mean and deviation.

    Raises
    ------
    UserError
        If the files cannot be found or read, or do not fit the network.
    """
    path = network_file(address.resolve(PATTERNS, revision=revision))
    stored = read_weights(path)
    weights = rename(path, stored)
    shape = sizes(weights, patch_size(path, stored))
    mean, std, files = _moments(path, scale, stats, shape["dim"])
    outputs = len(weights["to_velocity.weight"]) // shape["patch"] ** 2
    settings: dict[str, Any] = {
        **shape,
        "rows": grid_rows(path, shape["num_tokens"]) if shape["patch"] > 1 else 1,
        "heads": heads_of(path, read_config(path), heads),
        "mean": tuple(mean),
        "std": tuple(std),
        "path": schedule,
        "predict": "noise",
        "times": "timesteps",
        "learned_variance": outputs == 2 * shape["dim"],
        "norm_eps": 1e-6,
        "mlp": "gelu-tanh",
        "stored_positions": True,
        "time_embedding": "timestep",
        "guided_channels": min(guided_channels, shape["dim"]),
        "solver": "ddpm",
        "sampling_steps": sampling_steps,
    }
    return PretrainedGenerator(
        generator=build(path, SiT.Config(**settings), weights),
        files=(path, *files),
        license=None,
        notes=(GUIDANCE_NOTE,),
    )


def _moments(
    path: Path, scale: float | None, stats: str | None, dim: int
) -> tuple[list[float], list[float], tuple[Path, ...]]:
    if scale is None:
        return find_moments(path, stats, dim, example="a file of them, or give scale=0.18215,")
    if stats is not None:
        raise UserError("Give scale or stats, not both.")
    if not 0 < scale < float("inf"):
        raise UserError(f"scale must be above 0, got {scale}.")
    return [0.0] * dim, [1 / scale] * dim, ()
