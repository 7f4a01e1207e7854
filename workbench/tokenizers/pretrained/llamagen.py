"""The VQ tokenizers of LlamaGen (arXiv:2406.06525): `llamagen:FoundationVision/LlamaGen/FILE`.

The network is that of latent diffusion under other names, and becomes a `VQGAN` that compares unit
vectors. The same weights serve images of 256, 384 and 512 pixels.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from workbench.core.errors import UserError
from workbench.core.image_size import Side
from workbench.core.printable import printable
from workbench.storage.foreign_weights import read_weights
from workbench.storage.published import Address, weight_file
from workbench.tokenizers.pretrained.base import Pretrained
from workbench.tokenizers.pretrained.conv_layout import (
    CODEBOOK,
    autoencoder_settings,
    build_vq,
    split_unused,
)

PUBLISHED_NAMES = ("vq_ds8_c2i", "vq_ds16_c2i", "vq_ds16_t2i")
PATTERNS = tuple(f"{name}.pt" for name in PUBLISHED_NAMES)  # the rest are generators
LICENSE = "MIT"
MIDDLE_NAMES = {"0": "block_1", "1": "attn_1", "2": "block_2"}
DECODER_LEVEL = re.compile(r"decoder\.conv_blocks\.(\d+)\.")


def load(address: Address, *, revision: str | None = None, side: Side | None = None) -> Pretrained:
    """Load a tokenizer of LlamaGen.

    Parameters
    ----------
    address : Address
        A file, a folder with one file of weights, or a file of a repository on the hub.
    revision : str, optional
        A branch, tag or commit on the hub.
    side : int or ImageSize, optional
        Height and width of the images in pixels; 256 by default.

    Raises
    ------
    UserError
        If the file is missing or damaged, or does not fit the layout.
    """
    path = weight_file(address.resolve(PATTERNS, revision=revision))
    weights, notes = split_unused(read_weights(path))
    if CODEBOOK not in weights or not any("conv_blocks." in name for name in weights):
        raise UserError(
            f"{printable(path)} is not a tokenizer of LlamaGen: it has no {CODEBOOK}, or no "
            "conv_blocks. Give an autoencoder of latent diffusion as ldm:FILE."
        )
    weights = ldm_layout(weights)
    settings = autoencoder_settings(path, weights)
    settings["side"] = side or settings["side"]
    return Pretrained(
        tokenizer=build_vq(path, weights, settings | {"cosine": True, "pixel": "l2"}),
        files=(path,),
        side=settings["side"],
        channels=settings["channels"],
        flexible=True,
        resize="adm",
        license=LICENSE if path.stem in PUBLISHED_NAMES else None,
        notes=notes,
    )


def ldm_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the entries of a checkpoint of LlamaGen to those of latent diffusion.

    Decoder levels are numbered in the order of computation there, from the finest level here.
    """
    levels = [int(match[1]) for name in weights if (match := DECODER_LEVEL.match(name))]
    last = max(levels, default=0)

    def rename(name: str) -> str:
        name = DECODER_LEVEL.sub(lambda match: f"decoder.up.{last - int(match[1])}.", name)
        name = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
        name = re.sub(r"\.(\d+)\.res\.", r".\1.block.", name)
        return re.sub(r"\.mid\.([012])\.", lambda match: f".mid.{MIDDLE_NAMES[match[1]]}.", name)

    return {rename(name): tensor for name, tensor in weights.items()}
