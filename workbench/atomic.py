"""Files that are whole or not there: written aside, then moved into place. No reader ever sees half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A place beside the path to write to; moved to the path if the block succeeds, gone if not. Raises RunError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path} could not be written: {reason}. What was there before stays.") from None
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file."""
    with aside(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: "dict[str, Tensor]", step: int) -> None:
    """Write a checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with aside(path) as beside:
        try:
            save_file(tensors, beside, metadata={"format": "pt", "step": str(step)})
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from None
        beside.chmod(0o644)  # safetensors makes it private to its writer; a run is there to be read


def read_tensors(path: Path) -> "dict[str, dict[str, Tensor]]":
    """A checkpoint's tensors by the first word of their names: model, average, optimizer. Raises RunError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    try:
        for name, tensor in load_file(path).items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
    except (SafetensorError, KeyError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete it to go on from the checkpoint before it.") from None
    return groups
