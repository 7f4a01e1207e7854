"""Published tokenizers by address, such as `softvq:SoftVQVAE/softvq-l-64`.

Each family is one module with a function `load(address, *, revision=None, **options)` that returns
a `Pretrained`. A module is imported when one of its checkpoints is loaded.
"""

import importlib
from typing import Any

from workbench.storage.published import Address
from workbench.tokenizers.base import Tokenizer
from workbench.tokenizers.pretrained.base import LatentScale, Pretrained, ResizePolicy

__all__ = ["FAMILIES", "LatentScale", "Pretrained", "ResizePolicy", "load", "load_tokenizer"]

FAMILIES: dict[str, str] = {
    "softvq": "workbench.tokenizers.pretrained.softvq",
    "maetok": "workbench.tokenizers.pretrained.maetok",
    "titok": "workbench.tokenizers.pretrained.titok",
    "ldm": "workbench.tokenizers.pretrained.ldm",
    "llamagen": "workbench.tokenizers.pretrained.llamagen",
    "diffusers": "workbench.tokenizers.pretrained.diffusers",
    "python": "workbench.tokenizers.pretrained.python",
}


def load(address: str, *, revision: str | None = None, **options: Any) -> Pretrained:
    """Load a tokenizer that was trained elsewhere, with the facts of its checkpoint.

    Parameters
    ----------
    address : str
        `family:location`, where a location is a hub id, a folder or a file.
    revision : str, optional
        A branch, tag or commit on the hub.
    **options
        Options of the family, such as `config` of ldm or `trust` of python.

    Raises
    ------
    UserError
        If the family is unknown, or the checkpoint cannot be found, is damaged or does not fit.
    """
    parsed = Address.parse(address, families=FAMILIES)
    family = importlib.import_module(FAMILIES[parsed.family])
    pretrained: Pretrained = family.load(parsed, revision=revision, **options)
    pretrained.tokenizer.eval().requires_grad_(False)
    return pretrained


def load_tokenizer(address: str, *, revision: str | None = None, **options: Any) -> Tokenizer:
    """Load a tokenizer that was trained elsewhere.

    Parameters
    ----------
    address : str
        `family:location`, for example `softvq:SoftVQVAE/softvq-l-64`, `ldm:model.ckpt` or
        `diffusers:stabilityai/sd-vae-ft-mse`. A location is a hub id, a folder or a file.
    revision : str, optional
        A branch, tag or commit on the hub.
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
    return load(address, revision=revision, **options).tokenizer
