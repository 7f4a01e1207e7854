"""The networks of the released SoftVQ-VAE, MAETok, VA-VAE and SiT, at the sizes of a scale.

Small models still start as linear autoencoders. Discriminators, perceptual terms and pretrained
weights are left out, which need larger images, and so is augmentation: the trainings of a laptop
see each image about twice. Each autoencoder has the network of the tokenizer that it is compared
with.
"""

from collections.abc import Mapping
from typing import Any

from workbench.launch.recipes import CODE

SOFTVQ = {
    "encoder_class_token": True,
    "decoder_class_token": True,
    "norm_eps": 1e-6,
    "layer_scale": 1e-5,
}
MAETOK = {
    "encoder_class_token": True,
    "norm_eps": 1e-6,
    "layer_scale": 1e-5,
    "rotary": True,
    "modulated": True,
}
NETWORKS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("softvq", "vqvae"), SOFTVQ),
    **dict.fromkeys(("ae", "klvae"), MAETOK),
    "maetok": MAETOK | {"aux_heads": 3},
    "sit": CODE | {"mlp": "gelu-tanh"},
}


def released_network(system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the released network of a system; none: there is nothing to change.

    Parameters
    ----------
    system : str
        The system, as in `workbench.launch.recipes.SYSTEMS`.
    settings : mapping
        Its settings at the scale. The attention of VA-VAE is at the coarsest of its levels.
    """
    if system != "vavae":
        return NETWORKS.get(system, {})
    coarsest = len(settings["multipliers"]) - 1
    return {
        "padding": "bottom_right",
        "encoder_attention": [coarsest],
        "decoder_attention": [coarsest],
    }
