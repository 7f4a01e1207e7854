"""Published MAEToks, such as `maetok:MAETok/maetok-b-128`.

The weights are those of an ordinary `MAETok`, which can also be trained further; its targets, the
small decoders of which are not published as weights, are off. Plain autoencoders of the same
program, which have no rotary positions and no modulated decoder, load too. Tokens that `active`
excludes are masked in the decoder's attention; the published decoders were never trained with
fewer tokens.
"""

import torch

from workbench.storage.published import Address
from workbench.tokenizers.maetok import MAETok
from workbench.tokenizers.pretrained.base import Pretrained
from workbench.tokenizers.pretrained.checkpoint import Checkpoint, build
from workbench.tokenizers.pretrained.continuous_tokenizer import Layout, latent_scale

MASK = "encoder.mask_token"


def load(address: Address, *, revision: str | None = None) -> Pretrained:
    """Load a MAETok.

    Parameters
    ----------
    address : Address
        A hub id, or a folder with config.json and model.safetensors.
    revision : str, optional
        A branch, tag or commit on the hub.

    Returns
    -------
    Pretrained
        A `MAETok` with the published weights.

    Raises
    ------
    UserError
        If the checkpoint cannot be found, is damaged, or is not a MAETok.
    """
    checkpoint = Checkpoint.read(address, revision=revision)
    if "quantize.embedding" in checkpoint.weights:
        raise checkpoint.refuse(
            "it has quantize.embedding, so that it is not a MAETok. If it is a SoftVQ-VAE, its "
            f"address is softvq:{address.location}."
        )
    layout = Layout.of(checkpoint)
    shapes = layout.shapes()
    weights = checkpoint.weights
    if MASK in weights:
        shapes[MASK] = (1, 1, layout.encoder.width)
    checkpoint.check(shapes, unused=layout.is_unused)
    config = MAETok.Config(**layout.settings, targets=())
    converted = layout.convert(weights)
    # Training alone reads the masked patch, which may be missing.
    mask = weights.get(MASK, torch.zeros(1, 1, layout.encoder.width))
    converted["mask_patch"] = mask[0, 0]
    return Pretrained(
        tokenizer=build(MAETok, config, converted),
        files=checkpoint.files,
        side=layout.side,
        channels=layout.channels,
        scale=latent_scale(checkpoint),
        notes=layout.notes(checkpoint),
    )
