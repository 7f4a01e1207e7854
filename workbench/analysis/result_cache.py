"""Results kept on disk and found again by content: computed once for the same arrays, controls and code.

Nothing that lies there is needed: a folder of kept results can be deleted at any time.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from functools import cache
from hashlib import blake2b, sha256
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from workbench.analysis import result_serialization
from workbench.analysis.base import Result
from workbench.storage.evidence import Evidence

MAX_CACHE_BYTES = 512 * 2**20  # bytes on disk: beyond them the oldest are removed
HASH_FILE, MAX_HASHES = (
    "hashes.json",
    20_000,
)  # of arrays in files, so that those need not be read again
LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "umap-learn",
    "pandas",
)  # that results are computed with


def cached_result(
    place: Path, analysis: Callable[..., Result], given: dict[str, Any], controls: dict[str, Any]
) -> Result:
    """What an analysis makes of its arguments and controls: opened where `place` holds it, else computed and kept.

    Where nothing can be written, or a result cannot be kept as files, it is computed; so is what is damaged.
    Raises what the analysis raises.
    """
    folder = _folder(place, analysis, given, controls)
    found = _opened(folder, analysis)
    if found is not None:
        return found
    result = analysis(**given, **controls)
    if folder is not None:
        with suppress(OSError, TypeError):
            _keep(result, folder)
    return result


def lookup(
    place: Path, analysis: Callable[..., Result], given: dict[str, Any], controls: dict[str, Any]
) -> Any:
    """The same where `place` holds it, else None: nothing is computed."""
    return _opened(_folder(place, analysis, given, controls), analysis)


def _opened(folder: Path | None, analysis: Callable[..., Result]) -> Any:
    found = None if folder is None else result_serialization.read(folder)
    return found if isinstance(found, signature(analysis).return_annotation) else None


def _folder(
    place: Path, analysis: Callable[..., Result], given: dict[str, Any], controls: dict[str, Any]
) -> Path | None:
    """Where a result is kept; None where nothing can be written, or it is given what has no content to hash."""
    if not os.access(place.parent, os.W_OK):
        return None
    try:
        return place / cache_key(analysis.__name__, given, controls, hashes=place / HASH_FILE)
    except (OSError, TypeError):
        return None


def cache_key(
    name: str,
    given: dict[str, Any],
    controls: dict[str, Any],
    *,
    code: str | None = None,
    hashes: Path,
) -> str:
    """A name for what an analysis is given: other arrays, controls or `code` (None: ours), another name.

    `hashes` is the file in which hashes of arrays are remembered. Raises TypeError for what is neither JSON nor array.
    """
    known = _remembered(hashes)
    before = len(known)
    said = {"analysis": name, "given": _told(given, known), "controls": _told(controls, known)}
    if len(known) > before:
        _remember(hashes, known)
    return sha256(
        json.dumps(said | {"code": code or code_fingerprint()}, sort_keys=True).encode()
    ).hexdigest()


@cache
def code_fingerprint(package: Path = Path(__file__).parent) -> str:
    """A hash of every source file of a package, this one, and of the versions of what it computes with."""
    found = sha256(json.dumps({library: _version(library) for library in LIBRARIES}).encode())
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _told(value: Any, known: dict[str, str]) -> Any:
    """A value as JSON in which an array is its hash."""
    if isinstance(value, np.ndarray):
        return {"array": _hashed(value, known)}
    if isinstance(value, Evidence):
        return {f.name: _told(getattr(value, f.name), known) for f in fields(value)}
    if isinstance(value, dict):
        return {str(name): _told(x, known) for name, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [_told(x, known) for x in value]
    return value.item() if isinstance(value, np.generic) else value


def _hashed(array: np.ndarray, known: dict[str, str]) -> str:
    """The hash of an array's content, remembered where it lies in a file.

    A thousand of its numbers are part of what is remembered: the file may have been replaced since it was mapped.
    """
    if array.dtype.hasobject:
        raise TypeError("An array of objects has no content to hash.")
    shape = f"{array.dtype.str} {array.shape}"
    flat = np.ascontiguousarray(array).reshape(-1)
    path = getattr(array, "filename", None)
    if path is None:
        return _digest(shape, flat)
    found = Path(path).stat()
    name = f"{path} {found.st_size} {found.st_mtime_ns} {_digest(shape, flat[:: max(1, flat.size // 1000)])}"
    if name not in known:
        known[name] = _digest(shape, flat)
    return known[name]


def _digest(shape: str, flat: np.ndarray) -> str:
    found = blake2b(shape.encode(), digest_size=16)
    found.update(np.ascontiguousarray(flat).view(np.uint8))
    return found.hexdigest()


def _remembered(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        found if isinstance(found, dict) and all(isinstance(x, str) for x in found.values()) else {}
    )


def _remember(path: Path, known: dict[str, str]) -> None:
    latest = dict(list(known.items())[-MAX_HASHES:])
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        aside.write_text(json.dumps(latest), encoding="utf-8")
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)


def _keep(result: Result, folder: Path) -> None:
    """Write a result aside, move it into place, and make room. Raises OSError or TypeError, and leaves nothing."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        result_serialization.write(result, aside)
        shutil.rmtree(folder, ignore_errors=True)  # what lay there could not be read
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    evict_oldest(folder.parent, MAX_CACHE_BYTES)


def evict_oldest(place: Path, room: int) -> None:
    """Remove the oldest kept results until the others fit in so many bytes."""
    entries = []
    for folder in place.iterdir():
        try:
            if folder.is_dir():
                size = sum(file.stat().st_size for file in folder.iterdir())
                entries.append((folder.stat().st_mtime_ns, size, folder))
        except OSError:  # another process has removed it
            continue
    for _, size, folder in sorted(entries, reverse=True):
        room -= size
        if room < 0:
            shutil.rmtree(folder, ignore_errors=True)
