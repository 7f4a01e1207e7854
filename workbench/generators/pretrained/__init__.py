"""Published generators by address, such as `lightningdit:hustvl/lightningdit-xl-imagenet256-64ep`.

Each family is one module with a function `load(address, *, revision=None, **options)` that returns
a `PretrainedGenerator`.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from workbench.core.coerce import coerce
from workbench.core.errors import unknown
from workbench.generators.base import Generator
from workbench.generators.pretrained.base import PretrainedGenerator
from workbench.storage.published import Address

__all__ = ["FAMILIES", "PretrainedGenerator", "load", "load_generator"]

FAMILIES: dict[str, str] = {
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
    converted = _convert_options(family.load, options)
    pretrained: PretrainedGenerator = family.load(parsed, revision=revision, **converted)
    pretrained.generator.eval().requires_grad_(False)
    return pretrained


def _convert_options(load: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to the declared types of the keyword-only parameters of a family."""
    kinds = typing.get_type_hints(load)
    declared = [
        parameter.name
        for parameter in inspect.signature(load).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "revision"
    ]
    for name in options:
        if name not in declared:
            raise unknown("option", name, declared)
    return {name: coerce(kinds[name], name, value) for name, value in options.items()}


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
