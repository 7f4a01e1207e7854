"""Trainable systems: a recipe, or a class of a module outside of the package.

A recipe is named `system-data`, or after a published model. Systems of other packages are entry
points of the group `workbench.tokenizers`; nothing of them is imported unless the user trusts the
module.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from workbench.core.coerce import to_json
from workbench.core.errors import UserError, unknown
from workbench.core.trusted import MAIN, PACKAGE, import_trusted
from workbench.launch.paper_recipes import PAPER_RECIPES
from workbench.launch.recipes import (
    GENERATORS,
    RECIPES,
    SIZES,
    SOURCES,
    SYSTEMS,
    recipe_settings,
    recipe_train_config,
)

if TYPE_CHECKING:
    from workbench.generators.base import Generator
    from workbench.tokenizers.base import TrainableTokenizer

ENTRY_POINTS = "workbench.tokenizers"


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """A class, and the settings with which its training starts.

    Attributes
    ----------
    name : str
        The recipe, or `module:Class`.
    class_path : str
        `module:Class`.
    model_class : type
        The class.
    settings : dict
        Settings of the model, by name.
    training : dict
        Settings of the training, by name.
    source : str or None
        The images of a recipe; None if the user has to name them.
    is_recipe : bool
        Whether `name` is a recipe.
    """

    name: str
    class_path: str
    model_class: "type[TrainableTokenizer] | type[Generator]"
    settings: dict[str, Any]
    training: dict[str, Any]
    source: str | None
    is_recipe: bool

    @property
    def is_generator(self) -> bool:
        """True if it is trained on the latents or codes of a tokenizer."""
        from workbench.generators.base import Generator

        return issubclass(self.model_class, Generator)

    @property
    def data_name(self) -> str | None:
        """The dataset of a recipe."""
        return split_recipe(self.name)[1] if self.is_recipe else None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A system that the user wants to train.

    Attributes
    ----------
    name : str
        A recipe, or `module:Class`.
    settings : dict
        Settings of the model that the user has chosen with its Config.
    trust : tuple of str
        Modules that may be imported.
    """

    name: str
    settings: dict[str, Any]
    trust: tuple[str, ...]

    @property
    def is_of_this_process(self) -> bool:
        """True if the class is defined in a notebook or script, and not in a module."""
        return self.name.startswith(f"{MAIN}:")


def parse_target(target: Any, trust: Sequence[str] | str = ()) -> Target:
    """Return the name, the settings and the trusted modules of what the user wants to train.

    Parameters
    ----------
    target : str, type or Config
        A recipe, `module:Class`, a class, or the Config of a class. The class of a Config is the
        one in which it is defined. The module of a class that is at hand is trusted.
    trust : sequence of str or str
        Modules and packages outside of this package that may be imported.

    Raises
    ------
    UserError
        If the target is anything else, or its class cannot be found by its name.
    """
    trusted = trusted_names(trust)
    if isinstance(target, str):
        return Target(name=target, settings={}, trust=trusted)
    kind = target if isinstance(target, type) else _owner(target)
    if "." in kind.__qualname__:
        raise UserError(
            f"{kind.__qualname__} of {kind.__module__} cannot be found again when its run is"
            " opened. Define the class at the top level of a module."
        )
    settings = {} if isinstance(target, type) else _changed_settings(target)
    return Target(
        name=f"{kind.__module__}:{kind.__qualname__}",
        settings=settings,
        trust=(*trusted, kind.__module__),
    )


def trusted_names(trust: Sequence[str] | str) -> tuple[str, ...]:
    """Return names of modules that are given as a sequence, or as text with commas."""
    names = trust.split(",") if isinstance(trust, str) else trust
    return tuple(name.strip() for name in names if name.strip())


def _owner(config: Any) -> type:
    """Return the class in which the class of a Config is defined."""
    kind = type(config)
    owner: Any = sys.modules.get(kind.__module__)
    names = kind.__qualname__.split(".")
    for name in names[:-1]:
        owner = getattr(owner, name, None)
    is_nested = len(names) > 1 and isinstance(owner, type)
    if not is_nested or vars(owner).get(names[-1]) is not kind:
        raise UserError(
            f"A recipe, a class or its Config can be trained, got an object of {kind.__qualname__}."
            " A Config must be defined in the class of its model; otherwise train the class, as in"
            " wb.train(MyTokenizer, data='digits', out='runs/mine', dim=8)."
        )
    return owner


def _changed_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a Config that differ from its defaults."""
    changed = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING or value != default:
            changed[field.name] = to_json(value)
    return changed


def find_trainable(name: str, trust: Sequence[str] = ()) -> Trainable:
    """Return what a name refers to.

    Parameters
    ----------
    name : str
        A recipe, or `module:Class`.
    trust : sequence of str
        Modules and packages outside of this package that may be imported.

    Raises
    ------
    UserError
        If there is no such recipe or class, its module is not trusted, or it cannot be trained.
    """
    if ":" in name:
        model_class = load_class(name, trust)
        return Trainable(
            name=name,
            class_path=name,
            model_class=model_class,
            settings={},
            training={},
            source=None,
            is_recipe=False,
        )
    system, data = split_recipe(name)
    systems = SYSTEMS | installed_systems()
    paper = PAPER_RECIPES.get(name)
    if paper is None and (system not in systems or data not in SIZES):
        raise unknown_recipe(name)
    class_path = systems[system]
    model_class = load_class(class_path, trust)
    if paper is not None:
        settings, training = dict(paper.settings), dict(paper.training)
    elif system in SYSTEMS:
        settings, training = recipe_settings(system, data), recipe_train_config(system, data)
    else:
        settings, training = _settings_of_installed(model_class, data)
    return Trainable(
        name=name,
        class_path=class_path,
        model_class=model_class,
        settings=settings,
        training=training,
        source=None if system in GENERATORS else SOURCES[data],
        is_recipe=True,
    )


def load_class(path: str, trust: Sequence[str] = ()) -> Any:
    """Import a class that can be trained, from this package or from a trusted module.

    Raises
    ------
    UserError
        If the module is not trusted, or the name is not a class of a tokenizer or generator that
        can be trained.
    """
    from workbench.generators.base import Generator
    from workbench.tokenizers.base import TrainableTokenizer

    kind = import_trusted(path, (PACKAGE, *trust))
    if not isinstance(kind, type) or not issubclass(kind, TrainableTokenizer | Generator):
        raise UserError(
            f"{path} cannot be trained: it is not a class derived from TrainableTokenizer of"
            " workbench.tokenizers.base, or from Generator of workbench.generators.base."
        )
    config = getattr(kind, "Config", None)
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{path} has no Config, a frozen dataclass with its settings.")
    if issubclass(kind, TrainableTokenizer):
        names = {field.name for field in dataclasses.fields(config)}
        missing = [name for name in ("side", "channels") if name not in names]
        if missing:
            raise UserError(
                f"The Config of {path} has no {' and no '.join(missing)}. A tokenizer needs the"
                " size of its images as settings: side, in pixels, and channels."
            )
    return kind


@cache
def installed_systems() -> dict[str, str]:
    """Return the systems of installed packages, `module:Class` by name, without importing them."""
    points = metadata.entry_points(group=ENTRY_POINTS)
    return {point.name: point.value for point in points if point.name not in SYSTEMS}


def recipe_names() -> tuple[str, ...]:
    """Return the names of all recipes, those of installed packages last."""
    installed = (f"{system}-{data}" for system in installed_systems() for data in SIZES)
    return (*RECIPES, *PAPER_RECIPES, *installed)


def unknown_recipe(name: str) -> UserError:
    """Return the error for a recipe that does not exist.

    Examples
    --------
    >>> str(unknown_recipe("ae"))
    'The recipe `ae` lacks its data: ae-digits, ae-photos, ae-shapes, ae-cifar10, ae-imagenet256.'
    """
    own = [recipe for recipe in recipe_names() if recipe in {f"{name}-{data}" for data in SIZES}]
    if own:
        return UserError(f"The recipe `{name}` lacks its data: {', '.join(own)}.")
    return unknown("recipe", name, recipe_names())


def split_recipe(name: str) -> tuple[str, str]:
    """Return the system and the dataset of a recipe.

    Parameters
    ----------
    name : str
        A recipe. It does not have to exist in this installation.

    Examples
    --------
    >>> split_recipe("softvq-digits")
    ('softvq', 'digits')
    >>> split_recipe("softvq-l-64")
    ('softvq', 'imagenet256')
    """
    paper = PAPER_RECIPES.get(name)
    if paper is not None:
        return paper.system, paper.data
    system, _, data = name.rpartition("-")
    return system, data


def recipes_for(system: str, data: str) -> tuple[str, ...]:
    """Return the recipes of a system for a dataset."""
    return tuple(name for name in recipe_names() if split_recipe(name) == (system, data))


def _settings_of_installed(model_class: Any, data: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sizes of a dataset that a class has as settings, and its training settings."""
    names = {field.name for field in dataclasses.fields(model_class.Config)}
    settings = {name: value for name, value in SIZES[data].items() if name in names}
    return settings, recipe_train_config("ae", data)
