"""Tables that translate the names stored by earlier formats of a run folder to the current names.

Files are translated in memory when they are read. A file of the user is never rewritten.

Format 2 (from format 1) renames settings of models and of training, the section `plan` of
config.json to `training`, the weights `average` of a checkpoint to `ema`, and keys of an evidence's
provenance.
"""

from collections.abc import Callable
from typing import Any

from workbench.storage.files import is_int

FORMAT = 2

# Modules and classes that moved: the stored `module:Class` to the current one.
CLASS_PATHS = {
    "workbench.teachers.contrastive:ContrastiveNet": (
        "workbench.features.contrastive:ContrastiveNet"
    ),
}
# Settings of models, wherever they are stored: `settings` and `changes` of a run, `settings` of a
# provenance.
MODEL_SETTINGS = {
    "tokens": "num_tokens",
    "codes": "codebook_size",
    "books": "num_codebooks",
    "skip": "linear_init",
    "role": "mode",
    "normalise": "normalize",
    "least": "min_error",
    "most": "max_error",
}
# Settings of one class that were renamed, of any format.
CLASS_SETTINGS = {
    "workbench.tokenizers.karl:KARL": {"trust": "predict_after"},
    "workbench.tokenizers.maetok:MAETok": {"tuning_steps": "tuning"},
}
# Values of settings whose type changed with the name, by the earlier name: tuning_steps was the
# number of steps of stage two, and None in stage one.
SETTING_VALUES: dict[str, Callable[[Any], Any]] = {"tuning_steps": lambda steps: steps is not None}
# Settings of training: `training` and `changes`.
TRAINING_SETTINGS = {
    "average": "ema_decay",
    "table_lr": "sparse_lr_scale",
    "batch": "batch_size",
    "accumulate": "accumulation_steps",
    "warmup": "warmup_steps",
}
# Sections of config.json.
CONFIG_SECTIONS = {"plan": "training"}
# Keys of an evidence's provenance.
PROVENANCE_KEYS = {"plan": "training", "judge": "feature_extractor"}
# Arrays of an evidence: the stored file name (without .npy) to the current field.
EVIDENCE_ARRAYS: dict[str, str] = {}
# The first part of a tensor's name in a checkpoint.
CHECKPOINT_GROUPS = {"average": "ema"}
# Parts of the names of a model's parameters and buffers, matched at the dots.
STATE_DICT_NAMES: dict[str, str] = {"normaliser": "normalizer"}
# Parameters and buffers of format 1 that no model has any more: MAETok's steps of stage two.
REMOVED_TENSORS = ("tuned",)


def is_format(value: Any) -> bool:
    """Return True if a JSON value is the number of a format, of this or another version."""
    return is_int(value) and value >= 1


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """Translate a run's config.json to the current format.

    Parameters
    ----------
    config : dict
        The parsed file, of this or an earlier format.

    Returns
    -------
    dict
        A new dictionary with the current names and `format` set to the current format.
    """
    if config["format"] >= FORMAT:
        return config | _migrate_class(config)
    current = _rename(config, CONFIG_SECTIONS)
    current["class"] = CLASS_PATHS.get(current["class"], current["class"])
    current |= _migrate_sections(current)
    return current | _migrate_class(current) | {"format": FORMAT}


def migrate_provenance(provenance: dict[str, Any], stored_format: int) -> dict[str, Any]:
    """Translate the provenance of an evidence that was stored in `stored_format` to the current
    format.
    """
    if stored_format >= FORMAT:
        return provenance | _migrate_class(provenance)
    current = _rename(provenance, PROVENANCE_KEYS)
    if "class" in current:
        current["class"] = CLASS_PATHS.get(current["class"], current["class"])
    current |= _migrate_sections(current)
    return current | _migrate_class(current)


def stored_array_name(field: str, stored_format: int) -> str:
    """Return the name under which a field of an evidence is stored in a format."""
    if stored_format >= FORMAT:
        return field
    return next((old for old, new in EVIDENCE_ARRAYS.items() if new == field), field)


def migrate_tensor_name(name: str, stored_format: int) -> str:
    """Translate the full name of a tensor in a checkpoint, such as `average.decoder.0.weight`."""
    if stored_format >= FORMAT:
        return name
    group, dot, rest = name.partition(".")
    rest = f".{rest}."
    for old, new in STATE_DICT_NAMES.items():
        rest = rest.replace(f".{old}.", f".{new}.")
    return CHECKPOINT_GROUPS.get(group, group) + dot + rest[1:-1]


def is_removed_tensor(name: str, stored_format: int) -> bool:
    """Return True if no model has the tensor of this full name any more."""
    return stored_format < FORMAT and name.partition(".")[2] in REMOVED_TENSORS


def _migrate_sections(stored: dict[str, Any]) -> dict[str, Any]:
    tables = {
        "settings": MODEL_SETTINGS,
        "training": TRAINING_SETTINGS,
        "changes": MODEL_SETTINGS | TRAINING_SETTINGS,
    }
    return {
        section: _rename(stored[section], names)
        for section, names in tables.items()
        if isinstance(stored.get(section), dict)
    }


def _migrate_class(stored: dict[str, Any]) -> dict[str, Any]:
    names = CLASS_SETTINGS.get(stored.get("class", ""), {})
    return {
        section: _rename(stored[section], names)
        for section in ("settings", "changes")
        if names and isinstance(stored.get(section), dict)
    }


def _rename(stored: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    renamed = {}
    for name, value in stored.items():
        convert = SETTING_VALUES.get(name) if name in names else None
        renamed[names.get(name, name)] = value if convert is None else convert(value)
    return renamed
