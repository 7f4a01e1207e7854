"""Checkpoints: the tensors of one training step in a safetensors file.

Tensor names begin with a group: `model.` (weights), `ema.` (their moving average) or `optimizer.`
(its state, by parameter).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import RunError
from workbench.storage.atomic import atomic_path
from workbench.storage.files import open_regular
from workbench.storage.migrations import FORMAT, migrate_tensor_name

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = ("model", "ema", "optimizer")


def write_tensors(path: Path, tensors: "dict[str, Tensor]", step: int) -> None:
    """Write a checkpoint.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {"format": "pt", "step": str(step), "workbench": str(FORMAT)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # its report of a full disk
            raise OSError(str(error)) from None
        temporary.chmod(0o644)  # safetensors makes the file private to its owner


def read_tensors(path: Path) -> "dict[str, dict[str, Tensor]]":
    """Read a checkpoint of this or an earlier format.

    Returns
    -------
    dict of dict of Tensor
        The tensors by group (model, ema, optimizer) and by their name within it.

    Raises
    ------
    RunError
        If the file is damaged or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    try:
        open_regular(path).close()  # names the cause if the file cannot be read
        with safe_open(path, "pt") as file:
            stored_format = int((file.metadata() or {}).get("workbench", 1))
            for stored_name in file.keys():  # noqa: SIM118  the file is not a dictionary
                name = migrate_tensor_name(stored_name, stored_format)
                group, _, rest = name.partition(".")
                groups[group][rest] = file.get_tensor(stored_name)
    except RunError:
        raise
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise RunError(
            f"{path} is damaged ({error}). Delete it to resume from the checkpoint before it."
        ) from None
    return groups
