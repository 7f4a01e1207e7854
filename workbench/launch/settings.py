"""The settings of a recipe or of a class: name, type, default, and description.

This is the one source of `workbench train RECIPE --help`, of the dashboard's form, and of the types
that values are converted to.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.core.attribute_docs import attribute_docs
from workbench.core.coerce import coerce, to_json
from workbench.core.errors import UserError, unknown
from workbench.core.image_size import ImageSize
from workbench.launch.trainables import Trainable, find_trainable

Group = Literal["data", "training", "model"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that can be changed when a run is started.

    Attributes
    ----------
    name : str
        The name, as in config.json.
    kind : type
        The declared type of its values.
    group : {"data", "training", "model"}
        The part that it belongs to.
    description : str
        A sentence; empty for a class of the user that does not describe it.
    default : object
        The value that it has unless it is changed; None if there is none.
    is_required : bool
        Whether a value has to be given.
    is_of_recipe : bool
        Whether the recipe itself sets it, as it does with the most important settings.
    """

    name: str
    kind: Any
    group: Group
    description: str = ""
    default: Any = None
    is_required: bool = False
    is_of_recipe: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that a setting with few values may have; empty otherwise."""
        if self.kind is bool:
            return ("true", "false")
        kinds = typing.get_args(self.kind) if _is_optional(self.kind) else (self.kind,)
        choices = [
            str(value)
            for kind in kinds
            if typing.get_origin(kind) is Literal
            for value in typing.get_args(kind)
        ]
        return tuple([*choices, "none"] if choices and _is_optional(self.kind) else choices)

    @property
    def default_text(self) -> str:
        """The default as it is typed: `0.9,0.95`, `true` or `none`; empty if there is none."""
        if self.default is None:
            return "none" if _is_optional(self.kind) else ""
        return setting_text(self.default)


# Settings that belong neither to the model nor to training.
DATA_SETTINGS = (
    Setting(
        name="data",
        kind=str,
        group="data",
        description="Training images: a folder, a parquet file, hub:owner/name, or the name of a "
        "bundled dataset.",
    ),
    Setting(
        name="limit",
        kind=int,
        group="data",
        description="The largest number of training images; all if it is not given.",
    ),
    Setting(
        name="value_range",
        kind=tuple[float, float],
        group="data",
        description="Values of black and white of images with more than 8 bits per channel.",
    ),
    Setting(
        name="cache",
        kind=str,
        group="data",
        description="A folder for the features of alignment teachers.",
    ),
)
LATENT_SETTINGS = (
    Setting(
        name="tokenizer",
        kind=str,
        group="data",
        description="The run of a trained tokenizer, on whose latents the generator is trained.",
    ),
    Setting(
        name="latents",
        kind=str,
        group="data",
        description="A folder of latents or codes in place of the tokenizer's own. Samples cannot "
        "be decoded without a tokenizer.",
    ),
)
START = Setting(
    name="start",
    kind=str,
    group="data",
    description="A run whose weights training starts from.",
)


def list_settings(trainable: Trainable) -> tuple[Setting, ...]:
    """Return the settings that can be changed: of the data, of training, and of the model.

    Parameters
    ----------
    trainable : Trainable
        What is trained. What a generator takes from its tokenizer is left out.
    """
    from workbench.training import TrainConfig

    config = trainable.model_class.Config
    sources: tuple[Setting, ...] = DATA_SETTINGS
    if trainable.is_generator:
        sources = LATENT_SETTINGS
    elif trainable.source is not None:
        data = dataclasses.replace(DATA_SETTINGS[0], default=trainable.source, is_of_recipe=True)
        sources = (data, *DATA_SETTINGS[1:])
    training = _fields(TrainConfig, "training", trainable.training)
    model = _fields(config, "model", trainable.settings)
    derived = derived_settings(trainable)
    chosen = {setting.name for setting in model}
    return (
        *sources,
        START,
        *(setting for setting in training if setting.name not in chosen),
        *(setting for setting in model if setting.name not in derived),
    )


def derived_settings(trainable: Trainable) -> tuple[str, ...]:
    """Return the names of the settings that a generator takes from its tokenizer."""
    from workbench.generators.base import Generator

    model_class = trainable.model_class
    return model_class.set_by_tokenizer if issubclass(model_class, Generator) else ()


def recipe_settings_list(name: str, trust: Sequence[str] = ()) -> tuple[Setting, ...]:
    """Return the settings of a recipe or of `module:Class`.

    Parameters
    ----------
    name : str
        The recipe, or `module:Class`.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Raises
    ------
    UserError
        If there is no such recipe or class, or its module is not trusted.
    """
    return list_settings(find_trainable(name, trust))


def help_sections(name: str, trust: Sequence[str] = ()) -> dict[str, list[tuple[str, str]]]:
    """Return the settings of a recipe or class as options, with meaning and default, by heading.

    Parameters
    ----------
    name, trust
        As for `recipe_settings_list`.
    """
    titles = {"data": "Data", "training": "Training", "model": "Model"}
    sections: dict[str, list[tuple[str, str]]] = {title: [] for title in titles.values()}
    for setting in recipe_settings_list(name, trust):
        option = f"--{setting.name.replace('_', '-')} {kind_text(setting.kind)}"
        default = f"[default: {setting.default_text}]" if setting.default_text else ""
        if setting.is_required:
            default = "[required]"
        text = " ".join(filter(None, (setting.description, default)))
        sections[titles[setting.group]].append((option, text))
    return sections


def coerce_changes(trainable: Trainable, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return changed settings in their declared types, as JSON stores them.

    Parameters
    ----------
    trainable : Trainable
        What is trained.
    settings : mapping
        Values by name, as text or as Python objects.

    Raises
    ------
    UserError
        If a setting does not exist, does not fit its type, or is decided by the tokenizer.
    """
    kinds = {setting.name: setting.kind for setting in list_settings(trainable)}
    derived = derived_settings(trainable)
    for name in settings:
        if name in derived:
            raise UserError(
                f"{name} cannot be set: {trainable.name} takes {', '.join(derived)} from its"
                " tokenizer."
            )
        if name not in kinds:
            raise unknown("setting", name, kinds)
    return {name: to_json(coerce(kinds[name], name, value)) for name, value in settings.items()}


def check_settings(
    name: str, settings: Mapping[str, Any], trust: Sequence[str] = ()
) -> dict[str, str]:
    """Return what is wrong with changed settings; empty if they can be tried.

    What depends on the data is checked when the training starts.

    Parameters
    ----------
    name : str
        The recipe, or `module:Class`.
    settings : mapping
        Values by name, as text or as Python objects.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Returns
    -------
    dict
        A sentence by the name of the setting; by "" if it concerns none in particular.
    """
    try:
        trainable = find_trainable(name, trust)
    except UserError as error:
        return {"": str(error)}
    problems = {}
    for setting, value in settings.items():
        try:
            coerce_changes(trainable, {setting: value})
        except UserError as error:
            problems[setting] = str(error)
    if problems:
        return problems
    try:
        _check_configs(trainable, coerce_changes(trainable, settings))
    except UserError as error:
        subject = str(error).partition(" ")[0]
        return {subject if subject in settings else "": str(error)}
    return {}


def _check_configs(trainable: Trainable, changes: dict[str, Any]) -> None:
    """Raise UserError if the settings of training or of a tokenizer do not fit each other."""
    from workbench.training import TrainConfig

    groups = {setting.name: setting.group for setting in list_settings(trainable)}
    training = {name: value for name, value in changes.items() if groups[name] == "training"}
    model = {name: value for name, value in changes.items() if groups[name] == "model"}
    TrainConfig.from_dict(trainable.training | training)
    if not trainable.is_generator:  # the rest of a generator's settings is its tokenizer's
        model_class: Any = trainable.model_class
        model_class.Config(**(trainable.settings | model))


def setting_text(value: Any) -> str:
    """Return a value as it is typed.

    Examples
    --------
    >>> setting_text((0.9, 0.95)), setting_text(True), setting_text(None), setting_text(0.002)
    ('0.9,0.95', 'true', 'none', '0.002')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ImageSize):
        return str(value)
    if isinstance(value, list | tuple):
        return ",".join(map(setting_text, value))
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value)


def kind_text(kind: Any) -> str:
    """Return a declared type in a word, as a command line names it.

    Examples
    --------
    >>> kind_text(int), kind_text(float | None), kind_text(tuple[int, ...])
    ('INTEGER', 'NUMBER', 'INTEGER,...')
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if ImageSize in parts:
        return "SIZE"
    if _is_optional(kind):
        return "|".join(kind_text(part) for part in parts if part is not types.NoneType)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin is tuple:
        return f"{kind_text(parts[0])},..." if parts else "TEXT,..."
    names = {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT"}
    return names.get(kind, "VALUE")


def _fields(config: Any, group: Group, values: Mapping[str, Any]) -> tuple[Setting, ...]:
    kinds = typing.get_type_hints(config)
    descriptions = attribute_docs(config)
    settings = []
    for field in dataclasses.fields(config):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        has_default = default is not dataclasses.MISSING or field.name in values
        settings.append(
            Setting(
                name=field.name,
                kind=kinds[field.name],
                group=group,
                description=descriptions.get(field.name, ""),
                default=values.get(field.name, default) if has_default else None,
                is_required=not has_default,
                is_of_recipe=field.name in values,
            )
        )
    return tuple(settings)


def _is_optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)
