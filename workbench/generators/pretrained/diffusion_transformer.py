"""Common parts of published LightningDiT and SiT checkpoints: their names, sizes and moments.

Sizes are read from the shapes of the tensors. Only the number of heads may be missing there.
"""

import re
from collections.abc import Iterable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.core.printable import printable
from workbench.generators.transformer import SiT
from workbench.storage.files import DamagedError, parse_json, read_bytes
from workbench.storage.foreign_weights import MAX_NAMES, check_names, read_checkpoint
from workbench.storage.published import WEIGHT_SUFFIXES, weight_file

STATS_NAMES = tuple(f"latents_stats{suffix}" for suffix in (".safetensors", ".pt"))
CONFIG_NAME = "config.json"
# Names in published files, and here. The first that fits is used.
RENAMED = (
    (r"x_embedder(?:\.proj)?\.(weight|bias)", r"embed.\1"),
    (r"pos_embed", "positions"),
    (r"t_embedder\.mlp\.([02])\.(weight|bias)", r"time.\1.\2"),
    (r"y_embedder\.embedding_table\.weight", "label.weight"),
    (r"blocks\.(\d+)\.norm([12])\.weight", r"blocks.\1.norm_\2.weight"),
    (r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", r"blocks.\1.attention.project_in.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"blocks.\1.attention.project_out.\2"),
    (r"blocks\.(\d+)\.attn\.([qk])_norm\.weight", r"blocks.\1.attention.norm_\2.weight"),
    (r"blocks\.(\d+)\.mlp\.w12\.(weight|bias)", r"blocks.\1.mlp.project_in.\2"),
    (r"blocks\.(\d+)\.mlp\.w3\.(weight|bias)", r"blocks.\1.mlp.project_out.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.2.\2"),
    (r"blocks\.(\d+)\.adaLN_modulation\.1\.(weight|bias)", r"blocks.\1.modulation.\2"),
    (r"final_layer\.adaLN_modulation\.1\.(weight|bias)", r"modulation.\1"),
    (r"final_layer\.norm_final\.weight", "norm.weight"),
    (r"final_layer\.linear\.(weight|bias)", r"to_velocity.\1"),
)
REQUIRED = ("embed.weight", "positions", "label.weight", "to_velocity.weight")


def network_file(path: Path) -> Path:
    """Return the file with the network that a path names.

    In a folder, the file with the moments of the latents is ignored.
    """
    if path.is_file():
        return path
    networks = [
        file
        for file in path.iterdir()
        if file.suffix in WEIGHT_SUFFIXES and file.name not in STATS_NAMES
    ]
    return networks[0] if len(networks) == 1 else weight_file(path)


def rename(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names and in the shapes of `SiT`, in float32.

    A name that is not known is kept, so that `check_names` reports it.

    Raises
    ------
    UserError
        If the file holds another network.
    """
    renamed = {_new_name(name): tensor.float() for name, tensor in weights.items()}
    missing = [name for name in REQUIRED if name not in renamed]
    if missing:
        names = ", ".join(list(weights)[:MAX_NAMES])
        raise UserError(
            f"{printable(path)} holds no diffusion transformer: it has no {', '.join(missing)}; "
            f"its first entries are {names}."
        )
    embed = renamed["embed.weight"]
    if embed.ndim == 4:  # the channels of a patch come last here
        renamed["embed.weight"] = embed.permute(0, 2, 3, 1).flatten(1)
    renamed["positions"] = renamed["positions"].flatten(0, -2)
    return renamed


def _new_name(name: str) -> str:
    for pattern, replacement in RENAMED:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def patch_size(path: Path, weights: Mapping[str, Tensor]) -> int:
    """Return the side of a patch in a published file, in tokens.

    Raises
    ------
    UserError
        If patches are not square.
    """
    convolution = weights.get("x_embedder.proj.weight")
    if convolution is None or convolution.ndim != 4:
        return 1
    height, width = convolution.shape[2:]
    if height != width:
        raise UserError(
            f"{printable(path)} has patches of {height} x {width} tokens; they must be square."
        )
    return height


def sizes(weights: Mapping[str, Tensor], patch: int = 1) -> dict[str, int]:
    """Return the settings of `SiT` that the shapes of the renamed tensors determine.

    Parameters
    ----------
    weights : mapping of str to Tensor
        The renamed tensors.
    patch : int
        The side of a patch, in tokens.
    """
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    num_patches, width = weights["positions"].shape
    return {
        "num_tokens": num_patches * patch**2,
        "patch": patch,
        "dim": weights["embed.weight"].shape[1] // patch**2,
        "classes": weights["label.weight"].shape[0] - 1,
        "width": width,
        "depth": len(blocks),
    }


def grid_rows(path: Path, num_tokens: int) -> int:
    """Return the rows of a square grid.

    Raises
    ------
    UserError
        If the number of tokens is not a square.
    """
    rows = isqrt(num_tokens)
    if rows**2 != num_tokens:
        raise UserError(
            f"{printable(path)} has positions of {num_tokens} tokens, which are not a square grid."
        )
    return rows


def read_config(path: Path) -> dict[str, Any]:
    """Return the `config.json` next to a file with weights; empty if there is none.

    Raises
    ------
    UserError
        If it is not a JSON object.
    """
    try:
        config = parse_json(read_bytes(path.parent / CONFIG_NAME))
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        raise UserError(f"{printable(path.parent / CONFIG_NAME)} is damaged ({error}).") from None
    if not isinstance(config, dict):
        raise UserError(f"{printable(path.parent / CONFIG_NAME)} must hold a JSON object.")
    return config


def heads_of(path: Path, config: Mapping[str, Any], heads: int | None) -> int:
    """Return the number of attention heads from the option or from config.json.

    Raises
    ------
    UserError
        If neither states it.
    """
    number = config.get("num_heads") if heads is None else heads
    if not isinstance(number, int) or number < 1:
        raise UserError(
            f"The tensors of {printable(path)} do not determine the number of attention heads, and "
            "no config.json next to it states num_heads. Give the option heads, such as heads=16."
        )
    return number


def read_moments(path: Path, dim: int) -> tuple[list[float], list[float]]:
    """Read the mean and the standard deviation of latents, by channel or of all numbers.

    Parameters
    ----------
    path : Path
        `latents_stats.pt` or `.safetensors` of LightningDiT, with `mean` and `std`, or the
        config.json of a SoftVQ-VAE or MAETok, with `vq_mean` and `vq_std`; or the folder of one.
    dim : int
        Channels of a token.

    Returns
    -------
    mean, std : list of float
        One number per channel.

    Raises
    ------
    UserError
        If the file does not exist, or holds no moments of this number of channels.
    """
    if path.is_dir():
        path = _moments_file(path)
    if path.suffix == ".json":
        content: Mapping[str, Any] = read_config(path)
        names = ("vq_mean", "vq_std")
    else:
        content = read_checkpoint(path)
        names = ("mean", "std")
    if not all(name in content for name in names):
        raise UserError(f"{printable(path)} has no {names[0]} and {names[1]} of the latents.")
    mean, std = (_by_channel(path, name, content[name], dim) for name in names)
    if not all(0 < value < float("inf") for value in std):
        raise UserError(f"{names[1]} in {printable(path)} must be above 0.")
    return mean, std


def _moments_file(folder: Path) -> Path:
    for name in (*STATS_NAMES, CONFIG_NAME):
        if (folder / name).exists():
            return folder / name
    raise UserError(
        f"{printable(folder)} has no {' or '.join(STATS_NAMES)} and no {CONFIG_NAME} with the "
        "moments of the latents."
    )


def _by_channel(path: Path, name: str, value: Any, dim: int) -> list[float]:
    try:
        numbers = torch.as_tensor(value, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name} in {printable(path)} must hold numbers.") from None
    if len(numbers) not in (1, dim) or not numbers.isfinite().all():
        raise UserError(
            f"{name} in {printable(path)} must hold 1 or {dim} finite numbers, one per channel, got"
            f" {len(numbers)}."
        )
    return numbers.expand(dim).tolist()


def find_moments(
    network: Path, stats: str | None, dim: int, *, example: str
) -> tuple[list[float], list[float], tuple[Path, ...]]:
    """Return the moments of the latents that a generator was trained on, and their file.

    Parameters
    ----------
    network : Path
        The file of the network.
    stats : str or None
        The file or folder that the user names; None searches next to the network.
    dim : int
        Channels of a token.
    example : str
        The file to name if there is none.

    Raises
    ------
    UserError
        If there is none: the decoder cannot decode samples without them.
    """
    if stats is not None:
        path = Path(stats).expanduser()
        if not path.exists():
            raise UserError(f"stats is {printable(path)}, which does not exist.")
        path = _moments_file(path) if path.is_dir() else path
        return *read_moments(path, dim), (path,)
    for name in STATS_NAMES:
        path = network.parent / name
        if path.exists():
            return *read_moments(path, dim), (path,)
    path = network.parent / CONFIG_NAME
    if "vq_mean" in read_config(network):
        return *read_moments(path, dim), (path,)
    raise UserError(
        f"{printable(network)} has no mean and standard deviation of the latents, which sampling "
        "needs. "
        f"Name {example} with the option stats."
    )


def build(path: Path, config: SiT.Config, weights: Mapping[str, Tensor]) -> SiT:
    """Return the network with these weights.

    Raises
    ------
    UserError
        If an entry is missing, unknown or of another shape.
    """
    model = SiT(config)
    check_names(path, weights, model.state_dict())
    model.load_state_dict(dict(weights))
    return model


def left_out(names: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence on the entries that are never used; nothing if there are none."""
    listed = list(names)
    if not listed:
        return ()
    groups = ", ".join(sorted({name.split(".")[0] for name in listed}))
    number = counted(len(listed), "entry of the file is", "entries of the file are")
    return (f"{number} not used: {groups}.",)
