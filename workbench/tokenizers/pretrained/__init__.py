"""Published tokenizers by address, such as `softvq:SoftVQVAE/softvq-l-64`.

Each family is one module with a function `load(address, *, revision=None, **options)` that returns
a `Pretrained`. A module is imported when one of its checkpoints is loaded.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from workbench.storage.published import Address, coerce_options, option_kinds
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.pretrained.base import LatentScale, Pretrained, ResizePolicy

__all__ = [
    "FAMILIES",
    "LatentScale",
    "Pretrained",
    "ResizePolicy",
    "accepts_side",
    "load",
    "load_tokenizer",
]

FAMILIES: dict[str, str] = {
    "softvq": "workbench.tokenizers.pretrained.softvq",
    "maetok": "workbench.tokenizers.pretrained.maetok",
    "titok": "workbench.tokenizers.pretrained.titok",
    "ldm": "workbench.tokenizers.pretrained.ldm",
    "llamagen": "workbench.tokenizers.pretrained.llamagen",
    "diffusers": "workbench.tokenizers.pretrained.diffusers",
    "python": "workbench.tokenizers.pretrained.python",
}
RUNS_CODE = ("python",)  # families that import code, which the user has to trust


def load(
    address: str, *, revision: str | None = None, trust: Sequence[str] = (), **options: Any
) -> Pretrained:
    """Load a tokenizer that was trained elsewhere, with the facts of its checkpoint.

    Parameters
    ----------
    address : str
        `family:location`, where a location is a hub id, a folder or a file.
    revision : str, optional
        A branch, tag or commit on the hub.
    trust : sequence of str
        Modules whose code the family python may run.
    **options
        Options of the family, such as `config` of ldm, as values or as text.

    Raises
    ------
    UserError
        If the family or an option is unknown, or the checkpoint cannot be found, is damaged or does
        not fit.
    """
    parsed = Address.parse(address, families=FAMILIES)
    family = importlib.import_module(FAMILIES[parsed.family])
    converted = coerce_options(family.load, options)
    if parsed.family in RUNS_CODE:
        converted["trust"] = tuple(trust)
    pretrained: Pretrained = family.load(parsed, revision=revision, **converted)
    pretrained.tokenizer.eval().requires_grad_(False)
    return pretrained


def accepts_side(address: str) -> bool:
    """Return True if the family of an address has an option for the size of the images.

    Raises
    ------
    UserError
        If the family is unknown.
    """
    parsed = Address.parse(address, families=FAMILIES)
    return "side" in option_kinds(importlib.import_module(FAMILIES[parsed.family]).load)


def load_tokenizer(
    address: str, *, revision: str | None = None, trust: Sequence[str] = (), **options: Any
) -> Tokenizer:
    """Load a tokenizer that was trained elsewhere.

    Parameters
    ----------
    address : str
        `family:location`, for example `softvq:SoftVQVAE/softvq-l-64`, `ldm:model.ckpt` or
        `diffusers:stabilityai/sd-vae-ft-mse`. A location is a hub id, a folder or a file.
    revision : str, optional
        A branch, tag or commit on the hub.
    trust : sequence of str
        Modules whose code the family python may run.
    **options
        Options of the family; see `load`.

    Returns
    -------
    Tokenizer
        The tokenizer in evaluation mode. Images have values in [-1, 1].

    Raises
    ------
    UserError
        If the family is unknown, or the checkpoint cannot be found, is damaged or does not fit.
    """
    return load(address, revision=revision, trust=trust, **options).tokenizer
