"""Cache of results on disk. A result is computed once for the same arrays, controls and code.

The cache is never required: its folder can be deleted at any time.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import asdict
from functools import cache
from hashlib import blake2b, sha256
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from workbench.analysis import result_serialization
from workbench.analysis.base import Result
from workbench.core.errors import RunError
from workbench.core.mapped_memory import release_mapped_pages
from workbench.storage.atomic import atomic_folder, read_json, write_text
from workbench.storage.evidence import ARRAYS, Evidence
from workbench.storage.training_log import TrainingLog, log_key

MAX_CACHE_BYTES = 512 * 2**20  # the oldest results are removed beyond it
HASH_FILE = "hashes.json"  # hashes of arrays in files, so that those are not read again
MAX_HASHES = 20_000
# Libraries that results are computed with.
LIBRARIES = ("numpy", "scipy", "scikit-learn", "umap-learn", "pandas")
NUM_PROBED_VALUES = 1000  # of a memory-mapped array, to detect that its file was replaced
R = TypeVar("R", bound=Result)
# The cache of the analysis that is being computed, for the analyses that it is composed of.
_current_cache: ContextVar[Path | None] = ContextVar("current_cache", default=None)


def cached_result(
    cache_dir: Path,
    analysis: Callable[..., R],
    inputs: dict[str, Any],
    controls: dict[str, Any],
) -> R:
    """Return the result of an analysis from the cache, or compute and store it.

    The result is computed if it is not in the cache or its files are damaged. It is not stored if
    the folder is not writable or a field cannot be serialized. Results of other analyses that it
    is composed of are cached as well; see `composed_result`.

    Parameters
    ----------
    cache_dir : Path
        Folder of the cache. Its parent must exist.
    analysis : callable
        Function that returns a `Result`.
    inputs : dict
        Evidence arguments by name.
    controls : dict
        Keyword arguments.

    Returns
    -------
    Result

    Raises
    ------
    UserError
        If the analysis raises it. Errors are not cached.
    """
    folder = _result_folder(cache_dir, analysis, inputs, controls)
    stored = _read_result(folder, analysis)
    if stored is not None:
        return stored
    token = _current_cache.set(cache_dir)
    try:
        result = analysis(**inputs, **controls)
    finally:
        _current_cache.reset(token)
    if folder is not None:
        with suppress(RunError, OSError, TypeError):
            _write_result(result, folder)
    return result


def composed_result(analysis: Callable[..., R], inputs: dict[str, Any], **controls: Any) -> R:
    """Return the result of an analysis on behalf of another analysis.

    It is taken from the cache that the other analysis is computed for, if there is one, so that
    nothing is computed twice.

    Parameters
    ----------
    analysis : callable
        Function that returns a `Result`.
    inputs : dict
        Evidence arguments by name.
    **controls
        Controls by name.

    Returns
    -------
    Result
        An instance of the class that the analysis returns.

    Raises
    ------
    UserError
        If the analysis raises it.
    """
    cache_dir = _current_cache.get()
    try:
        if cache_dir is None:
            return analysis(**inputs, **controls)
        return cached_result(cache_dir, analysis, inputs, controls)
    finally:
        release_mapped_pages()  # a comparison reads the arrays of many runs


def lookup(
    cache_dir: Path,
    analysis: Callable[..., Result],
    inputs: dict[str, Any],
    controls: dict[str, Any],
) -> Any:
    """Return a result from the cache, or None if it is not there. Nothing is computed.

    Parameters
    ----------
    cache_dir : Path
        Folder of the cached results.
    analysis : callable
        The function whose result is looked up.
    inputs : dict
        Evidence arguments by name.
    controls : dict
        Keyword arguments.

    Returns
    -------
    Result or None
        An instance of the class that the analysis returns.
    """
    return _read_result(_result_folder(cache_dir, analysis, inputs, controls), analysis)


def cache_key(
    name: str,
    inputs: dict[str, Any],
    controls: dict[str, Any],
    *,
    code: str | None = None,
    hashes: Path,
) -> str:
    """Compute the key of a result. It changes with every array, control and line of code.

    Parameters
    ----------
    name : str
        Name of the analysis.
    inputs : dict
        Evidence arguments by name.
    controls : dict
        Keyword arguments.
    code : str, optional
        Fingerprint of the code. By default that of this package.
    hashes : Path
        File that stores the hashes of memory-mapped arrays.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    TypeError
        If an argument is neither an array nor JSON.
    """
    known_hashes = _read_hashes(hashes)
    num_known = len(known_hashes)
    content = {
        "analysis": name,
        "inputs": _to_json(inputs, known_hashes),
        "controls": _to_json(controls, known_hashes),
        "code": code or code_fingerprint(),
    }
    if len(known_hashes) > num_known:
        _write_hashes(hashes, known_hashes)
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def code_fingerprint(package: Path = Path(__file__).parent) -> str:
    """Hash the source files of a package and the versions of the numerical libraries.

    Parameters
    ----------
    package : Path
        Folder of the package; by default the analyses.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    versions = {library: _installed_version(library) for library in LIBRARIES}
    digest = sha256(json.dumps(versions).encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def evict_oldest(cache_dir: Path, max_bytes: int) -> None:
    """Remove the oldest results until the cache has at most the given size.

    Parameters
    ----------
    cache_dir : Path
        Folder of the cached results.
    max_bytes : int
        Largest size of the cache, in bytes.
    """
    entries = []
    for folder in cache_dir.iterdir():
        try:
            if folder.is_dir():
                size = sum(file.stat().st_size for file in folder.iterdir())
                entries.append((folder.stat().st_mtime_ns, size, folder))
        except OSError:  # another process has removed it
            continue
    remaining = max_bytes
    for _, size, folder in sorted(entries, reverse=True):
        remaining -= size
        if remaining < 0:
            shutil.rmtree(folder, ignore_errors=True)


def _read_result(folder: Path | None, analysis: Callable[..., Result]) -> Any:
    result = None if folder is None else result_serialization.read(folder)
    return result if isinstance(result, signature(analysis).return_annotation) else None


def _result_folder(
    cache_dir: Path,
    analysis: Callable[..., Result],
    inputs: dict[str, Any],
    controls: dict[str, Any],
) -> Path | None:
    """Return the folder of a result, or None if the cache cannot be used."""
    if not os.access(cache_dir.parent, os.W_OK):
        return None
    try:
        all_controls = _default_controls(analysis) | controls
        key = cache_key(analysis.__name__, inputs, all_controls, hashes=cache_dir / HASH_FILE)
    except (OSError, TypeError):
        return None
    return cache_dir / key


def _default_controls(analysis: Callable[..., Result]) -> dict[str, Any]:
    """Return the controls that have a default: hosts pass all controls, and analyses a few."""
    return {
        parameter.name: parameter.default
        for parameter in signature(analysis).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }


def _write_result(result: Result, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        result_serialization.write(result, temporary)
    evict_oldest(folder.parent, MAX_CACHE_BYTES)


def _installed_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _to_json(value: Any, known_hashes: dict[str, str]) -> Any:
    """Convert a value to JSON. Arrays are replaced by their hashes."""
    if isinstance(value, np.ndarray):
        return {"array": _array_hash(value, known_hashes)}
    if isinstance(value, Evidence):
        content = {name: _to_json(getattr(value, name), known_hashes) for name in ARRAYS}
        content["provenance"] = _to_json(value.provenance, known_hashes)
        content["log"] = _to_json(value.log, known_hashes)
        # Commands in a result name the folder.
        folder = None if value.folder is None else str(value.folder)
        return content | {"log_key": _log_key_of(value), "folder": folder}
    if isinstance(value, TrainingLog):
        return asdict(value)
    if isinstance(value, dict):
        return {str(name): _to_json(x, known_hashes) for name, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [_to_json(x, known_hashes) for x in value]
    return value.item() if isinstance(value, np.generic) else value


def _log_key_of(evidence: Evidence) -> list[int]:
    """Return the sizes of the files of a run's log."""
    if evidence.folder is None:
        return []
    return list(log_key(evidence.folder.parent.parent)[::2])  # a copied run has other times


def _array_hash(array: np.ndarray, known_hashes: dict[str, str]) -> str:
    """Hash the content of an array. The hash of a memory-mapped array is stored.

    The key of a stored hash includes a thousand values of the array, because the file may have
    been replaced after it was mapped.
    """
    if array.dtype.hasobject:
        raise TypeError("An array of objects cannot be hashed.")
    header = f"{array.dtype.str} {array.shape}"
    values = np.ascontiguousarray(array).reshape(-1)
    if not isinstance(array, np.memmap) or array.filename is None:
        return _digest(header, values)
    status = Path(array.filename).stat()
    probe = _digest(header, values[:: max(1, values.size // NUM_PROBED_VALUES)])
    key = f"{array.filename} {status.st_size} {status.st_mtime_ns} {probe}"
    if key not in known_hashes:
        known_hashes[key] = _digest(header, values)
    return known_hashes[key]


def _digest(header: str, values: np.ndarray) -> str:
    digest = blake2b(header.encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    return digest.hexdigest()


def _read_hashes(path: Path) -> dict[str, str]:
    try:
        content: dict[str, Any] = read_json(path, {})
    except RunError:
        return {}
    is_valid = all(isinstance(x, str) for x in content.values())
    return content if is_valid else {}


def _write_hashes(path: Path, hashes: dict[str, str]) -> None:
    newest = dict(list(hashes.items())[-MAX_HASHES:])
    with suppress(RunError, OSError):
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(newest))
