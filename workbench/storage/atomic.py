"""Files that are whole or not there: written aside, then moved into place. No reader ever sees half of one.

A log grows by a line at a time instead: a line that was torn by a kill or a full disk is skipped, the others stay.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RunError
from workbench.storage.migrations import FORMAT, migrate_tensor_name

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A place beside the path to write to; moved to the path if the block succeeds, gone if not. Raises RunError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"{path} could not be written: {reason}. What was there before stays."
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_json(path: Path, otherwise: Any) -> Any:
    """What a small JSON file holds; `otherwise` where it is missing, damaged, or of another kind than that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return otherwise
    return found if isinstance(found, type(otherwise)) else otherwise


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a line of JSON, on a line of its own even where the last one was torn. Raises RunError."""
    try:
        with path.open("a+b") as file:
            torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            file.write(b"\n" * torn + json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}.") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first, without torn ones and one that is still being written."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    records = []
    for line in raw[: raw.rfind(b"\n") + 1].splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict)]


def write_tensors(path: Path, tensors: "dict[str, Tensor]", step: int) -> None:
    """Write a checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as beside:
        try:
            metadata = {"format": "pt", "step": str(step), "workbench": str(FORMAT)}
            save_file(tensors, beside, metadata=metadata)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from None
        beside.chmod(0o644)  # safetensors makes it private to its writer; a run is there to be read


def read_tensors(path: Path) -> "dict[str, dict[str, Tensor]]":
    """A checkpoint's tensors by the first word of their names: model, ema, optimizer. Raises RunError."""
    from safetensors import SafetensorError, safe_open

    groups: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
    try:
        with safe_open(path, "pt") as file:
            stored_format = int((file.metadata() or {}).get("workbench", 1))
            for name in file.keys():  # noqa: SIM118  the file is not a dictionary
                group, _, rest = migrate_tensor_name(name, stored_format).partition(".")
                groups[group][rest] = file.get_tensor(name)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunError(
            f"{path} is damaged ({error}). Delete it to go on from the checkpoint before it."
        ) from None
    return groups
