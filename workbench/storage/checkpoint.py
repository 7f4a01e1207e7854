"""Checkpoints: the tensors of one training step in a safetensors file.

Tensor names begin with a group: `model.` (weights), `ema.` (their moving average) or `optimizer.`
(its state, by parameter). The metadata contains the SHA-256 of the tensors, which is compared
whenever a checkpoint is read. Checkpoints of earlier versions have none.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import RunError
from workbench.core.printable import printable
from workbench.storage.atomic import atomic_path
from workbench.storage.files import open_regular
from workbench.storage.migrations import FORMAT, is_removed_tensor, migrate_tensor_name

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = ("model", "ema", "optimizer")
MAX_REASON_LENGTH = 200
DIGEST = "sha256"  # key of the metadata


def write_tensors(path: Path, tensors: "dict[str, Tensor]", step: int) -> None:
    """Write a checkpoint.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {
        "format": "pt",
        "step": str(step),
        "workbench": str(FORMAT),
        DIGEST: _digest(tensors),
    }
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
        If the file is damaged or cannot be read, or a weight is not finite.
    """
    from safetensors import SafetensorError, safe_open

    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    try:
        open_regular(path).close()  # names the cause if the file cannot be read
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            stored_format = int(metadata.get("workbench", 1))
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if DIGEST in metadata and metadata[DIGEST] != _digest(stored):
            raise ValueError("its content has changed since it was written")
        for stored_name, tensor in stored.items():
            if is_removed_tensor(stored_name, stored_format):
                continue
            name = migrate_tensor_name(stored_name, stored_format)
            group, _, rest = name.partition(".")
            if group not in groups:
                raise ValueError(f"it has an unknown tensor {printable(stored_name)}")
            groups[group][rest] = tensor
    except RunError:
        raise
    except FileNotFoundError:
        raise RunError(f"{printable(path)} does not exist.") from None
    except (SafetensorError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        raise RunError(
            f"{printable(path)} is damaged ({reason}). "
            "Delete it to resume from the checkpoint before it."
        ) from None
    for group in ("model", "ema"):
        _check_finite(path, groups[group])
    return groups


def checkpoint_digest(path: Path) -> str:
    """Return the SHA-256 of the tensors of a checkpoint, or of the file of an earlier version.

    Raises
    ------
    RunError
        If the file is damaged or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            stored = (file.metadata() or {}).get(DIGEST)
        if stored is not None:
            return str(stored)
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
        raise RunError(f"{printable(path)} cannot be read ({reason}).") from None


def _digest(tensors: "Mapping[str, Tensor]") -> str:
    """Return the SHA-256 of names, types, shapes and values."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_finite(path: Path, weights: "Mapping[str, Tensor]") -> None:
    import torch

    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise RunError(
                f"{printable(path)} has weights that are not finite ({count:,} of "
                f"{tensor.numel():,} values of {name}). Use an earlier checkpoint."
            )
