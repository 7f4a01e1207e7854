"""The trainings that wait in a queue, in a file of the folder of runs.

A queue that is made later, after the server or its machine was restarted, shows them again.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.storage.atomic import write_text
from workbench.storage.files import DamagedError, parse_json, read_bytes

FILE_NAME = "queue.json"  # in the folder of runs
RUN_NAME = re.compile(r"[\w][\w.=+-]{0,99}")  # the name of a folder without surprises


@dataclass(frozen=True, kw_only=True)
class StoredTraining:
    """A training that has not started.

    Attributes
    ----------
    name : str
        The name of the run.
    target : str
        The recipe, or `module:Class`.
    settings : dict
        Changed settings by name.
    """

    name: str
    target: str
    settings: dict[str, Any] = field(default_factory=dict)


def read_queue(folder: Path) -> tuple[StoredTraining, ...]:
    """Return the trainings that wait, in their order; none if there is no file.

    Parameters
    ----------
    folder : Path
        The folder of runs.

    Raises
    ------
    UserError
        If the file is damaged or cannot be read.
    """
    path = folder / FILE_NAME
    try:
        content = parse_json(read_bytes(path))
    except FileNotFoundError:
        return ()
    except DamagedError:
        raise _damaged(path) from None
    if not isinstance(content, list):
        raise _damaged(path)
    return tuple(_parse(path, entry) for entry in content)


def write_queue(folder: Path, trainings: Sequence[StoredTraining]) -> None:
    """Store the trainings that wait; without any, the file is removed.

    Parameters
    ----------
    folder : Path
        The folder of runs.
    trainings : sequence of StoredTraining
        The trainings in their order.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    path = folder / FILE_NAME
    if trainings:
        write_text(path, json.dumps([asdict(training) for training in trainings], indent=1))
    else:
        path.unlink(missing_ok=True)


def _parse(path: Path, entry: Any) -> StoredTraining:
    kinds = {"name": str, "target": str, "settings": dict}
    is_complete = isinstance(entry, dict) and entry.keys() == kinds.keys()
    if not is_complete or not all(isinstance(entry[key], kind) for key, kind in kinds.items()):
        raise _damaged(path)
    if not RUN_NAME.fullmatch(entry["name"]):
        raise _damaged(path)
    return StoredTraining(**entry)


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged: it is not a list of trainings. Delete it; the trainings that waited"
        " in it must be started again."
    )
