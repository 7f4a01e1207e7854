"""The trainings that wait in queues, in a file of the folder of runs.

Several dashboards of one folder share the file: each entry names the process whose queue it waits
in, and a process changes only its own entries. A queue that is made later, after that process or
its machine was restarted, takes the entry over.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError
from workbench.storage.atomic import write_text
from workbench.storage.exclusive import exclusive
from workbench.storage.files import DamagedError, is_finite, is_int, parse_json, read_bytes
from workbench.storage.process import current_process, is_alive

FILE_NAME = "queue.json"  # in the folder of runs
LOCK_NAME = ".queue.lock"
LOCK_TIMEOUT_S = 5.0  # the lock is held while one small file is read and written
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
    owner : dict or None
        The process whose queue it waits in, as `current_process` returns it; None if that was
        closed.
    """

    name: str
    target: str
    settings: dict[str, Any] = field(default_factory=dict)
    owner: dict[str, Any] | None = None

    @property
    def is_own(self) -> bool:
        """True if this process owns it."""
        own = current_process()
        return self.owner is not None and all(
            self.owner[key] == own[key] for key in ("host", "pid", "born")
        )

    @property
    def is_free(self) -> bool:
        """True if no living process owns it."""
        return self.owner is None or not is_alive(self.owner)


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


def take_over_queue(folder: Path) -> tuple[StoredTraining, ...]:
    """Make this process the owner of the trainings that no living process owns.

    Parameters
    ----------
    folder : Path
        The folder of runs.

    Returns
    -------
    tuple of StoredTraining
        Those trainings, in their order.

    Raises
    ------
    UserError
        If the file is damaged, or cannot be read or written.
    """
    if not any(training.is_free for training in read_queue(folder)):
        return ()
    with _locked(folder):
        stored = read_queue(folder)
        free = [training.is_free for training in stored]
        owner = current_process()
        changed = tuple(
            replace(training, owner=owner) if is_free else training
            for training, is_free in zip(stored, free, strict=True)
        )
        _write(folder, changed)
    return tuple(training for training, is_free in zip(changed, free, strict=True) if is_free)


def store_queue(
    folder: Path, trainings: Sequence[StoredTraining], *, is_closed: bool = False
) -> None:
    """Store the trainings that wait in the queue of this process, and keep those of others.

    Without any, the file is removed.

    Parameters
    ----------
    folder : Path
        The folder of runs.
    trainings : sequence of StoredTraining
        The trainings of this process in their order.
    is_closed : bool
        Whether the queue is closed, so that another one may take them over.

    Raises
    ------
    UserError
        If a training of the same name waits in the queue of another process, or the file is
        damaged or cannot be written.
    """
    owner = None if is_closed else current_process()
    with _locked(folder):
        others = [training for training in read_queue(folder) if not training.is_own]
        taken = {training.name for training in others}
        for training in trainings:
            if training.name in taken:
                raise UserError(f"{training.name} is in the queue of another dashboard already.")
        _write(folder, (*others, *(replace(training, owner=owner) for training in trainings)))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    message = f"{folder / FILE_NAME} is locked by another process. Try again."
    with exclusive(folder / LOCK_NAME, lambda: message, timeout_s=LOCK_TIMEOUT_S):
        yield


def _write(folder: Path, trainings: Sequence[StoredTraining]) -> None:
    path = folder / FILE_NAME
    if not trainings:
        path.unlink(missing_ok=True)
        return
    entries = [asdict(training) for training in trainings]
    write_text(path, json.dumps(entries, indent=1))


def _parse(path: Path, entry: Any) -> StoredTraining:
    kinds = {"name": str, "target": str, "settings": dict}
    is_complete = isinstance(entry, dict) and entry.keys() - {"owner"} == kinds.keys()
    if not is_complete or not all(isinstance(entry[key], kind) for key, kind in kinds.items()):
        raise _damaged(path)
    if not RUN_NAME.fullmatch(entry["name"]) or not _is_owner(entry.get("owner")):
        raise _damaged(path)
    return StoredTraining(**entry)


def _is_owner(value: Any) -> bool:
    """Return True for a process as `current_process` returns it, and for None."""
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and is_int(value.get("pid"))
        and isinstance(value.get("host"), str)
        and is_finite(value.get("born"))
        and is_finite(value.get("time"))
    )


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged: it is not a list of trainings. Delete it; the trainings that waited"
        " in it must be started again."
    )
