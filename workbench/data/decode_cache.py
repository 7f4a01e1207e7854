"""What was decoded lately is kept in memory, so that a process that trains, collects and draws decodes images once."""

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

Decoded = tuple[
    np.ndarray, np.ndarray, tuple[str, ...]
]  # pixels, which of the contents they are, what was skipped
ROOM = 2**28  # bytes of pixels, of all that is kept together
_KEPT: dict[Any, Decoded] = {}  # the latest last
_LOCK = Lock()


def cached_decode(
    files: Iterable[Path], rest: tuple[Any, ...], decode: Callable[[], Decoded]
) -> Decoded:
    """What `decode` gives for these files as they are now, and the rest that it depends on; its pixels are read-only.

    A file whose size or time of change differs is another file; without any file nothing is kept. Raises what `decode`
    raises, and keeps nothing then.
    """
    key = (tuple(_state(file) for file in files), rest)
    if not key[0]:
        return decode()
    with _LOCK:
        found = _KEPT.pop(key, None)
    if found is None:
        found = decode()
        found[0].flags.writeable = False  # others look at the same array
    with _LOCK:
        if found[0].nbytes <= ROOM:
            _KEPT[key] = found
        while sum(pixels.nbytes for pixels, *_ in _KEPT.values()) > ROOM:
            del _KEPT[next(iter(_KEPT))]
    return found


def _state(file: Path) -> tuple[str, int, int]:
    try:
        known = file.stat()
    except OSError:  # decoding will say so
        return str(file), 0, 0
    return str(file.absolute()), known.st_mtime_ns, known.st_size
