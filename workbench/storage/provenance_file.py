"""The origin of evidence: the file provenance.json, its checks and its digests of the arrays."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError
from workbench.core.printable import printable
from workbench.storage.files import (
    STEP_NAME,
    DamagedError,
    file_digest,
    is_count,
    is_int,
    parse_json,
)
from workbench.storage.migrations import FORMAT, is_format, migrate_provenance
from workbench.storage.run_folders import run_name


def is_held_out(provenance: Mapping[str, Any]) -> bool:
    """Return False if every image of a dataset was evaluated: no model was trained on any."""
    return provenance.get("split") != "all"


def write_provenance(folder: Path, provenance: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write the provenance of arrays that are in a folder, with their digests.

    Parameters
    ----------
    folder : Path
        The folder of the arrays.
    provenance : mapping
        Their origin.
    names : sequence of str
        Their names.
    """
    digests = {name: file_digest(folder / f"{name}.npy") for name in names}
    stored = {"format": FORMAT, **provenance, "digests": digests}
    (folder / "provenance.json").write_text(json.dumps(stored, indent=1), encoding="utf-8")


def parse_provenance(content: bytes, folder: Path) -> tuple[dict[str, Any], int, Mapping[str, str]]:
    """Return the provenance in the current format, the format it was stored in, and the digests
    of the arrays by the names of their files.
    """
    try:
        stored = parse_json(content)
        digests = stored.pop("digests", {}) if isinstance(stored, dict) else {}
        if not isinstance(digests, dict) or not all(map(_is_text, digests.values())):
            raise DamagedError("digests is of the wrong type")
        return *_checked_provenance(stored, folder), digests
    except DamagedError as error:
        raise DamagedError(f"provenance.json: {error}") from None


def _checked_provenance(stored: Any, folder: Path) -> tuple[dict[str, Any], int]:
    """Return the provenance in the current format, and the format it was stored in."""
    if not isinstance(stored, dict) or not is_format(stored.get("format")):
        raise DamagedError("it has no format number")
    stored_format = stored.pop("format")
    if stored_format > FORMAT:
        raise RunError(
            f"{printable(folder)} was written by a newer workbench. "
            "Upgrade this package to read it."
        )
    for name in ("run", "step"):
        if stored.get(name) is None:
            raise DamagedError(f"it has no {name}")
    if not isinstance(stored.get("class", ""), str):
        raise DamagedError("class is not text")
    provenance = migrate_provenance(stored, stored_format)
    for name, value in provenance.items():
        is_valid = PROVENANCE_CHECKS.get(name)
        if value is not None and is_valid is not None and not is_valid(value):
            raise DamagedError(f"{name} is of the wrong type")
    return provenance, stored_format


def with_folder_name(provenance: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the provenance with the present name of the run's folder, which may have been moved.

    Evidence outside of a run keeps the name that was stored.
    """
    if not is_in_run(folder):
        return provenance
    return provenance | {"run": run_name(folder.parent.parent)}


def is_in_run(folder: Path) -> bool:
    """Return True if a folder of evidence is in the folder of a run."""
    return folder.parent.name == "evidence" and STEP_NAME.fullmatch(folder.name) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_grid(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_int(item) for item in value)


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("run"), str)


# The required type of each known key of a provenance; None is always allowed.
PROVENANCE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "run": _is_text,
    "step": is_count,
    "data": _is_text,
    "split": _is_text,
    "names": _is_list_of_text,
    "fingerprint": _is_text,
    "n": is_count,
    "of": is_count,
    "excluded": _is_list_of_text,
    "pictures": is_count,
    "seed": is_int,
    "grid": _is_grid,
    "teacher": _is_text,
    "feature_extractor": _is_text,
    "feature_extractor_reason": _is_text,
    "protocol": _is_text,
    "reference": _is_text,
    "has_training_images": lambda value: isinstance(value, bool),
    "tokenizer": _is_reference,
    "sampling": _is_table,
    "imported": _is_table,
    "resize": _is_text,
    "not_collected": _is_table,
    "settings": _is_table,
    "training": _is_table,
    "versions": _is_table,
}
