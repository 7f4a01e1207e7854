"""Presets of DiT, SiT and LightningDiT: settings of `transformer.SiT.Config` by paper.

None of them is the official model: the sizes are smaller, and a token is a patch of its own. The
recipes for ImageNet (`launch.recipes`) follow the papers' code.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv:2401.08740, trained at logit-normal times, like SoftVQ-VAE's and MAETok's generators;
    # the paper's times are uniform.
    "sit": {},
    # arXiv:2212.09748, on the cosine schedule, like SoftVQ-VAE's DiT, in continuous time and
    # without learned variances. The paper has `path="ddpm-linear"`, `times="timesteps"`,
    # `time_embedding="timestep"`, `learned_variance=True` and `solver="ddpm"`.
    "dit": {"path": "cosine", "predict": "noise", "times": "uniform"},
    # arXiv:2501.01423. QK-norm is off, as in its code. By default the time embedding reads 1000 t;
    # `time_embedding`, `reversed_time` and `stored_positions` give those of its code, and
    # `guided_channels` its guidance on 3 channels. Guidance is not applied to the noisiest tenth
    # of the times.
    "lightningdit": {
        "by_channel": True,
        "norm": "rms",
        "mlp": "swiglu",
        "positions": "sines+rope",
        "direction_weight": 1.0,
        "shift": 1 / 0.3,
        "interval": (0.0, 0.9),
    },
}
