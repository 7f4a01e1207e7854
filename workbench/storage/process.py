"""Which process writes a run, and whether it still does."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

SILENT = 60  # seconds: as long is a process on another machine believed to live


def current_process() -> dict[str, Any]:
    """This process, as a run's status names it."""
    return {
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "host": socket.gethostname(),
        "time": time.time(),
    }


def is_alive(told: Mapping[str, Any]) -> bool:
    """Whether the process that a status names is still there."""
    if told.get("host") != socket.gethostname():
        return time.time() - told.get("time", 0) < SILENT
    try:
        os.kill(told["pid"], 0)
    except PermissionError:
        pass
    except (ProcessLookupError, KeyError, TypeError, OverflowError):
        return False
    return told.get("born") in (
        None,
        _born(told["pid"]),
    )  # else another process has been given its number


def _born(pid: int) -> str | None:
    """When a process began, in the system's ticks; None where the system has no /proc, or it has ended there.

    One that was killed keeps its number until its parent asks for it, which in many containers nobody does.
    """
    with suppress(OSError):
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if told[0] == "Z" else told[19]
    return None
