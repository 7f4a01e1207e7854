"""Published TiToks, such as `titok:yucornetto/tokenizer_titok_l32_imagenet`.

The three published layouts load as a `TiTok` (the first release, and 8K codes) or a `TiTokVAE`.
Tokens that `active` excludes are masked in the decoder's attention; the published decoders were
never trained with fewer tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from workbench.storage.published import Address
from workbench.tokenizers.pretrained.base import Pretrained
from workbench.tokenizers.pretrained.checkpoint import Checkpoint, Shapes, build, linear, norm
from workbench.tokenizers.titok import TiTok, TiTokVAE

Weights = Mapping[str, Tensor]

HEAD_WIDTH = 64
LICENSE = "Apache-2.0"
CODEBOOK = "quantize.embedding.weight"
PIXEL_CODEBOOK = "pixel_quantize.embedding.weight"
MODEL_SIZES = {"small": (512, 8), "base": (768, 12), "large": (1024, 24)}  # width and depth
# The values of settings that a configuration does not have.
CONFIG_DEFAULTS = {"quantize_mode": "vq", "is_legacy": True, "finetune_decoder": True}


def load(address: Address, *, revision: str | None = None) -> Pretrained:
    """Load a TiTok.

    Parameters
    ----------
    address : Address
        A hub id, or a folder with config.json and model.safetensors.
    revision : str, optional
        A branch, tag or commit on the hub.

    Returns
    -------
    Pretrained
        A `TiTok` or a `TiTokVAE` with the published weights.

    Raises
    ------
    UserError
        If the checkpoint cannot be found, is damaged, or is not a TiTok.
    """
    checkpoint = Checkpoint.read(address, revision=revision)
    layout = Layout.of(checkpoint)
    checkpoint.check(layout.shapes(), unused=lambda name: False)
    weights = layout.convert(checkpoint.weights)
    if layout.codes:
        config: Any = TiTok.Config(
            **layout.settings, cosine=_normalizes_codes(checkpoint), learn="gradient", revive=0.0
        )
        tokenizer = build(TiTok, config, weights)
    else:
        tokenizer = build(TiTokVAE, TiTokVAE.Config(**layout.settings), weights)
    return Pretrained(
        tokenizer=tokenizer,
        files=checkpoint.files,
        side=layout.side,
        channels=layout.channels,
        resize="bicubic",
        license=LICENSE,
        notes=layout.notes(checkpoint),
    )


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """The other VQGAN of the first release.

    Attributes
    ----------
    codes, dim : int
        Number of codewords, and channels of each.
    widths : tuple of int
        Channels of each level, from the coarsest to the finest.
    """

    codes: int
    dim: int
    widths: tuple[int, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "PixelLayout":
        """Read the sizes."""
        codes, dim = checkpoint.shape(PIXEL_CODEBOOK, "codes dim")
        levels = checkpoint.depth("pixel_decoder.up")
        widths = [
            checkpoint.shape(f"pixel_decoder.up.{level}.block.0.conv1.weight", "out in 3 3")[0]
            for level in reversed(range(levels))
        ]
        return cls(codes=codes, dim=dim, widths=tuple(widths))

    def blocks(self) -> dict[str, tuple[str, int, int]]:
        """Return this package's name, input and output channels of each published block."""
        first = self.widths[0]
        levels = len(self.widths)
        blocks = {f"mid.{index}": (f"middle.{index}", first, first) for index in range(2)}
        in_width = first
        for index, width in enumerate(self.widths):
            published = f"up.{levels - 1 - index}.block"
            blocks[f"{published}.0"] = (f"levels.{index}.0", in_width, width)
            blocks[f"{published}.1"] = (f"levels.{index}.1", width, width)
            in_width = width
        return blocks

    def names(self, channels: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return this package's name and the shape of each published tensor."""
        first = self.widths[0]
        last = self.widths[-1]
        levels = len(self.widths)
        names: dict[str, tuple[str, tuple[int, ...]]] = {}

        def add(published: str, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
            for part, shape in shapes.items():
                names[f"pixel_decoder.{published}{part}"] = (f"{name}{part}", shape)

        add("conv_in", "conv_in", _convolution("", self.dim, first))
        for published, (name, in_width, width) in self.blocks().items():
            add(f"{published}.norm1", f"{name}.norm_1", norm("", in_width))
            add(f"{published}.norm2", f"{name}.norm_2", norm("", width))
            add(f"{published}.conv1", f"{name}.conv_1", {".weight": (width, in_width, 3, 3)})
            add(f"{published}.conv2", f"{name}.conv_2", {".weight": (width, width, 3, 3)})
            if in_width != width:
                shape = (width, width, 1, 1)
                add(f"{published}.nin_shortcut", f"{name}.shortcut", {".weight": shape})
        for index, width in enumerate(self.widths[:-1]):
            published = f"up.{levels - 1 - index}.upsample_conv"
            add(published, f"upsample_convs.{index}", _convolution("", width, width))
        add("norm_out", "norm_out", norm("", last))
        add("conv_out", "conv_out", _convolution("", last, channels))
        return names


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes of a checkpoint, from the shapes of its tensors.

    Attributes
    ----------
    grid : int
        Patches per row and per column of an image.
    patch : int
        Side of a patch in pixels.
    channels : int
        Color channels.
    num_tokens, dim : int
        Number of latents, and channels of each.
    width, depth, decoder_width, decoder_depth : int
        Sizes of the transformers.
    codes : int
        Codewords; 0 for a VAE.
    pixels : PixelLayout or None
        The other VQGAN of the first release.
    """

    grid: int
    patch: int
    channels: int
    num_tokens: int
    dim: int
    width: int
    depth: int
    decoder_width: int
    decoder_depth: int
    codes: int
    pixels: PixelLayout | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Layout":
        """Read the sizes.

        Raises
        ------
        UserError
            If the network is of a kind that cannot be loaded.
        """
        weights = checkpoint.weights
        width, channels, patch, _ = checkpoint.shape(
            "encoder.patch_embed.weight", "width channels patch patch"
        )
        num_tokens, _ = checkpoint.shape("latent_tokens", "tokens width")
        rows, _ = checkpoint.shape("encoder.positional_embedding", "rows width")
        decoder_width, dim = checkpoint.shape("decoder.decoder_embed.weight", "width dim")
        if any(name.startswith("decoder.text") for name in weights):
            raise checkpoint.refuse(
                "its decoder reads text too (TA-TiTok), which is not supported."
            )
        for half, size in (("encoder", width), ("decoder", decoder_width)):
            if size % HEAD_WIDTH:
                raise checkpoint.refuse(
                    f"the width of the {half} must be a multiple of {HEAD_WIDTH}, got {size}."
                )
        is_legacy = "decoder.ffn.2.weight" in weights
        if is_legacy and PIXEL_CODEBOOK not in weights:
            raise checkpoint.refuse(
                "it is a first training stage, which ends at the codes of another VQGAN and has no "
                f"{PIXEL_CODEBOOK}."
            )
        codes = checkpoint.shape(CODEBOOK, "codes dim")[0] if CODEBOOK in weights else 0
        if is_legacy and not codes:
            raise checkpoint.refuse(f"it has decoder.ffn.2.weight, but no {CODEBOOK}.")
        return cls(
            grid=checkpoint.grid("encoder.positional_embedding", rows - 1),
            patch=patch,
            channels=channels,
            num_tokens=num_tokens,
            dim=dim,
            width=width,
            depth=checkpoint.depth("encoder.transformer"),
            decoder_width=decoder_width,
            decoder_depth=checkpoint.depth("decoder.transformer"),
            codes=codes,
            pixels=PixelLayout.of(checkpoint) if is_legacy else None,
        )

    @property
    def side(self) -> int:
        """Return the side of an image in pixels."""
        return self.grid * self.patch

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that the shapes determine."""
        settings: dict[str, Any] = {
            "side": self.side,
            "channels": self.channels,
            "patch": self.patch,
            "num_tokens": self.num_tokens,
            "dim": self.dim,
            "width": self.width,
            "depth": self.depth,
            "heads": self.width // HEAD_WIDTH,
            "decoder_width": self.decoder_width,
            "decoder_depth": self.decoder_depth,
            "decoder_heads": self.decoder_width // HEAD_WIDTH,
            "linear_init": False,
        }
        if self.codes:
            settings["codebook_size"] = self.codes
        if self.pixels is not None:
            settings |= {
                "legacy": True,
                "pixel_codes": self.pixels.codes,
                "pixel_dim": self.pixels.dim,
                "pixel_widths": self.pixels.widths,
            }
        return settings

    def shapes(self) -> Shapes:
        """Return the shapes of all tensors."""
        latent_channels = self.dim if self.codes else 2 * self.dim
        shapes: Shapes = {
            "latent_tokens": (self.num_tokens, self.width),
            "encoder.patch_embed.weight": (self.width, self.channels, self.patch, self.patch),
            "encoder.patch_embed.bias": (self.width,),
            **self._half("encoder", self.width, self.depth),
            **_convolution("encoder.conv_out", self.width, latent_channels, 1),
            **linear("decoder.decoder_embed", self.dim, self.decoder_width),
            "decoder.mask_token": (1, 1, self.decoder_width),
            **self._half("decoder", self.decoder_width, self.decoder_depth),
        }
        if self.codes:
            shapes[CODEBOOK] = (self.codes, self.dim)
        if self.pixels is None:
            numbers = self.channels * self.patch**2
            shapes |= _convolution("decoder.ffn.0", self.decoder_width, numbers, 1)
            shapes |= _convolution("decoder.conv_out", self.channels, self.channels)
            return shapes
        hidden = 2 * self.decoder_width
        shapes |= _convolution("decoder.ffn.0", self.decoder_width, hidden, 1)
        shapes |= _convolution("decoder.ffn.2", hidden, self.pixels.codes, 1)
        shapes[PIXEL_CODEBOOK] = (self.pixels.codes, self.pixels.dim)
        return shapes | {
            published: shape for published, (_, shape) in self.pixels.names(self.channels).items()
        }

    def _half(self, half: str, width: int, depth: int) -> Shapes:
        """Return the shapes of what both transformers have."""
        shapes: Shapes = {
            f"{half}.class_embedding": (1, width),
            f"{half}.positional_embedding": (1 + self.grid**2, width),
            f"{half}.latent_token_positional_embedding": (self.num_tokens, width),
            **norm(f"{half}.ln_pre", width),
            **norm(f"{half}.ln_post", width),
        }
        for index in range(depth):
            block = f"{half}.transformer.{index}"
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                **linear(f"{block}.attn.out_proj", width, width),
                **linear(f"{block}.mlp.c_fc", width, 4 * width),
                **linear(f"{block}.mlp.c_proj", 4 * width, width),
                **norm(f"{block}.ln_1", width),
                **norm(f"{block}.ln_2", width),
            }
        return shapes

    def convert(self, weights: Weights) -> dict[str, Tensor]:
        """Convert all tensors to those of a `TiTok` or a `TiTokVAE`.

        Parameters
        ----------
        weights : mapping of str to Tensor
            The tensors by their published names, all of the right shape.
        """
        positions = "latent_token_positional_embedding"
        kernel = weights["encoder.patch_embed.weight"]
        encoder = {
            "embed.weight": rearrange(kernel, "width c i j -> width (i j c)"),
            "embed.bias": weights["encoder.patch_embed.bias"],
            # The position of a token is a part of it.
            "tokens": weights["latent_tokens"] + weights[f"encoder.{positions}"],
            **_linear_of(weights, "encoder.conv_out", "to_latents"),
            **_convert_half(weights, "encoder", self.depth),
        }
        decoder = {
            **_linear_of(weights, "decoder.decoder_embed", "embed"),
            "patch": weights["decoder.mask_token"][0, 0],
            "token_positions": weights[f"decoder.{positions}"],
            **_linear_of(weights, "decoder.ffn.0", "to_patches"),
            **_convert_half(weights, "decoder", self.decoder_depth),
        }
        vit = "decoder.pixels.decoder" if self.pixels is None else "decoder.vit"
        converted = {
            **{f"encoder.vit.{name}": tensor for name, tensor in encoder.items()},
            **{f"{vit}.{name}": tensor for name, tensor in decoder.items()},
        }
        if self.codes:
            converted["quantizer.codebook"] = weights[CODEBOOK][None]
            converted["quantizer.counts"] = torch.zeros(self.codes)  # of training
        if self.pixels is None:
            converted["decoder.smooth.weight"] = weights["decoder.conv_out.weight"]
            converted["decoder.smooth.bias"] = weights["decoder.conv_out.bias"]
            return converted
        converted |= _linear_of(weights, "decoder.ffn.2", "decoder.to_logits")
        converted["decoder.pixel_codebook"] = weights[PIXEL_CODEBOOK]
        for published, (name, _) in self.pixels.names(self.channels).items():
            converted[f"decoder.pixels.{name}"] = weights[published]
        return converted

    def notes(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return one sentence per setting of the configuration that the tensors contradict."""
        config = _model_config(checkpoint)
        sizes: dict[str, Any] = {
            "quantize_mode": "vq" if self.codes else "vae",
            "token_size": self.dim,
            "num_latent_tokens": self.num_tokens,
            "vit_enc_patch_size": self.patch,
            "vit_dec_patch_size": self.patch,
            "is_legacy": self.pixels is not None,
            "finetune_decoder": self.pixels is not None,
        }
        if self.codes:
            sizes["codebook_size"] = self.codes
        notes = checkpoint.contradictions(sizes, CONFIG_DEFAULTS | config)
        preprocessing = checkpoint.section("dataset", "preprocessing")
        notes += checkpoint.contradictions({"crop_size": self.side}, preprocessing)
        for key, size in (
            ("vit_enc_model_size", (self.width, self.depth)),
            ("vit_dec_model_size", (self.decoder_width, self.decoder_depth)),
        ):
            named = MODEL_SIZES.get(str(config.get(key)), size)
            if named != size:
                notes += (
                    f"According to config.json, {key} is {config[key]}; its tensors have width "
                    f"{size[0]} and depth {size[1]}, which are used.",
                )
        return notes


def _convert_half(weights: Weights, half: str, depth: int) -> dict[str, Tensor]:
    """Convert what both transformers have."""
    positions = weights[f"{half}.positional_embedding"]
    converted = {
        "class_token": weights[f"{half}.class_embedding"] + positions[:1],
        "patch_positions": positions[1:],
        **_linear_of(weights, f"{half}.ln_pre", "norm_input"),
        **_linear_of(weights, f"{half}.ln_post", "norm"),
    }
    for index in range(depth):
        published = f"{half}.transformer.{index}"
        block = f"blocks.{index}"
        converted[f"{block}.attention.project_in.weight"] = weights[
            f"{published}.attn.in_proj_weight"
        ]
        converted[f"{block}.attention.project_in.bias"] = weights[f"{published}.attn.in_proj_bias"]
        for name, ours in (
            ("attn.out_proj", "attention.project_out"),
            ("mlp.c_fc", "mlp.0"),
            ("mlp.c_proj", "mlp.2"),
            ("ln_1", "norm_1"),
            ("ln_2", "norm_2"),
        ):
            converted |= _linear_of(weights, f"{published}.{name}", f"{block}.{ours}")
    return converted


def _linear_of(weights: Weights, published: str, name: str) -> dict[str, Tensor]:
    """Return weight and bias of a layer; a 1 x 1 convolution is a linear layer."""
    weight = weights[f"{published}.weight"]
    return {
        f"{name}.weight": weight[..., 0, 0] if weight.ndim == 4 else weight,
        f"{name}.bias": weights[f"{published}.bias"],
    }


def _convolution(name: str, in_channels: int, out_channels: int, kernel: int = 3) -> Shapes:
    return {
        f"{name}.weight": (out_channels, in_channels, kernel, kernel),
        f"{name}.bias": (out_channels,),
    }


def _model_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the part of the configuration that describes the tokenizer."""
    config = checkpoint.section("model", "vq_model")
    if not config:
        raise checkpoint.refuse("config.json has no section model.vq_model.")
    return config


def _normalizes_codes(checkpoint: Checkpoint) -> bool:
    """Return True if tokens and codewords are compared as unit vectors, which no tensor reveals."""
    value = _model_config(checkpoint).get("use_l2_norm")
    if not isinstance(value, bool):
        raise checkpoint.refuse(
            f"use_l2_norm in model.vq_model of config.json must be true or false, got {value}."
        )
    return value
