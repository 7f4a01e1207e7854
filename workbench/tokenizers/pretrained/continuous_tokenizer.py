"""The checkpoint format that SoftVQ-VAE and MAETok share.

One public program trains both. Its encoder and decoder are vision transformers of timm with further
tokens, so that the names and layouts of most tensors are timm's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from workbench.storage.files import is_finite
from workbench.tokenizers.pretrained.base import LatentScale
from workbench.tokenizers.pretrained.checkpoint import Checkpoint, Shapes, linear, norm

Weights = Mapping[str, Tensor]

HEAD_WIDTH = 64
NORM_EPS = 1e-6
# Tensors of training, and buffers. They may be there or not.
UNUSED = (
    "*coder.freqs_t_[xy]",
    "clip_model.*",
    "decoder.model.norm.adaLN_modulation.*",  # of the rows of tokens, which are not read
    "decoder.model.patch_embed.*",
    "decoder_clip.*",
    "decoder_dino.*",
    "decoder_hog.*",
    "encoder.mask_token",
    "hog_generator.*",
    "post_quant_conv_*",
    "projection.*",
    "quantize.codebook_used",
    "repa_model.*",
    "to_pixel_*",
)
UNSUPPORTED_BACKBONES = ("clip", "eva02", "sam")
BACKBONES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width and depth


@dataclass(frozen=True, kw_only=True)
class Half:
    """The transformer of the encoder or of the decoder.

    Attributes
    ----------
    name : {"encoder", "decoder"}
        The half.
    width, depth : int
        Channels of a row, and number of blocks.
    class_token : bool
        One row before the patches.
    rotary : bool
        Learned rotary positions.
    modulated : bool
        Blocks of MAETok's decoder, which the latents modulate. They have neither gains of norms nor
        layer scale, and their patches no positions but the rotary ones.
    """

    name: str
    width: int
    depth: int
    class_token: bool
    rotary: bool
    modulated: bool

    @property
    def heads(self) -> int:
        """Return the number of attention heads."""
        return self.width // HEAD_WIDTH

    def shapes(self, *, patches: int, dim: int) -> Shapes:
        """Return the shapes of the tensors of the transformer."""
        model = f"{self.name}.model"
        shapes: Shapes = {}
        for index in range(self.depth):
            block = f"{model}.blocks.{index}"
            shapes |= linear(f"{block}.attn.qkv", self.width, 3 * self.width)
            shapes |= linear(f"{block}.attn.proj", self.width, self.width)
            shapes |= linear(f"{block}.mlp.fc1", self.width, 4 * self.width)
            shapes |= linear(f"{block}.mlp.fc2", 4 * self.width, self.width)
            if self.modulated:
                shapes |= linear(f"{block}.adaLN_modulation.1", dim, 4 * self.width)
            else:
                shapes |= norm(f"{block}.norm1", self.width) | norm(f"{block}.norm2", self.width)
                shapes |= {f"{block}.ls1.gamma": (self.width,), f"{block}.ls2.gamma": (self.width,)}
        if self.class_token:
            shapes[f"{model}.cls_token"] = (1, 1, self.width)
        if self.rotary:
            shapes[f"{self.name}.freqs"] = (2, self.depth, self.width // 2)
        if not self.modulated:
            shapes |= norm(f"{model}.norm", self.width)
            shapes[f"{model}.pos_embed"] = (1, patches + self.class_token, self.width)
        return shapes

    def convert(self, weights: Weights) -> dict[str, Tensor]:
        """Convert the tensors of the transformer to those of a half of `workbench.nn.vit`."""
        model = f"{self.name}.model"
        converted: dict[str, Tensor] = {}
        for index in range(self.depth):
            block = self._convert_block(weights, f"{model}.blocks.{index}")
            converted |= {f"blocks.{index}.{name}": tensor for name, tensor in block.items()}
        if self.class_token:
            converted["class_token"] = weights[f"{model}.cls_token"][0]
        if self.rotary:
            converted["rotary.frequencies"] = rearrange(
                weights[f"{self.name}.freqs"],
                "two depth (heads pair) -> two depth heads pair",
                heads=self.heads,
            )
        if self.modulated:
            return converted
        converted["norm.weight"] = weights[f"{model}.norm.weight"]
        converted["norm.bias"] = weights[f"{model}.norm.bias"]
        positions = weights[f"{model}.pos_embed"][0]
        if self.class_token:
            converted["class_token"] = converted["class_token"] + positions[:1]
            positions = positions[1:]
        converted["patch_positions"] = positions
        return converted

    def _convert_block(self, weights: Weights, block: str) -> dict[str, Tensor]:
        names = {
            "attention.project_in": "attn.qkv",
            "attention.project_out": "attn.proj",
            "mlp.0": "mlp.fc1",
            "mlp.2": "mlp.fc2",
        }
        if self.modulated:
            names["modulation"] = "adaLN_modulation.1"
        else:
            names |= {"norm_1": "norm1", "norm_2": "norm2"}
        converted = {
            f"{name}.{part}": weights[f"{block}.{published}.{part}"]
            for name, published in names.items()
            for part in ("weight", "bias")
        }
        if self.rotary:
            for part in ("attention.project_in.weight", "attention.project_in.bias"):
                converted[part] = split_pairs(converted[part], self.heads)
        if not self.modulated:
            # Layer scale becomes a part of the last linear layer of each branch.
            for name, scale in (("attention.project_out", "ls1"), ("mlp.2", "ls2")):
                gamma = weights[f"{block}.{scale}.gamma"]
                converted[f"{name}.weight"] = gamma[:, None] * converted[f"{name}.weight"]
                converted[f"{name}.bias"] = gamma * converted[f"{name}.bias"]
        return converted


def split_pairs(projection: Tensor, heads: int) -> Tensor:
    """Reorder the channels of queries and keys from (0, 1), (2, 3), ... to (0, half), ...

    The published program rotates neighboring channels; `apply_rotary` rotates channel i with
    channel i + half. Products of queries and keys do not depend on the order.

    Parameters
    ----------
    projection : Tensor, shape (3 * width, ...)
        Weight or bias of the projection to queries, keys and values.
    heads : int
        Number of attention heads.

    Returns
    -------
    Tensor, shape (3 * width, ...)
        The reordered weight or bias.
    """
    queries, keys, values = projection.chunk(3)
    pairs = "(heads half two) ... -> (heads two half) ..."
    queries, keys = (rearrange(part, pairs, heads=heads, two=2) for part in (queries, keys))
    return torch.cat([queries, keys, values])


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
    encoder, decoder : Half
        The transformers.
    """

    grid: int
    patch: int
    channels: int
    num_tokens: int
    dim: int
    encoder: Half
    decoder: Half

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Layout":
        """Read the sizes.

        Raises
        ------
        UserError
            If the network is of a kind that cannot be loaded.
        """
        _refuse_unsupported(checkpoint)
        width, channels, patch, _ = checkpoint.shape(
            "encoder.model.patch_embed.proj.weight", "width channels patch patch"
        )
        _, num_tokens, _ = checkpoint.shape("encoder.latent_tokens", "1 tokens width")
        _, rows, _ = checkpoint.shape("encoder.model.pos_embed", "1 rows width")
        dim, _ = checkpoint.shape("quant_conv.weight", "dim width")
        decoder_width, _ = checkpoint.shape("post_quant_conv.weight", "width dim")
        encoder = _half(checkpoint, "encoder", width)
        return cls(
            grid=checkpoint.grid("encoder.model.pos_embed", rows - encoder.class_token),
            patch=patch,
            channels=channels,
            num_tokens=num_tokens,
            dim=dim,
            encoder=encoder,
            decoder=_half(checkpoint, "decoder", decoder_width),
        )

    @property
    def side(self) -> int:
        """Return the side of an image in pixels."""
        return self.grid * self.patch

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that `SoftVQ.Config` and `MAETok.Config` share."""
        return {
            "side": self.side,
            "channels": self.channels,
            "patch": self.patch,
            "num_tokens": self.num_tokens,
            "dim": self.dim,
            "width": self.encoder.width,
            "depth": self.encoder.depth,
            "heads": self.encoder.heads,
            "decoder_width": self.decoder.width,
            "decoder_depth": self.decoder.depth,
            "decoder_heads": self.decoder.heads,
            "linear_init": False,
            "encoder_class_token": self.encoder.class_token,
            "decoder_class_token": self.decoder.class_token,
            "norm_eps": NORM_EPS,
            "rotary": self.encoder.rotary,
            "modulated": self.decoder.modulated,
        }

    def shapes(self) -> Shapes:
        """Return the shapes of all tensors that are used, without those of a quantizer."""
        pixels = self.channels * self.patch**2
        encoder, decoder = self.encoder, self.decoder
        patches = self.grid**2
        return {
            "encoder.model.patch_embed.proj.weight": (
                encoder.width,
                self.channels,
                self.patch,
                self.patch,
            ),
            "encoder.model.patch_embed.proj.bias": (encoder.width,),
            "encoder.latent_tokens": (1, self.num_tokens, encoder.width),
            "encoder.latent_pos_embed": (1, self.num_tokens, encoder.width),
            **encoder.shapes(patches=patches, dim=self.dim),
            **linear("quant_conv", encoder.width, self.dim),
            **linear("post_quant_conv", self.dim, decoder.width),
            "decoder.mask_token": (1, 1, decoder.width),
            "decoder.latent_pos_embed": (1, self.num_tokens, decoder.width),
            **decoder.shapes(patches=patches, dim=self.dim),
            **linear("decoder.to_pixel.model", decoder.width, pixels),
        }

    def is_unused(self, name: str) -> bool:
        """Return True if a tensor of this name is never used."""
        if self.decoder.modulated and name == "decoder.model.pos_embed":
            return True
        return any(fnmatchcase(name, pattern) for pattern in UNUSED)

    def convert(self, weights: Weights) -> dict[str, Tensor]:
        """Convert the tensors of both halves to those of a tokenizer with these settings.

        Parameters
        ----------
        weights : mapping of str to Tensor
            The tensors by their published names, all of the right shape.
        """
        tokens = weights["encoder.latent_tokens"] + weights["encoder.latent_pos_embed"]
        encoder = {
            "embed.weight": patch_embedding(weights["encoder.model.patch_embed.proj.weight"]),
            "embed.bias": weights["encoder.model.patch_embed.proj.bias"],
            "tokens": tokens[0],  # the position of a token is a part of it
            "to_latents.weight": weights["quant_conv.weight"],
            "to_latents.bias": weights["quant_conv.bias"],
            **self.encoder.convert(weights),
        }
        decoder = {
            "embed.weight": weights["post_quant_conv.weight"],
            "embed.bias": weights["post_quant_conv.bias"],
            "patch": weights["decoder.mask_token"][0, 0],
            "token_positions": weights["decoder.latent_pos_embed"][0],
            "to_patches.weight": weights["decoder.to_pixel.model.weight"],
            "to_patches.bias": weights["decoder.to_pixel.model.bias"],
            **self.decoder.convert(weights),
        }
        return {
            **{f"encoder.{name}": tensor for name, tensor in encoder.items()},
            **{f"decoder.decoder.{name}": tensor for name, tensor in decoder.items()},
        }

    def notes(self, checkpoint: Checkpoint, **sizes: int) -> tuple[str, ...]:
        """Return remarks for the user: contradictions of the configuration, unused tensors.

        Parameters
        ----------
        checkpoint : Checkpoint
            The configuration and the tensors of the model.
        **sizes
            Further sizes of the tensors, by their key of the configuration.
        """
        sizes |= {
            "image_size": self.side,
            "num_latent_tokens": self.num_tokens,
            "codebook_embed_dim": self.dim,
            "enc_patch_size": self.patch,
            "dec_patch_size": self.patch,
        }
        contradictions = checkpoint.contradictions(sizes, checkpoint.config)
        for half in (self.encoder, self.decoder):
            key = f"{half.name}_model"
            name = str(checkpoint.config.get(key, ""))
            named = next((size for word, size in BACKBONES.items() if f"_{word}_" in name), None)
            if named not in (None, (half.width, half.depth)):
                contradictions += (
                    f"According to config.json, {key} is {name}; its tensors have width "
                    f"{half.width} and depth {half.depth}, which are used.",
                )
        return contradictions + checkpoint.left_out(self.is_unused)


def patch_embedding(kernel: Tensor) -> Tensor:
    """Convert a convolution of patches to a linear map of their (row, column, channel) numbers."""
    return rearrange(kernel, "width c i j -> width (i j c)")


def latent_scale(checkpoint: Checkpoint) -> LatentScale | None:
    """Return the published mean and standard deviation of all latents; None without them."""
    mean = checkpoint.config.get("vq_mean")
    std = checkpoint.config.get("vq_std")
    if mean is None or std is None:
        return None
    if not is_finite(mean) or not is_finite(std) or std <= 0:
        raise checkpoint.refuse(
            f"vq_mean must be a number and vq_std a positive number, got {mean} and {std}."
        )
    return LatentScale(mean=(mean,), std=(std,))


def _half(checkpoint: Checkpoint, name: str, width: int) -> Half:
    model = f"{name}.model"
    if width % HEAD_WIDTH:
        raise checkpoint.refuse(
            f"the width of the {name} must be a multiple of {HEAD_WIDTH}, got {width}."
        )
    return Half(
        name=name,
        width=width,
        depth=checkpoint.depth(f"{model}.blocks"),
        class_token=f"{model}.cls_token" in checkpoint.weights,
        rotary=f"{name}.freqs" in checkpoint.weights,
        modulated=f"{model}.blocks.0.adaLN_modulation.1.weight" in checkpoint.weights,
    )


def _refuse_unsupported(checkpoint: Checkpoint) -> None:
    """Raise an error for a network of the same program that is not of a published kind."""
    config, weights = checkpoint.config, checkpoint.weights
    for key, supported in (("enc_type", "vit"), ("dec_type", "vit"), ("to_pixel", "linear")):
        if config.get(key, supported) != supported:
            raise checkpoint.refuse(f"{key} must be {supported}, got {config[key]}.")
    for key in ("encoder_model", "decoder_model"):
        backbone = str(config.get(key, ""))
        if any(word in backbone for word in UNSUPPORTED_BACKBONES):
            raise checkpoint.refuse(f"the {key} {backbone} is not supported.")
    if "encoder.model.reg_token" in weights or "decoder.model.reg_token" in weights:
        raise checkpoint.refuse("backbones with registers (reg_token) are not supported.")
    is_modulated = "decoder.model.blocks.0.adaLN_modulation.1.weight" in weights
    has_rotary = ["encoder.freqs" in weights, "decoder.freqs" in weights]
    if config.get("use_rope") and not any(has_rotary):
        raise checkpoint.refuse(
            "config.json has use_rope, but there are no learned frequencies (encoder.freqs)."
        )
    if len({is_modulated, *has_rotary}) > 1:
        raise checkpoint.refuse(
            "encoder.freqs, decoder.freqs and adaLN_modulation of the decoder's blocks must be "
            "there together or not at all."
        )
