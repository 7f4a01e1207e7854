"""Recipes of published models, by their published size and name, such as `softvq-l-64`.

Each starts from the recipe of its system for ImageNet at 256 x 256 (`recipes.PAPER_SCALE`) and
changes the settings of the model: sizes of encoder and decoder, tokens, teacher, schedule. The
numbers of parameters are compared with those of the published files in tests/test_paper_recipes.py.
None of them has been trained here. The module of each system states its differences from the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.launch.recipes import recipe_settings, recipe_train_config

DINOV2_BASE = "dinov2:facebook/dinov2-base"
DINOV2_LARGE = "dinov2:facebook/dinov2-large"
# The sizes of vision transformers in the papers; S has the width and depth of TiTok-S.
BASE = {"width": 768, "depth": 12, "heads": 12}
LARGE = {"width": 1024, "depth": 24, "heads": 16}
DINOV2_STARTS = {768: "facebook/dinov2-base", 1024: "facebook/dinov2-large"}  # by width
TITOK_SMALL = {"width": 512, "depth": 8, "heads": 8}
EPOCH_STEPS = 5_000  # of 256 images of ImageNet, as the papers round it


@dataclass(frozen=True, kw_only=True)
class PaperRecipe:
    """Settings of one published model.

    Attributes
    ----------
    system : str
        The system, as in `recipes.SYSTEMS`.
    data : str
        The dataset, as in `recipes.SOURCES`.
    settings, training : dict
        Settings of the model and of the training, by name.
    """

    system: str
    data: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]


def _recipe(
    system: str,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    *,
    side: int = 256,
) -> PaperRecipe:
    """Change settings of the system's recipe at the scale of the papers."""
    return PaperRecipe(
        system=system,
        data=f"imagenet{side}",
        settings=recipe_settings(system, "imagenet256") | dict(settings or {}),
        training=recipe_train_config(system, "imagenet256") | dict(training or {}),
    )


def _sizes(encoder: Mapping[str, int], decoder: Mapping[str, int]) -> dict[str, int]:
    """Return the settings of an encoder and a decoder of these sizes."""
    return {**encoder, **{f"decoder_{name}": value for name, value in decoder.items()}}


def _softvq(
    encoder: Mapping[str, int],
    decoder: Mapping[str, int],
    *,
    num_tokens: int,
    dim: int,
    teacher: str,
    side: int = 256,
) -> PaperRecipe:
    settings = {"num_tokens": num_tokens, "dim": dim, "teacher": teacher, "side": side}
    settings["encoder_start"] = DINOV2_STARTS[encoder["width"]]
    return _recipe("softvq", _sizes(encoder, decoder) | settings, side=side)


def _titok(
    encoder: Mapping[str, int], decoder: Mapping[str, int], *, num_tokens: int, legacy: bool
) -> PaperRecipe:
    settings: dict[str, Any] = {"num_tokens": num_tokens}
    if legacy:
        settings |= {"legacy": True, "dim": 12, "codebook_size": 4096, "cosine": True}
    return _recipe("titok", _sizes(encoder, decoder) | settings)


def _short_vavae(dim: int) -> PaperRecipe:
    """Return an ablation of the paper: 50 epochs in one stage, with margins."""
    # The discriminator starts at the step at which it starts in the released tokenizer.
    settings = {"dim": dim, "stages": False, "adversarial_start": 0.01}
    return _recipe("vavae", settings, {"steps": 50 * EPOCH_STEPS})


# The names are those of the published files. The files of softvq-l-32 and softvq-l-32-512 have a
# base-size encoder. Teachers are published for l-64 (large) and b-64 (base) only; the others have
# the teacher of their encoder's size.
PAPER_RECIPES: dict[str, PaperRecipe] = {
    "softvq-l-64": _softvq(LARGE, LARGE, num_tokens=64, dim=32, teacher=DINOV2_LARGE),
    "softvq-bl-64": _softvq(BASE, LARGE, num_tokens=64, dim=32, teacher=DINOV2_BASE),
    "softvq-b-64": _softvq(BASE, BASE, num_tokens=64, dim=32, teacher=DINOV2_BASE),
    "softvq-l-32": _softvq(BASE, LARGE, num_tokens=32, dim=64, teacher=DINOV2_BASE),
    "softvq-bl-32": _softvq(BASE, LARGE, num_tokens=32, dim=64, teacher=DINOV2_BASE),
    "softvq-b-32": _softvq(BASE, BASE, num_tokens=32, dim=64, teacher=DINOV2_BASE),
    "softvq-bl-64-512": _softvq(BASE, LARGE, num_tokens=64, dim=32, teacher=DINOV2_BASE, side=512),
    "softvq-l-32-512": _softvq(BASE, LARGE, num_tokens=32, dim=64, teacher=DINOV2_BASE, side=512),
    "maetok-b-128": _recipe("maetok", {"num_tokens": 128, "dim": 32}),
    "maetok-b-128-512": _recipe("maetok", {"num_tokens": 128, "dim": 32, "side": 512}, side=512),
    # The first release decodes to the codes of a pretrained VQGAN; here its decoder is trained too.
    "titok-l-32": _titok(LARGE, LARGE, num_tokens=32, legacy=True),
    "titok-b-64": _titok(BASE, BASE, num_tokens=64, legacy=True),
    "titok-s-128": _titok(TITOK_SMALL, TITOK_SMALL, num_tokens=128, legacy=True),
    "titok-bl-64": _titok(BASE, LARGE, num_tokens=64, legacy=False),
    "titok-bl-128": _titok(BASE, LARGE, num_tokens=128, legacy=False),
    "titok-sl-256": _titok(TITOK_SMALL, LARGE, num_tokens=256, legacy=False),
    "vavae-f16d16": _short_vavae(16),
    "vavae-f16d32": _recipe("vavae", {"dim": 32}),
    "vavae-f16d64": _short_vavae(64),
    "llamagen-vq-16": _recipe("vqgan"),
    "lightningdit-xl-64ep": _recipe("lightningdit"),
    # Times are uniform in the last 320 epochs.
    "lightningdit-xl-800ep": _recipe(
        "lightningdit",
        {"interval": (0.0, 0.875), "uniform_after": 0.6},
        {"steps": 1_000_000},
    ),
    # The generator of SoftVQ-VAE and MAETok.
    "sit-xl": _recipe("sit"),
    "sit-xl-512": _recipe("sit", side=512),
    # Of the 32 x 32 x 4 latents of Stable Diffusion's autoencoder.
    "dit-xl-2": _recipe("dit", {"patch": 2}),
}
