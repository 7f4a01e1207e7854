"""Weights from files of other programs, without running anything that a file contains.

A `.pt`, `.pth`, `.ckpt` or `.bin` file is a pickle. It is read by torch's restricted unpickler.
Names of classes that published files are known to mention, such as Lightning's callbacks, are bound
to a class that does nothing; the real class is never imported. Every other name is refused.
"""

import fnmatch
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.counted import counted
from workbench.core.errors import UserError
from workbench.core.printable import printable
from workbench.storage.files import open_regular

if TYPE_CHECKING:
    from torch import Tensor

HARMLESS_NAMES = (
    "argparse.Namespace",
    "lightning.pytorch.callbacks.*",
    "numpy._core.multiarray.*",
    "numpy.core.multiarray.*",
    "numpy.dtype",
    "numpy.ndarray",
    "omegaconf.*",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pytorch_lightning.callbacks.*",
    "typing.Any",
)
STATE_DICT_KEYS = ("ema", "state_dict", "model")  # the first that exists holds the network
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
UNSUPPORTED_NAME = re.compile(r"GLOBAL ([\w.]+)")  # in an error of torch
MAX_NAMES = 5


class Inert:
    """Replaces a class that a file names. It takes any arguments, and does nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path, *, key: str | None = None) -> "dict[str, Tensor]":
    """Read the tensors of a network by their names.

    Parameters
    ----------
    path : Path
        A safetensors file, or a file that `torch.save` wrote.
    key : str, optional
        The entry that holds the network. By default the first of ema, state_dict and model that
        exists, else the file itself.

    Returns
    -------
    dict of Tensor
        The tensors on the CPU. Prefixes that wrappers put before every name are removed.

    Raises
    ------
    UserError
        If the file is damaged, holds no weights, or names a class that is not known to be harmless.
    """
    content = read_checkpoint(path)
    weights = _state_dict(path, content, key)
    for prefix in WRAPPER_PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read everything that a file with weights contains: tensors, numbers, text and containers.

    Raises
    ------
    UserError
        If the file is damaged, is not a dictionary, or names a class that is not known to be
        harmless.
    """
    try:
        open_regular(path).close()  # names the cause if the file cannot be read
    except FileNotFoundError:
        raise UserError(f"{printable(path)} does not exist.") from None
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{printable(path)} must contain a dictionary of tensors, got a {kind}.")
    return content


def check_safetensors(path: Path) -> None:
    """Check the header and the length of a safetensors file, without reading its tensors.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _read_safetensors(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, error) from None


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError):
        names = []  # a format that cannot be listed; the restricted unpickler decides
    refused = sorted(name for name in names if not _is_harmless(name))
    if refused:
        raise _refused(path, refused)
    bindings: Any = [(Inert, name) for name in names]
    try:
        # torch warns of pickle protocols that it then reads or refuses.
        with torch.serialization.safe_globals(bindings), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = UNSUPPORTED_NAME.search(str(error))
        raise _refused(path, [named[1]] if named else []) from None
    except Exception as error:  # a damaged pickle may raise any error
        raise _damaged(path, error) from None


def _refused(path: Path, names: Sequence[str]) -> UserError:
    if not names:
        return UserError(
            f"{printable(path)} is damaged, or contains objects other than tensors and containers,"
            " which could run code. Download it again, or convert it to safetensors on a machine"
            " where its origin is trusted."
        )
    objects = ", ".join(names[:MAX_NAMES])
    return UserError(
        f"{printable(path)} contains {objects}, which could run code. Convert the file to "
        "safetensors on a machine where its origin is trusted."
    )


def _is_harmless(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in HARMLESS_NAMES)


def _state_dict(path: Path, content: Mapping[str, Any], key: str | None) -> "dict[str, Tensor]":
    from torch import Tensor

    if key is not None and key not in content:
        available = ", ".join(str(name) for name in list(content)[:MAX_NAMES])
        raise UserError(f"{printable(path)} has no entry `{key}`; it has {available}, ...")
    keys = STATE_DICT_KEYS if key is None else (key,)
    held = next((content[name] for name in keys if isinstance(content.get(name), dict)), content)
    weights = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"{printable(path)} holds no weights: no entry is a tensor.")
    return weights


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160] or "it ends too early"
    return UserError(f"{printable(path)} is damaged ({reason}). Download it again.")


def check_names(
    path: Path, weights: "Mapping[str, Tensor]", expected: "Mapping[str, Tensor]"
) -> None:
    """Check that a state dict fits a module, entry by entry.

    Parameters
    ----------
    path : Path
        The file, for the message.
    weights : mapping of str to Tensor
        The tensors of the file under the module's names, without those that are never used.
    expected : mapping of str to Tensor
        The state dict of the module.

    Raises
    ------
    UserError
        With the names of at most five entries that are missing, unknown, of another shape or not of
        floating point, and their count.
    """
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    misshapen = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    integers = [
        f"{name} ({str(weights[name].dtype).removeprefix('torch.')})"
        for name, tensor in expected.items()
        if name in weights and tensor.is_floating_point() and not weights[name].is_floating_point()
    ]
    faults = [
        f"{counted(len(names), 'entry is', 'entries are')} {fault}: {', '.join(names[:MAX_NAMES])}"
        for fault, names in (
            ("missing", missing),
            ("unknown", extra),
            ("of another shape", misshapen),
            ("not of floating point", integers),
        )
        if names
    ]
    if faults:
        raise UserError(f"{printable(path)} does not fit the network; {'; '.join(faults)}.")
