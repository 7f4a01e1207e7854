"""Reading of a folder of evidence, whole or not at all.

The folder may be replaced while it is read, and its files may be damaged.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from workbench.core.errors import RunError
from workbench.core.printable import printable
from workbench.storage.evidence_arrays import ARRAYS
from workbench.storage.files import (
    DamagedError,
    check_digest,
    load_array,
    open_regular,
    read_rest,
    unreadable,
)
from workbench.storage.leftovers import reappears
from workbench.storage.migrations import stored_array_name
from workbench.storage.provenance_file import parse_provenance, with_folder_name

MAX_REASON_LENGTH = 200
# Codewords have no channels if only their number is known; in older evidence they may have others.
INDEPENDENT_AXES = ("channel",)
MAX_CHECKED_BYTES = 256 * 2**20  # takes about 0.15 s, once per process


def read_evidence(
    folder: Path, names: Collection[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the provenance and open the arrays of one version of evidence.

    Parameters
    ----------
    folder : Path
        The folder of the evidence.
    names : collection of str
        The names of the arrays to open.

    Returns
    -------
    provenance : dict
        The provenance in the current format.
    arrays : dict of str to ndarray
        Those of these arrays that the folder has, as memory maps.

    Raises
    ------
    RunError
        If the evidence is missing, damaged, unreadable, or was written by a newer version.
    """
    path = folder / "provenance.json"
    try:
        provenance, arrays = _read_one_version(path, names)
    except FileNotFoundError:
        if reappears(folder, path.name):
            return read_evidence(folder, names)
        raise RunError(
            f"{printable(folder)} holds no evidence. Collect it with: {_collect_command(folder)}"
        ) from None
    except DamagedError as error:
        raise _damaged(folder, error) from None
    except OSError as error:
        raise unreadable(path, error) from None
    return with_folder_name(provenance, folder), arrays


def _read_one_version(
    path: Path, names: Collection[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read evidence again until its folder is not replaced meanwhile."""
    while True:
        # While the file is open, no newer file can have its inode.
        with open_regular(path) as file:
            try:
                content = _read(file, path.parent, names)
            except DamagedError:
                if _is_current(file, path):
                    raise
                continue
            # Otherwise some arrays are older than others.
            if _is_current(file, path):
                return content


def verify_evidence(folder: Path) -> None:
    """Compare every array of evidence with the digest that was stored when it was written.

    Raises
    ------
    RunError
        If an array is missing or has changed, or the evidence cannot be opened.
    """
    path = folder / "provenance.json"
    while True:
        read_evidence(folder, ())  # waits for a living writer, or raises the error
        try:
            with open_regular(path) as file:
                _, _, digests = parse_provenance(read_rest(path, file), folder)
                try:
                    for name, digest in digests.items():
                        _check_file(folder / f"{name}.npy", digest)
                except DamagedError as error:
                    if _is_current(file, path):
                        raise _damaged(folder, error) from None
                    continue
        except FileNotFoundError:  # the folder is being replaced
            continue
        return


def _read(
    file: BinaryIO, folder: Path, names: Collection[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the provenance from its open file, and open the arrays of these names.

    Raises
    ------
    DamagedError
        With the name of the file that is damaged.
    """
    provenance, stored_format, digests = parse_provenance(
        read_rest(folder / "provenance.json", file), folder
    )
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        path = folder / f"{stored_array_name(name, stored_format)}.npy"
        try:
            arrays[name] = load_array(path)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            raise DamagedError(f"{path.name}: {error}") from None
        fault = ARRAYS[name].fault(arrays[name])
        if fault:
            raise DamagedError(f"{path.name}: {fault}")
    fault = _differing_lengths(arrays, provenance)
    if fault:
        raise DamagedError(fault)
    for name in digests.keys() & set(names):
        path = folder / f"{name}.npy"
        if _is_small(path):
            _check_file(path, digests[name])
    return provenance, arrays


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Return True if an open file is still the one at a path."""
    return os.path.samestat(os.fstat(file.fileno()), path.stat())


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size <= MAX_CHECKED_BYTES
    except OSError:
        return True  # checking it gives the reason


def _check_file(path: Path, digest: str) -> None:
    """Raise DamagedError, with the name of the file, if it is missing or has another digest."""
    try:
        check_digest(path, digest)
    except FileNotFoundError:
        raise DamagedError(f"{path.name}: it is missing") from None
    except DamagedError as error:
        raise DamagedError(f"{path.name}: {error}") from None


def _differing_lengths(arrays: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> str:
    """Name an array whose axis has another length than that axis of another array.

    The provenance has the number of images of a tokenizer, or of the samples of a generator.
    """
    first: dict[str, tuple[str, int]] = {}
    has_all_pictures = provenance.get("pictures") is None
    if not has_all_pictures:
        first["picture"] = ("provenance.json", provenance["pictures"])
    counted_axis = "image" if provenance.get("tokenizer") is None else "sample"
    if provenance.get("n") is not None:
        first[counted_axis] = ("provenance.json", provenance["n"])
    for name, array in arrays.items():
        for axis, length in zip(ARRAYS[name].axes, array.shape, strict=True):
            if axis in INDEPENDENT_AXES:
                continue
            if axis == "picture" and has_all_pictures:
                axis = "image"
            reference, expected = first.setdefault(axis, (name, length))
            if length != expected:
                counts = f"{length:,} along {axis.replace('_', ' ')}, and {reference} has"
                return f"{name}.npy: it has {counts} {expected:,}"
    return ""


def _damaged(folder: Path, error: DamagedError) -> RunError:
    # In one line: numpy's messages may quote the file's content.
    reason = " ".join(str(error).split())[:MAX_REASON_LENGTH]
    return RunError(
        f"The evidence in {printable(folder)} is damaged ({reason}). "
        f"Collect it again with: {_collect_command(folder)}"
    )


def _collect_command(folder: Path) -> str:
    """Return the command that collects the evidence of a folder."""
    return f"workbench collect {printable(folder.parent.parent)}"
