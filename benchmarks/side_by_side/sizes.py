"""Sizes of everything that is compared: fast on the CPU of a laptop, or large enough for a GPU."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes on one device. The defaults are those of a CPU."""

    images: int = 64  # batch of a ViT tokenizer
    vit: dict[str, int] = field(default_factory=dict)  # changed settings of the ViT tokenizers
    conv: dict[str, Any] = field(default_factory=lambda: {"width": 32, "multipliers": (1, 2, 2)})
    conv_images: int = 32  # batch of the convolutional tokenizer
    latents: int = 32  # batch of a generator
    rows: int = 8  # rows of the latent grid: 64 tokens
    channels: int = 16  # of a token
    generator: dict[str, int] = field(
        default_factory=lambda: {"width": 192, "depth": 6, "heads": 6}
    )
    solver_steps: int = 10  # of Euler's method
    quantized: tuple[int, int] = (64, 16)  # images, and tokens per image, of a quantizer
    codebook_sizes: tuple[int, ...] = (1024, 16384, 65536)  # see quantizers.LEVELS
    nearest: tuple[int, int] = (20_000, 4096)  # tokens and codes of a nearest-code search
    kmeans: tuple[int, int, int] = (65_536, 1024, 10)  # features, codes, rounds
    two_level_kmeans: tuple[int, int, int] = (81_920, 8192, 5)  # features, codes, rounds
    mixture_points: int = 1000  # points of Gaussian mixtures
    max_modes: int = 16  # components of a mixture
    probe_images: int = 1797  # digits of a linear probe
    map_points: int = 5000  # points of a map


SIZES = {
    "cpu": Size(),
    "cuda": Size(
        images=256,
        vit={"side": 64, "num_tokens": 64, "width": 512, "depth": 6, "heads": 8},
        conv={"width": 64, "multipliers": (1, 2, 2)},
        conv_images=64,
        latents=64,
        rows=16,
        generator={"width": 768, "depth": 12, "heads": 12},
        quantized=(256, 64),
        codebook_sizes=(1024, 16384),
    ),
}
