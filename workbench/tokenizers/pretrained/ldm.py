"""Autoencoders in the layout of latent diffusion's code (CompVis): `ldm:FILE`.

KL autoencoders (VA-VAE, the VAE of Stable Diffusion, LDM kl-f4 to kl-f32, MAR) become a `VAVAE`
without alignment, and VQ autoencoders (taming-transformers, LDM vq-f4 to vq-f16) a `VQGAN`. All
sizes are read from the tensors. Files that also hold other networks, such as all of Stable
Diffusion, are read as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.core.errors import UserError, missing_extra
from workbench.core.image_size import Side
from workbench.core.printable import printable
from workbench.storage.files import DamagedError, is_count, is_number, parse_json, read_bytes
from workbench.storage.foreign_weights import read_checkpoint, read_weights
from workbench.storage.published import Address, weight_file
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.pretrained.base import LatentScale, Pretrained
from workbench.tokenizers.pretrained.conv_layout import (
    CODEBOOK,
    DEFAULT_SIDE,
    autoencoder_settings,
    build_kl,
    build_vq,
    left_out_note,
    split_unused,
)

FIRST_STAGE = "first_stage_model."  # before the names of the autoencoder in a larger model
CONFIG_NAMES = ("config.json", "config.yaml", "model.yaml")  # next to the weights
STATISTICS_NAMES = ("latents_stats.safetensors", "latents_stats.pt")
HUB_WEIGHTS = ("*.safetensors", "*.ckpt", "*.pt", "*.pth")
# Settings of the original code, by our names.
ORIGINAL_NAMES = {
    "channels": "in_channels",
    "dim": "embed_dim",
    "z_channels": "z_channels",
    "width": "ch",
    "multipliers": "ch_mult",
    "blocks": "num_res_blocks",
}
SIDE_NOTE = f"The file does not contain the side of the images; {DEFAULT_SIDE} pixels are assumed."
SCALE_NAMES = ("scaling_factor", "scale_factor")
# Factors for the latents of whole diffusion models, by the names of their text encoders.
DIFFUSION_MODELS = {"cond_stage_model.": 0.18215, "conditioner.embedders.": 0.13025}


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """Facts about a published file, which is recognized by its name and its sizes."""

    name: str  # how the name of the file starts
    multipliers: tuple[int, ...]
    z_channels: int
    factor: float | None = None  # latents are multiplied by it for diffusion
    license: str


PUBLISHED_FILES = (
    PublishedFile(
        name="vavae-imagenet256-f16d32", multipliers=(1, 1, 2, 2, 4), z_channels=32, license="MIT"
    ),
    PublishedFile(
        name="kl16", multipliers=(1, 1, 2, 2, 4), z_channels=16, factor=0.2325, license="MIT"
    ),
    PublishedFile(
        name="vae-ft-ema-560000",
        multipliers=(1, 2, 4, 4),
        z_channels=4,
        factor=0.18215,
        license="MIT",
    ),
    PublishedFile(
        name="vae-ft-mse-840000",
        multipliers=(1, 2, 4, 4),
        z_channels=4,
        factor=0.18215,
        license="MIT",
    ),
    PublishedFile(
        name="sdxl_vae", multipliers=(1, 2, 4, 4), z_channels=4, factor=0.13025, license="MIT"
    ),
)


def load(
    address: Address,
    *,
    revision: str | None = None,
    file: str | None = None,
    config: str | None = None,
    side: Side | None = None,
    scale: float | None = None,
    posterior: Literal["mean", "sample"] = "mean",
    seed: int = 0,
) -> Pretrained:
    """Load a KL or VQ autoencoder.

    Parameters
    ----------
    address : Address
        A file, a folder with one file of weights, or a repository on the hub.
    revision : str, optional
        A branch, tag or commit on the hub.
    file : str, optional
        The file of weights in a folder or repository that has several.
    config : str, optional
        A YAML or JSON file with the settings of the original code, for what shapes do not contain:
        the side of the images (`resolution`) and the scaling factor of latents. By default,
        config.json, config.yaml or model.yaml in the folder.
    side : int or ImageSize, optional
        Height and width of the images in pixels, if they are not those of the configuration.
    scale : float, optional
        The factor by which latents are multiplied for diffusion.
    posterior : {"mean", "sample"}
        The latents of a KL autoencoder.
    seed : int
        Seed of the samples. The same image always gets the same sample.

    Raises
    ------
    UserError
        If a file is missing or damaged, does not fit the layout, or an option is not valid.
    """
    if scale is not None and scale <= 0:
        raise UserError(f"scale must be greater than 0, got {scale}.")
    location = address.resolve(_hub_patterns(file, config), revision=revision)
    path = _weight_file(location, file)
    config_path = _config_file(location, config)
    original = {} if config_path is None else _original_settings(config_path)
    checkpoint = read_weights(path)
    weights, notes = _autoencoder_weights(path, checkpoint)
    settings = autoencoder_settings(path, weights)
    notes += _contradictions(settings, original)
    published = _recognize(path, settings)
    if side is None and published is None and "resolution" not in original:
        notes += (SIDE_NOTE,)
    settings["side"] = side or original.get("resolution", settings["side"])
    tokenizer: Tokenizer
    if CODEBOOK in weights:
        if posterior == "sample":
            raise UserError(f"{printable(path)} is a VQ autoencoder, which has no posterior.")
        tokenizer = build_vq(path, weights, settings | {"cosine": False})
    else:
        sample_seed = seed if posterior == "sample" else None
        tokenizer, more_notes = build_kl(path, weights, settings | {"sample_seed": sample_seed})
        notes += more_notes
    statistics = _statistics_file(path)
    latent_scale = _factor_scale(scale)
    if latent_scale is None and statistics is not None:
        latent_scale = _read_statistics(statistics, settings["dim"])
    if latent_scale is None:
        latent_scale = _factor_scale(original.get("scale") or _diffusion_factor(checkpoint))
    if latent_scale is None and published is not None:
        latent_scale = _factor_scale(published.factor)
    return Pretrained(
        tokenizer=tokenizer,
        files=tuple(f for f in (path, config_path, statistics) if f is not None),
        side=settings["side"],
        channels=settings["channels"],
        flexible=True,
        resize="adm",
        scale=latent_scale,
        license=None if published is None else published.license,
        notes=notes,
    )


def _hub_patterns(file: str | None, config: str | None) -> list[str]:
    weights = HUB_WEIGHTS if file is None else (file,)
    return [*weights, *STATISTICS_NAMES, *(CONFIG_NAMES if config is None else (config,))]


def _weight_file(location: Path, file: str | None) -> Path:
    if file is None:
        return weight_file(location)
    path = location / file
    if not path.is_file():
        raise UserError(f"{printable(location)} has no file `{file}`.")
    return path


def _config_file(location: Path, config: str | None) -> Path | None:
    """Return the configuration that is named, or one in the folder."""
    if config is not None:
        candidates = [Path(config).expanduser(), location / config]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise UserError(f"There is no configuration {printable(config)}.")
        return path
    if not location.is_dir():
        return None
    return next((location / name for name in CONFIG_NAMES if (location / name).is_file()), None)


def _statistics_file(path: Path) -> Path | None:
    candidates = (path.with_name(name) for name in STATISTICS_NAMES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _autoencoder_weights(
    path: Path, checkpoint: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Select the tensors of the autoencoder, and describe the others."""
    if any("down_blocks." in name for name in checkpoint):
        raise UserError(
            f"{printable(path)} has the layout of diffusers. Give diffusers:FOLDER, where the "
            "folder contains this file and its config.json."
        )
    if any("conv_blocks." in name for name in checkpoint):
        raise UserError(f"{printable(path)} has the layout of LlamaGen. Give llamagen:FILE.")
    weights = {
        name.removeprefix(FIRST_STAGE): tensor
        for name, tensor in checkpoint.items()
        if name.startswith(FIRST_STAGE)
    }
    if not weights:
        return split_unused(checkpoint)
    weights, notes = split_unused(weights)
    other_names = [name for name in checkpoint if not name.startswith(FIRST_STAGE)]
    return weights, notes + left_out_note(other_names)


def _original_settings(path: Path) -> dict[str, Any]:
    """Read the settings of the original code that are used or compared."""
    content = _parse(path)
    flat: dict[str, Any] = {}
    _collect(content, flat)
    settings = {setting: flat[name] for setting, name in ORIGINAL_NAMES.items() if name in flat}
    if "multipliers" in settings and isinstance(settings["multipliers"], list):
        settings["multipliers"] = tuple(settings["multipliers"])
    if "resolution" in flat:
        if not is_count(flat["resolution"]) or not flat["resolution"]:
            raise UserError(
                f"resolution in {printable(path)} must be a number of pixels, "
                f"got `{flat['resolution']}`."
            )
        settings["resolution"] = flat["resolution"]
    factor = next((flat[name] for name in SCALE_NAMES if name in flat), None)
    if factor is not None:
        if not is_number(factor) or not 0 < factor < float("inf"):
            raise UserError(
                f"The scaling factor in {printable(path)} must be a number greater than 0, "
                f"got `{factor}`."
            )
        settings["scale"] = float(factor)
    return settings


def _parse(path: Path) -> Any:
    content = read_bytes(path)
    if path.suffix == ".json":
        try:
            return parse_json(content)
        except DamagedError as error:
            raise UserError(f"{printable(path)} is not valid JSON: {error}.") from None
    try:
        import yaml
    except ImportError:
        raise missing_extra("pyyaml", "train", "Reading a YAML file") from None
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{printable(path)} is not valid YAML: {reason}.") from None


def _collect(node: Any, flat: dict[str, Any]) -> None:
    """Collect the settings of nested sections; the first of equal names counts."""
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        if isinstance(value, dict):
            _collect(value, flat)
        else:
            flat.setdefault(str(name), value)


def _contradictions(settings: Mapping[str, Any], original: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"The configuration has {name} {original[setting]}, but the tensors have "
        f"{settings[setting]}, which is used."
        for setting, name in ORIGINAL_NAMES.items()
        if setting in original and original[setting] != settings[setting]
    )


def _recognize(path: Path, settings: Mapping[str, Any]) -> PublishedFile | None:
    for published in PUBLISHED_FILES:
        has_sizes = (published.multipliers, published.z_channels) == (
            settings["multipliers"],
            settings["z_channels"],
        )
        if path.name.startswith(published.name) and has_sizes:
            return published
    return None


def _diffusion_factor(checkpoint: Mapping[str, Tensor]) -> float | None:
    """Return the factor of the diffusion model that the file contains, if it is a known one."""
    if not any(name.startswith(FIRST_STAGE) for name in checkpoint):
        return None
    for prefix, factor in DIFFUSION_MODELS.items():
        if any(name.startswith(prefix) for name in checkpoint):
            return factor
    return None


def _factor_scale(factor: float | None) -> LatentScale | None:
    return None if factor is None else LatentScale(std=(1 / factor,))


def _read_statistics(path: Path, dim: int) -> LatentScale:
    """Read the mean and the standard deviation of each channel of the latents."""
    content = read_checkpoint(path)
    values = {}
    for name in ("mean", "std"):
        tensor = content.get(name)
        if not isinstance(tensor, Tensor) or tensor.numel() not in (1, dim):
            raise UserError(f"{printable(path)} must contain `{name}` with one number per channel.")
        if not torch.isfinite(tensor).all() or (name == "std" and not (tensor > 0).all()):
            raise UserError(f"{name} in {printable(path)} must be finite, and std greater than 0.")
        values[name] = tuple(tensor.double().flatten().tolist())
    return LatentScale(mean=values["mean"], std=values["std"])
