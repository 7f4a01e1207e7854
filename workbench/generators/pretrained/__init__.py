"""Published generators by address, such as `lightningdit:hustvl/lightningdit-xl-imagenet256-64ep`.

Each family is one module with a function `load(address, *, revision=None, **options)` that returns
a `PretrainedGenerator`.
"""

import importlib
from typing import Any

from workbench.generators.base import Generator
from workbench.generators.pretrained.base import PretrainedGenerator
from workbench.storage.published import Address, coerce_options

__all__ = ["FAMILIES", "PretrainedGenerator", "load", "load_generator"]

FAMILIES: dict[str, str] = {
    "dit": "workbench.generators.pretrained.dit",
    "lightningdit": "workbench.generators.pretrained.lightningdit",
    "sit": "workbench.generators.pretrained.sit",
}


def load(address: str, *, revision: str | None = None, **options: Any) -> PretrainedGenerator:
    """Load a generator that was trained elsewhere, with the facts of its checkpoint.

    Parameters
    ----------
    address : str
        `family:location`, where a location is a hub id, a folder or a file.
    revision : str, optional
        A branch, tag or commit on the hub.
    **options
        Options of the family, as values or as text.

    Raises
    ------
    UserError
        If the family or an option is unknown, or the checkpoint cannot be found, is damaged or
        does not fit.
    """
    parsed = Address.parse(address, families=FAMILIES)
    family = importlib.import_module(FAMILIES[parsed.family])
    converted = coerce_options(family.load, options)
    pretrained: PretrainedGenerator = family.load(parsed, revision=revision, **converted)
    pretrained.generator.eval().requires_grad_(False)
    return pretrained


def load_generator(address: str, *, revision: str | None = None, **options: Any) -> Generator:
    """Load a generator that was trained elsewhere.

    Parameters
    ----------
    address : str
        `family:location`, such as `lightningdit:FOLDER`.
    revision : str, optional
        A branch, tag or commit on the hub.
    **options
        Options of the family; see `load`.

    Returns
    -------
    Generator
        The generator in evaluation mode.

    Raises
    ------
    UserError
        If the family is unknown, or the checkpoint cannot be found, is damaged or does not fit.
    """
    return load(address, revision=revision, **options).generator
