"""Recipes: model and training settings of a system on a dataset, by the name `system-data`.

Any setting can be changed by its name when a recipe is trained. The datasets digits, photos and
shapes are bundled, and a recipe for them trains in about a minute on a CPU. cifar10 has images of
32 x 32 pixels and needs one GPU. imagenet256 is the scale of the papers; the published sizes are
recipes of their own (`paper_recipes`).
"""

from typing import Any

from workbench.generators.presets import PRESETS

SYSTEMS = {
    "ae": "workbench.tokenizers.ae:AE",
    "klvae": "workbench.tokenizers.klvae:KLVAE",
    "vqvae": "workbench.tokenizers.vqvae:VQVAE",
    "fsqvae": "workbench.tokenizers.fsqvae:FSQVAE",
    "softvq": "workbench.tokenizers.softvq:SoftVQ",
    "maetok": "workbench.tokenizers.maetok:MAETok",
    "titok": "workbench.tokenizers.titok:TiTok",
    "vavae": "workbench.tokenizers.vavae:VAVAE",
    "vqgan": "workbench.tokenizers.vqgan:VQGAN",
    "karl": "workbench.tokenizers.karl:KARL",
    "taildrop": "workbench.tokenizers.taildrop:TailDrop",
    "alit": "workbench.tokenizers.alit:ALIT",
    "unicode2": "workbench.tokenizers.unicode2:UniCode2",
    **dict.fromkeys(PRESETS, "workbench.generators.transformer:SiT"),
    "ar": "workbench.generators.autoregressive:AR",
}
GENERATORS = (*PRESETS, "ar")  # systems that are trained on a tokenizer's latents or codes
CONVOLUTIONAL = ("vavae", "vqgan")
CLUSTERING = ("unicode2",)  # a token is a patch with the channels of its teacher
# The images of a dataset, unless the setting `data` replaces them.
SOURCES = {name: name for name in ("digits", "photos", "shapes")}
SOURCES |= {"cifar10": "hub:uoft-cs/cifar10"}
# imagenet512 has recipes of published models only (`paper_recipes`).
SOURCES |= dict.fromkeys(("imagenet256", "imagenet512"), "stream:ILSVRC/imagenet-1k")

# Sizes of a tokenizer with one-dimensional tokens, by dataset.
SMALL = {
    "side": 32,
    "channels": 3,
    "patch": 8,
    "num_tokens": 16,
    "dim": 16,
    "width": 96,
    "depth": 2,
    "heads": 4,
}
LARGE = {
    "side": 256,
    "channels": 3,
    "patch": 16,
    "num_tokens": 128,
    "dim": 32,
    "width": 768,
    "depth": 12,
    "heads": 12,
}
SIZES = {
    "digits": {
        "side": 8,
        "channels": 1,
        "patch": 2,
        "num_tokens": 8,
        "dim": 8,
        "width": 64,
        "depth": 2,
        "heads": 4,
    },
    "photos": SMALL,
    "shapes": SMALL,
    "cifar10": SMALL | {"patch": 4, "num_tokens": 32, "width": 256, "depth": 6},
    "imagenet256": LARGE,
}
# Sizes of a convolutional tokenizer: 4 x 4 tokens, and 16 x 16 at the scale of the papers.
SMALL_GRID = {"side": 32, "channels": 3, "dim": 16, "width": 32, "multipliers": (1, 2, 2, 4)}
GRIDS = {
    "digits": {"side": 8, "channels": 1, "dim": 8, "width": 32, "multipliers": (1, 2)},
    "photos": SMALL_GRID,
    "shapes": SMALL_GRID,
    "cifar10": SMALL_GRID | {"width": 64, "multipliers": (1, 2, 4), "blocks": 2},
    "imagenet256": {
        "side": 256,
        "channels": 3,
        "dim": 32,
        "width": 128,
        "multipliers": (1, 1, 2, 2, 4),
        "blocks": 2,
    },
}
# Settings of a system on every dataset.
SETTINGS: dict[str, dict[str, Any]] = {
    "klvae": {"beta": 1e-5},
    "vqvae": {"codebook_size": 256},
    "vqgan": {"codebook_size": 256},
    "fsqvae": {"dim": 4, "levels": (8, 5, 5, 5)},
    "softvq": {"codebook_size": 256},
    "titok": {"codebook_size": 256},
    **{name: {"width": 96, "depth": 4} | preset for name, preset in PRESETS.items()},
    "ar": {"width": 96, "depth": 4, "table": "codebook"},
}
TOKENIZER = {"steps": 800, "batch_size": 64, "lr": 2e-3, "save_every": 200}
GENERATOR = {"steps": 1000, "batch_size": 128, "lr": 2e-3, "save_every": 250}
# After more steps it memorizes the 1,437 training images of digits.
AUTOREGRESSIVE = GENERATOR | {"steps": 400, "lr": 1e-3, "save_every": 100}
CIFAR_TOKENIZER = {
    "steps": 20_000,
    "batch_size": 512,
    "lr": 4e-4,
    "warmup_steps": 500,
    "save_every": 2000,
    "precision": "bf16",
}
CIFAR_GENERATOR = CIFAR_TOKENIZER | {"ema_decay": 0.999}

# Model and training settings of the papers for ImageNet at 256 x 256, as far as they are published.
# The module of each system lists those that are missing.
PERCEPTUAL_SETTINGS = {"perceptual_weight": 1.0, "perceptual": "lpips"}
# The discriminator of SoftVQ-VAE and MAETok.
DINO_DISCRIMINATOR = {
    "discriminator": "dino",
    "discriminator_augmentation": 0.5,
    "consistency_weight": 4.0,
}
# The errors that the released KARL distinguishes.
KARL_ERRORS = (
    *(0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.09),
    *(0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.24, 0.28, 0.32, 0.38),
)
TEACHERS = ("hog", "dinov2:facebook/dinov2-large", "siglip:google/siglip-so400m-patch14-224")
FINE_SIGLIP = "siglip:google/siglip-so400m-patch14-384"
NO_CLIP = 1e6  # a norm that no gradient reaches
VIT = {
    "batch_size": 256,
    "lr": 1e-4,
    "final_lr": 0.1,
    "warmup_steps": 5_000,
    "ema_decay": 0.9999,
    "precision": "bf16",
}
VIT |= {"steps": 250_000, "save_every": 10_000, "log_every": 100}
FLOW = VIT | {"final_lr": 1.0, "warmup_steps": 0, "betas": (0.9, 0.999), "weight_decay": 0.0}
FLOW |= {"flip": 0.5}  # the latents of both orientations
# The conventions of the published code, so that runs compare with published checkpoints.
CODE = {"time_embedding": "unscaled", "stored_positions": True, "norm_eps": 1e-6}
CODE |= {"init": "xavier"}
# The convolutional network of latent diffusion, with attention at 16 x 16.
LDM_NETWORK = {
    "linear_init": False,
    "padding": "bottom_right",
    "encoder_attention": (4,),
    "decoder_attention": (4,),
}
XL = {"width": 1152, "depth": 28, "heads": 16}
SIT_XL = (
    XL
    | CODE
    | {
        "mlp": "gelu-tanh",
        "interval": (0.0, 0.7),
        "solver": "euler-maruyama",
        "sampling_steps": 250,
    }
)
# DiT's noise schedule, learned variances and sampling.
DIT_XL = (
    XL
    | CODE
    | {"mlp": "gelu-tanh", "path": "ddpm-linear", "times": "timesteps", "learned_variance": True}
    | {"time_embedding": "timestep", "guided_channels": 3}
    | {"solver": "ddpm", "sampling_steps": 250}
)
LIGHTNINGDIT_XL = (
    XL
    | CODE
    | {"reversed_time": True, "guided_channels": 3, "solver": "euler", "sampling_steps": 249}
)
# Crops and flips of the training images, where the published code states them; without an entry
# they are cropped at the center. Generators read latents of both orientations (`FLOW`).
AUGMENTATION: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("softvq", "maetok", "vqgan"), {"crop": "random_scale", "flip": 0.5}),
    "vavae": {"crop": "random"},
    "titok": {"crop": "random", "flip": 0.5},
    **dict.fromkeys(("karl", "alit"), {"crop": "random_resized", "flip": 0.5}),
}
IMAGE_WORKERS = 4  # processes that decode training images at the scale of the papers
PAPER_SCALE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "softvq": (
        PERCEPTUAL_SETTINGS
        | {
            "num_tokens": 64,
            "num_codebooks": 4,
            "codebook_size": 8192,
            "linear_init": False,
            "align_weight": 0.1,
            "teacher": TEACHERS[1],
        }
        | {"encoder_class_token": True, "decoder_class_token": True, "norm_eps": 1e-6}
        | {"layer_scale": 1e-5, "encoder_start": "facebook/dinov2-base"}
        | {"adversarial_weight": 0.2, "adversarial_start": 0.08, "adversarial_adaptive": False}
        | DINO_DISCRIMINATOR
        | {"discriminator_weight": 0.2, "perceptual_rise": 10_000 / 250_000},
        VIT | {"clip_apart": True},
    ),
    "maetok": (
        PERCEPTUAL_SETTINGS
        | {"linear_init": False, "targets": TEACHERS, "aux_width": 192}
        | {"aux_depth": 3, "aux_heads": 3}
        | {"encoder_class_token": True, "norm_eps": 1e-6, "rotary": True, "modulated": True}
        | {"layer_scale": 1e-5}
        | {"adversarial_weight": 0.4, "adversarial_start": 0.06}
        | DINO_DISCRIMINATOR
        | {"discriminator_weight": 0.4, "perceptual_rise": 10_000 / 500_000},
        VIT | {"steps": 500_000, "batch_size": 512, "lr": 2e-4, "clip_apart": True},
    ),
    "vavae": (
        PERCEPTUAL_SETTINGS
        | LDM_NETWORK
        | {"teacher": TEACHERS[1], "stages": True}
        | {"adversarial_weight": 0.5, "adversarial_start": 0.004}
        | {"discriminator": "patchgan", "lecam": 0.0, "perceptual_rise": 0.0},
        VIT
        | {
            "steps": 650_000,
            "final_lr": 1.0,
            "warmup_steps": 0,
            "betas": (0.5, 0.9),
            "weight_decay": 0.0,
        }
        | {"ema_decay": 0.0, "precision": "no", "clip": NO_CLIP, "clip_apart": True},
    ),
    # The tokenizer of LlamaGen with 16 x 16 tokens.
    "vqgan": (
        PERCEPTUAL_SETTINGS
        | LDM_NETWORK
        | {"z_channels": 256, "dim": 8, "codebook_size": 16384, "pixel": "l2"}
        | {"learn": "gradient", "revive": 0.0}
        | {"adversarial_weight": 0.5, "adversarial_start": 0.05, "adversarial_adaptive": False}
        | {"discriminator": "patchgan", "discriminator_weight": 0.5}
        | {"lecam": 0.0, "perceptual_rise": 0.0},
        VIT
        | {
            "clip_apart": True,
            "steps": 400_000,
            "batch_size": 128,
            "final_lr": 1.0,
            "warmup_steps": 0,
            "weight_decay": 0.0,
        },
    ),
    "karl": (
        {
            "num_tokens": 256,
            "dim": 12,
            "codebook_size": 4096,
            "width": 1024,
            "depth": 8,
            "heads": 8,
            "linear_init": False,
            "error_bins": KARL_ERRORS,
        }
        | {"hide": "predicted", "predict_after": 0.0}
        | {"balance": "balanced", "halt_estimate": True, "ends": 0.3},
        VIT
        | {
            "steps": 500_000,
            "batch_size": 512,
            "lr": 2e-4,
            "final_lr": 0.0,
            "clip": 3.0,
            "weight_decay": 0.05,
        },
    ),
    "unicode2": (
        # Clustering 20 tokens per code needs 46 GB for their features.
        {
            "codebook_size": 500_000,
            "teacher": FINE_SIGLIP,
            "tokens_per_code": 20,
            "linear_init": False,
            "decoder": "flow",
        },
        VIT,
    ),
    "titok": (
        # BL-128, 8K codes.
        {"dim": 64, "codebook_size": 8192, "cosine": False, "learn": "gradient", "revive": 0.0}
        | {"linear_init": False, "decoder_width": 1024, "decoder_depth": 24, "decoder_heads": 16},
        VIT,
    ),
    "vqvae": ({"codebook_size": 8192, "linear_init": False}, VIT),
    "fsqvae": ({"dim": 6, "levels": (8, 8, 8, 5, 5, 5), "linear_init": False}, VIT),
    **dict.fromkeys(("ae", "klvae", "taildrop", "alit"), ({"linear_init": False}, VIT)),
    "sit": (SIT_XL, FLOW | {"steps": 3_000_000}),
    "dit": (DIT_XL, FLOW | {"steps": 7_000_000, "clip": NO_CLIP}),
    "lightningdit": (
        LIGHTNINGDIT_XL,
        FLOW | {"steps": 80_000, "batch_size": 1024, "lr": 2e-4, "betas": (0.9, 0.95), "clip": 1e3},
    ),
    "ar": (
        {"width": 1024, "depth": 24, "heads": 16},
        FLOW | {"steps": 250_000, "betas": (0.9, 0.95)},
    ),
}
RECIPES = tuple(f"{system}-{data}" for system in SYSTEMS for data in SIZES)


def recipe_settings(system: str, data: str) -> dict[str, Any]:
    """Return the model settings of a recipe.

    Parameters
    ----------
    system, data : str
        The two parts of the recipe's name.

    Examples
    --------
    >>> recipe_settings("ae", "digits")["num_tokens"]
    8
    """
    settings: dict[str, Any] = {}
    if system not in GENERATORS:
        settings |= GRIDS[data] if system in CONVOLUTIONAL else SIZES[data]
    if system in CLUSTERING:
        for name in ("num_tokens", "dim"):  # decided by the patches and the teacher
            del settings[name]
    settings |= SETTINGS.get(system, {})
    if data == "imagenet256":
        settings |= PAPER_SCALE[system][0]
    return settings


def recipe_train_config(system: str, data: str) -> dict[str, Any]:
    """Return the training settings of a recipe, by name.

    Examples
    --------
    >>> recipe_train_config("ae", "digits")["steps"]
    800
    """
    is_generator = system in GENERATORS
    if data == "imagenet256":
        loading = {} if is_generator else {"num_workers": IMAGE_WORKERS}
        return PAPER_SCALE[system][1] | AUGMENTATION.get(system, {}) | loading
    if data == "cifar10":
        return CIFAR_GENERATOR if is_generator else CIFAR_TOKENIZER
    if system == "ar":
        return AUTOREGRESSIVE
    return GENERATOR if is_generator else TOKENIZER
