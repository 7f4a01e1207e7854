"""Published SoftVQ-VAEs, such as `softvq:SoftVQVAE/softvq-l-64`.

The weights are those of an ordinary `SoftVQ`, which can also be trained further. Tokens that
`active` excludes are masked in the decoder's attention; the published decoders were never trained
with fewer tokens.
"""

from typing import Any

from workbench.storage.files import is_finite
from workbench.storage.published import Address
from workbench.tokenizers.pretrained.base import Pretrained
from workbench.tokenizers.pretrained.checkpoint import Checkpoint, build
from workbench.tokenizers.pretrained.continuous_tokenizer import Layout, latent_scale
from workbench.tokenizers.softvq import SoftVQ

CODEBOOK = "quantize.embedding"


def load(address: Address, *, revision: str | None = None) -> Pretrained:
    """Load a SoftVQ-VAE.

    Parameters
    ----------
    address : Address
        A hub id, or a folder with config.json and model.safetensors.
    revision : str, optional
        A branch, tag or commit on the hub.

    Returns
    -------
    Pretrained
        A `SoftVQ` with the published weights.

    Raises
    ------
    UserError
        If the checkpoint cannot be found, is damaged, or is not a SoftVQ-VAE.
    """
    checkpoint = Checkpoint.read(address, revision=revision)
    if CODEBOOK not in checkpoint.weights:
        raise checkpoint.refuse(
            f"it has no {CODEBOOK}, so that it is not a SoftVQ-VAE. If it is a MAETok, its address "
            f"is maetok:{address.location}."
        )
    num_codebooks, codebook_size, _ = checkpoint.shape(CODEBOOK, "codebooks codes dim")
    layout = Layout.of(checkpoint)
    codebook_shape = (num_codebooks, codebook_size, layout.dim)
    checkpoint.check(layout.shapes() | {CODEBOOK: codebook_shape}, unused=layout.is_unused)
    config = SoftVQ.Config(
        **layout.settings,
        num_codebooks=num_codebooks,
        codebook_size=codebook_size,
        temperature=_temperature(checkpoint),
    )
    weights = layout.convert(checkpoint.weights)
    weights["quantizer.codebook"] = checkpoint.weights[CODEBOOK]
    notes = layout.notes(checkpoint, codebook_size=codebook_size, num_codebooks=num_codebooks)
    return Pretrained(
        tokenizer=build(SoftVQ, config, weights),
        files=checkpoint.files,
        side=layout.side,
        channels=layout.channels,
        scale=latent_scale(checkpoint),
        notes=notes,
    )


def _temperature(checkpoint: Checkpoint) -> float:
    """Return the temperature of the softmax over cosines, which no tensor contains."""
    if checkpoint.config.get("codebook_l2_norm") is not True:
        raise checkpoint.refuse("codebook_l2_norm must be true in config.json.")
    tau: Any = checkpoint.config.get("tau")
    if not is_finite(tau) or tau <= 0:
        raise checkpoint.refuse(f"tau in config.json must be a positive number, got {tau}.")
    return float(tau)
