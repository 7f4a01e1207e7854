"""Loading the model of an imported run again from its address.

No weights are stored in such a run. The digests of the files show whether they are still the same.
"""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.errors import RunError, UserError
from workbench.core.printable import printable
from workbench.core.trusted import UntrustedError
from workbench.storage.files import file_digest
from workbench.storage.run_config import ImportedConfig

if TYPE_CHECKING:
    from torch import nn

LOADERS = {
    "tokenizer": "workbench.tokenizers.pretrained",
    "generator": "workbench.generators.pretrained",
}


def digests(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its path relative to the folder that contains all."""
    if not files:
        return {}
    paths = [file.absolute() for file in files]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(root).as_posix(): file_digest(path) for path in paths}


def load_imported(folder: Path, imported: ImportedConfig, trust: Sequence[str] = ()) -> "nn.Module":
    """Load the model of an imported run in evaluation mode.

    Parameters
    ----------
    folder : Path
        The folder of the run, for messages.
    imported : ImportedConfig
        The section `imported` of its config.json.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Raises
    ------
    RunError
        If there is no model or no address, or the files were moved or have changed.
    """
    name = printable(folder)
    if imported.kind not in LOADERS:
        raise RunError(f"{name} was made of arrays, and has no model that could be loaded.")
    address = imported.address
    if address is None:
        raise RunError(
            f"{name} was evaluated from Python objects, which are not stored, so its model cannot "
            "be loaded. Evaluate it by an address, such as python:my_module:make_tokenizer."
        )
    loader = importlib.import_module(LOADERS[imported.kind])
    options = dict(imported.options)
    if imported.kind == "tokenizer":  # no generator runs code of the user
        options["trust"] = tuple(trust)
    try:
        pretrained = loader.load(address, revision=imported.revision, **options)
    except UntrustedError as error:
        raise RunError(f"{name}: {error}") from None
    except UserError as error:
        raise RunError(
            f"The model of {name} cannot be loaded: {error} If it was moved, write its address into"
            f" imported.address of {name}/config.json."
        ) from None
    current = digests(pretrained.files)
    changed = sorted(
        file for file, digest in imported.files.items() if current.get(file, "") != digest
    )
    if changed:
        raise RunError(
            f"{', '.join(changed)} of {address} changed after {name} was evaluated. Restore it, or "
            f"evaluate it into a new run: workbench evaluate {address} --out RUN"
        )
    model: nn.Module = getattr(pretrained, imported.kind)
    return model.eval()
