"""Weights of convolutional autoencoders under the names of latent diffusion's code.

The families `ldm` and `llamagen` share this module. Sizes are read from the shapes of tensors.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.errors import UserError
from workbench.core.printable import printable
from workbench.nn.conv import ConvDecoder, ConvEncoder
from workbench.storage.foreign_weights import check_names
from workbench.tokenizers.vavae import VAVAE
from workbench.tokenizers.vqgan import VQGAN

CODEBOOK = "quantize.embedding.weight"
NORM_GROUPS = 32
DEFAULT_SIDE = 256  # pixels; weights do not contain the side of the images
# Parts of a file that are used in training or by other models only.
UNUSED_PREFIXES = (
    "colorize",
    "feat_rope.",
    "foundation_model.",
    "gan_losses.",
    "global_step",
    "linear_proj.",
    "loss.",
    "model_ema.",
    "quantize.codebook_used",
)
# Names of the parts of a block, by their names here.
RESIDUAL_PARTS = {
    "first.0": "norm1",
    "first.2": "conv1",
    "second.0": "norm2",
    "second.2": "conv2",
    "shortcut": "nin_shortcut",
}
ATTENTION_PARTS = {"norm": "norm", "project_out": "proj_out"}
QUERY_KEY_VALUE = ("q", "k", "v")


def autoencoder_settings(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the settings of `ConvConfig` from the shapes of tensors.

    Parameters
    ----------
    path : Path
        The file, for messages.
    weights : mapping of str to Tensor
        Tensors under the names of latent diffusion.

    Raises
    ------
    UserError
        If the tensors are not those of a convolutional autoencoder that can be built here.
    """
    name = printable(path)
    required = ("encoder.conv_in.weight", "decoder.conv_in.weight")
    if not all(entry in weights for entry in required):
        raise UserError(
            f"{name} does not hold a convolutional autoencoder in the layout of latent diffusion: "
            f"{' or '.join(required)} is missing."
        )
    if "encoder.conv_in.bias" not in weights:
        raise UserError(
            f"{name} is the VQGAN of MAGE, another network with similar names, which cannot be "
            "loaded. Give a checkpoint of taming-transformers or latent diffusion."
        )
    width, channels = _channels(path, weights, "encoder.conv_in")
    blocks = _indices(weights, r"encoder\.down\.0\.block\.(\d+)\.conv2\.weight")
    levels = _indices(weights, r"encoder\.down\.(\d+)\.block\.0\.conv2\.weight")
    if not levels or levels != list(range(len(levels))):
        raise UserError(f"{name} is incomplete: encoder.down has the levels {levels}.")
    widths = [
        _channels(path, weights, f"encoder.down.{level}.block.0.conv2")[0] for level in levels
    ]
    if width % NORM_GROUPS or any(level_width % width for level_width in widths):
        raise UserError(
            f"{name} has levels of {', '.join(map(str, widths))} channels; they must be multiples "
            f"of the {width} channels of encoder.conv_in and of {NORM_GROUPS}."
        )
    if widths[0] != width:
        raise UserError(
            f"{name} has {width} channels in encoder.conv_in and {widths[0]} in the first level, "
            "which must be equal here."
        )
    z_channels = _channels(path, weights, "decoder.conv_in")[1]
    dim = z_channels
    if "post_quant_conv.weight" in weights:
        dim = _channels(path, weights, "post_quant_conv")[1]
    return {
        "side": DEFAULT_SIDE,
        "channels": channels,
        "dim": dim,
        "z_channels": z_channels,
        "width": width,
        "multipliers": tuple(level_width // width for level_width in widths),
        "blocks": len(blocks),
        "linear_init": False,
        "padding": "bottom_right",
        "encoder_attention": tuple(
            _indices(weights, r"encoder\.down\.(\d+)\.attn\.0\.norm\.weight")
        ),
        "decoder_attention": tuple(_indices(weights, r"decoder\.up\.(\d+)\.attn\.0\.norm\.weight")),
        "middle_attention": "encoder.mid.attn_1.norm.weight" in weights,
        "flexible": True,
    }


def build_kl(
    path: Path, weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[VAVAE, tuple[str, ...]]:
    """Return a KL autoencoder with these weights, and notes.

    Parameters
    ----------
    path : Path
        The file, for messages.
    weights : mapping of str to Tensor
        Tensors under the names of latent diffusion, without unused entries.
    settings : mapping
        Settings of the configuration.

    Raises
    ------
    UserError
        If entries are missing, unknown or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        model = VAVAE(VAVAE.Config(**settings, align_weight=0.0))
    model.respects_active = False  # its decoder was trained with all tokens
    views = autoencoder_views(model.encoder, model.decoder)
    notes: tuple[str, ...] = ()
    if not any(name.startswith(("quant_conv.", "post_quant_conv.")) for name in weights):
        weights = dict(weights) | _identity_maps(views)
        notes = ("The file has no quant_conv and post_quant_conv, which are then the identity.",)
    copy_weights(path, weights, views)
    return model, notes


def build_vq(path: Path, weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> VQGAN:
    """Return a VQ autoencoder with these weights; see `build_kl`."""
    codebook = weights[CODEBOOK]
    if codebook.ndim != 2 or not len(codebook):
        raise UserError(
            f"{CODEBOOK} in {printable(path)} must have one row per codeword, "
            f"got the shape {tuple(codebook.shape)}."
        )
    with torch.random.fork_rng(devices=[]):
        model = VQGAN(
            VQGAN.Config(**settings, codebook_size=len(codebook), learn="gradient", revive=0.0)
        )
    model.respects_active = False  # its decoder was trained with all tokens
    views = autoencoder_views(model.encoder, model.decoder)
    views[CODEBOOK] = model.quantizer.codebook.data[0]
    copy_weights(path, weights, views)
    return model


def copy_weights(path: Path, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
    """Copy the tensors of a file into the parameters that have their names.

    Parameters
    ----------
    path : Path
        The file, for messages.
    weights : mapping of str to Tensor
        The tensors. Attention maps may be matrices instead of 1x1 convolutions.
    views : mapping of str to Tensor
        Views of the parameters under the names of the file.

    Raises
    ------
    UserError
        If entries are missing, unknown or of another shape.
    """
    shaped = {
        name: tensor[..., None, None]
        if tensor.ndim == 2 and _is_convolution(views, name)
        else tensor
        for name, tensor in weights.items()
    }
    check_names(path, shaped, views)
    for name, view in views.items():
        view.copy_(shaped[name])


def autoencoder_views(encoder: ConvEncoder, decoder: ConvDecoder) -> dict[str, Tensor]:
    """Return views of all parameters under the names of latent diffusion.

    Parameters
    ----------
    encoder, decoder : nn.Module
        The two halves, without a linear map between tokens and pixels.
    """
    return _views(encoder, encoder.ldm_names) | _views(decoder, decoder.ldm_names)


def split_unused(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Separate the entries that an autoencoder does not use, and describe them in a note."""
    unused = [name for name in weights if name.startswith(UNUSED_PREFIXES)]
    used = {name: tensor for name, tensor in weights.items() if name not in set(unused)}
    return used, left_out_note(unused)


def left_out_note(names: Iterable[str]) -> tuple[str, ...]:
    """Return a note that counts entries by the first part of their name; none without entries."""
    counts = Counter(name.split(".")[0] for name in names)
    if not counts:
        return ()
    groups = ", ".join(f"{group} ({count})" for group, count in sorted(counts.items()))
    return (f"Entries of the file that are not used here: {groups}.",)


def _views(half: nn.Module, ldm_names: Mapping[str, str]) -> dict[str, Tensor]:
    views: dict[str, Tensor] = {}
    for path, parameter in half.named_parameters():
        layer = next(layer for layer in ldm_names if path.startswith(f"{layer}."))
        part, _, kind = path.removeprefix(f"{layer}.").rpartition(".")
        name = ldm_names[layer]
        if part == "project_in":
            for letter, rows in zip(QUERY_KEY_VALUE, parameter.data.chunk(3), strict=True):
                views[f"{name}.{letter}.{kind}"] = rows
        else:
            names = [name, (RESIDUAL_PARTS | ATTENTION_PARTS).get(part, part), kind]
            views[".".join(word for word in names if word)] = parameter.data
    return views


def _identity_maps(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    maps: dict[str, Tensor] = {}
    for layer in ("quant_conv", "post_quant_conv"):
        out, channels = views[f"{layer}.weight"].shape[:2]
        maps[f"{layer}.weight"] = torch.eye(out, channels)[..., None, None]
        maps[f"{layer}.bias"] = torch.zeros(out)
    return maps


def _channels(path: Path, weights: Mapping[str, Tensor], layer: str) -> tuple[int, int]:
    """Return the output and input channels of a convolution."""
    shape = tuple(weights[f"{layer}.weight"].shape)
    if len(shape) != 4 or not all(shape):
        raise UserError(
            f"{layer}.weight in {printable(path)} must be the weight of a convolution, "
            f"got the shape {shape}."
        )
    return shape[0], shape[1]


def _is_convolution(views: Mapping[str, Tensor], name: str) -> bool:
    return name in views and views[name].ndim == 4


def _indices(weights: Iterable[str], pattern: str) -> list[int]:
    matches = (re.fullmatch(pattern, name) for name in weights)
    return sorted(int(match[1]) for match in matches if match)
