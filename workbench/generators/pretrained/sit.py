"""SiT (arXiv:2401.08740) as published for the latents of SoftVQ-VAE and MAETok.

The tokens have no position in the image. Time 1 is noise and the velocity is noise - data, as here.
"""

from typing import Any

from workbench.core.errors import UserError
from workbench.core.printable import printable
from workbench.generators.pretrained.base import PretrainedGenerator
from workbench.generators.pretrained.diffusion_transformer import (
    build,
    find_moments,
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

PATTERNS = ("*.safetensors", "config.json")
PROJECTORS = "projectors."  # of an alignment loss in training
GUIDANCE_END = 0.7
SAMPLING_STEPS = 250
VARIANCE_NOTE = "The outputs for variances are not used, as in SiT's code."
GUIDANCE_NOTE = (
    "The published figures use guidance 1.75 up to time 0.7 (SoftVQ-VAE), 1.9 up to 0.75 (MAETok "
    "at 256 pixels; option guidance_end) or 1.5 up to 0.7 (512 pixels)."
)


def load(
    address: Address,
    *,
    revision: str | None = None,
    stats: str | None = None,
    heads: int | None = None,
    guidance_end: float = GUIDANCE_END,
    sampling_steps: int = SAMPLING_STEPS,
) -> PretrainedGenerator:
    """Load a SiT of a tokenizer with tokens on a line.

    Parameters
    ----------
    address : Address
        A folder, a file, or the id of a repository on the hub.
    revision : str, optional
        A branch, tag or commit on the hub.
    stats : str, optional
        The config.json of the tokenizer, which has `vq_mean` and `vq_std`, or its folder.
    heads : int, optional
        Attention heads, if config.json does not state num_heads.
    guidance_end : float
        Time up to which guidance is applied, from 0 (data) to 1 (noise).
    sampling_steps : int
        Euler-Maruyama steps of a sample.

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
    unused = [name for name in stored if name.startswith(PROJECTORS)]
    weights = rename(path, {name: value for name, value in stored.items() if name not in unused})
    if patch_size(path, stored) > 1:
        raise UserError(
            f"{printable(path)} has patches of several tokens; only a SiT of tokens on a line can"
            " be loaded."
        )
    shape = sizes(weights)
    has_variances = len(weights["to_velocity.weight"]) == 2 * shape["dim"]
    if has_variances:
        for name in ("to_velocity.weight", "to_velocity.bias"):
            weights[name] = weights[name][: shape["dim"]]
    mean, std, files = find_moments(
        path, stats, shape["dim"], example="the config.json of its tokenizer"
    )
    settings: dict[str, Any] = {
        **shape,
        "heads": heads_of(path, read_config(path), heads),
        "mean": tuple(mean),
        "std": tuple(std),
        "norm_eps": 1e-6,
        "mlp": "gelu-tanh",
        "stored_positions": True,
        "time_embedding": "unscaled",
        "interval": (0.0, guidance_end),
        "solver": "euler-maruyama",
        "sampling_steps": sampling_steps,
    }
    return PretrainedGenerator(
        generator=build(path, SiT.Config(**settings), weights),
        files=(path, *files),
        license=None,
        notes=(*left_out(unused), *([VARIANCE_NOTE] if has_variances else []), GUIDANCE_NOTE),
    )
