"""Generators by name: what each paper changes of the one transformer, as settings of `transformer.SiT.Config`.

None of them is the official model: sizes are ours, a token is a patch of its own, and DiT's learned variance is left
out.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv:2401.08740, trained at logit-normal times as SoftVQ-VAE's and MAETok's are; the paper's are uniform.
    "sit": {},
    # arXiv:2212.09748, on the cosine schedule, as SoftVQ-VAE trains it, and in continuous time; the paper's is another.
    "dit": {"path": "cosine", "predict": "noise", "times": "uniform"},
    # arXiv:2501.01423. QK-norm is off as in its code; the time embedding reads 1000 t, where its code reads t.
    # With guidance it leaves the noisiest tenth alone.
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
