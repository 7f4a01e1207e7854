"""The file status.json of a run, which its one writer replaces and every process may read."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError
from workbench.core.printable import printable
from workbench.storage.atomic import read_json, write_text
from workbench.storage.files import is_count, is_number
from workbench.storage.process import current_process

FILE_NAME = "status.json"


def read_status(folder: Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a run.

    Parameters
    ----------
    folder : Path
        The folder of the run.
    defaults : mapping
        The values that hold before training has written status.json.

    Raises
    ------
    RunError
        If it cannot be read, or a value in it has the wrong type.
    """
    path = folder / FILE_NAME
    status = {**defaults, **read_json(path, {})}
    for name, is_valid in _CHECKS.items():
        if name in status and not is_valid(status[name]):
            raise RunError(
                f"{printable(path)} is damaged ({name} is of the wrong type). "
                "Delete it; training writes it again."
            )
    return status


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    """Write the status, with the process that writes it."""
    write_text(folder / FILE_NAME, json.dumps({**status, **current_process()}))


def _is_optional_number(value: Any) -> bool:
    return value is None or is_number(value)


def _is_multipliers(value: Any) -> bool:
    return isinstance(value, dict) and all(is_number(number) for number in value.values())


# The required type of each value in status.json that is read.
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "state": lambda value: isinstance(value, str),
    "step": is_count,
    "steps": is_count,
    "seconds_left": _is_optional_number,
    "weights": _is_multipliers,
    "lr": is_number,
    "answered": is_count,
    "time": is_number,
}
