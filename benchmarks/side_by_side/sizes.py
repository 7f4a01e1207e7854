"""How large everything is that is compared: as a laptop's processor can wait for, and as fills a GPU."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Size:
    """The defaults are those of a processor."""

    images: int = 64  # a batch of a tokenizer
    vit: dict[str, int] = field(default_factory=dict)  # changes of the ViT tokenizers' own sizes
    conv: dict[str, Any] = field(default_factory=lambda: {"width": 32, "multipliers": (1, 2, 2)})
    conv_images: int = 32
    latents: int = 32  # a batch of a generator
    rows: int = 8  # of the latents' grid: 64 tokens
    channels: int = 16  # of a token
    generator: dict[str, int] = field(
        default_factory=lambda: {"width": 192, "depth": 6, "heads": 6}
    )
    solver: int = 10  # steps of Euler's method
    tokens: tuple[int, int] = (64, 16)  # images, and tokens an image, that are quantized
    codes: tuple[int, ...] = (1024, 16384, 65536)  # K; see quantizers.LEVELS
    looked_up: tuple[int, int] = (20_000, 4096)  # tokens, and codes they are looked up in
    clustered: tuple[int, int, int] = (65_536, 1024, 10)  # features, codes, rounds
    two_level: tuple[int, int, int] = (81_920, 8192, 5)
    mixed: int = 1000  # points of Gaussian mixtures
    modes: int = 16  # at most
    probed: int = 1797  # digits that a linear probe reads
    mapped: int = 5000  # points laid out in the plane


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
        tokens=(256, 64),
        codes=(1024, 16384),
    ),
}
