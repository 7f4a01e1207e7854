"""Everything we claim to train, as one table: a name, `system-data`, to a class, its settings, and a plan.

Any setting can be changed by its name where a recipe is trained (see jobs.py).
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
    "vavae": "workbench.tokenizers.vavae:VAVAE",
    "karl": "workbench.tokenizers.karl:KARL",
    "taildrop": "workbench.tokenizers.taildrop:TailDrop",
    **dict.fromkeys(PRESETS, "workbench.generators.transformer:SiT"),
}
GENERATORS = tuple(PRESETS)
CONVOLUTIONAL = ("vavae",)

# Of a one-dimensional tokenizer, by data.
SIZES = {
    "digits": {"side": 8, "channels": 1, "patch": 2, "tokens": 8, "dim": 8, "width": 64, "depth": 2, "heads": 4},
    "photos": {"side": 32, "channels": 3, "patch": 8, "tokens": 16, "dim": 16, "width": 96, "depth": 2, "heads": 4},
    "shapes": {"side": 32, "channels": 3, "patch": 8, "tokens": 16, "dim": 16, "width": 96, "depth": 2, "heads": 4},
}
# Of a convolutional one: 4 x 4 tokens each.
GRIDS = {
    "digits": {"side": 8, "channels": 1, "dim": 8, "width": 32, "multipliers": (1, 2)},
    "photos": {"side": 32, "channels": 3, "dim": 16, "width": 32, "multipliers": (1, 2, 2, 4)},
    "shapes": {"side": 32, "channels": 3, "dim": 16, "width": 32, "multipliers": (1, 2, 2, 4)},
}
# Of a system, whatever the data.
SETTINGS: dict[str, dict[str, Any]] = {
    "ae": {},
    "klvae": {"beta": 1e-5},
    "vqvae": {"codes": 256},
    "fsqvae": {"dim": 4, "levels": (8, 5, 5, 5)},
    "softvq": {"codes": 256},
    "maetok": {},
    "vavae": {},
    "karl": {},
    "taildrop": {},
    **{name: {"width": 96, "depth": 4} | preset for name, preset in PRESETS.items()},
}
TOKENIZER = {"steps": 800, "batch": 64, "lr": 2e-3, "save_every": 200}
GENERATOR = {"steps": 1000, "batch": 128, "lr": 2e-3, "save_every": 250}
PLANS = {system: GENERATOR if system in GENERATORS else TOKENIZER for system in SYSTEMS}
LEARNED = ("tokens", "dim", "classes", "mean", "std")  # settings of a generator that its tokenizer decides
RECIPES = tuple(f"{system}-{data}" for system in SYSTEMS for data in SIZES)


def sizes_of(system: str, data: str) -> dict[str, Any]:
    """The sizes of a tokenizer on some data."""
    return (GRIDS if system in CONVOLUTIONAL else SIZES)[data]
