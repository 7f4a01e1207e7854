"""Memory limit of a report: its notebook's kernel is killed when it exceeds the limit."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

CHECK_INTERVAL_S = 0.25


@dataclass
class MemoryGuard:
    """Reason why the child processes were killed; empty if they were not."""

    reason: str = ""


@contextmanager
def memory_guard(max_bytes: int, stop_file: Path) -> Iterator[MemoryGuard]:
    """Watch the child processes of this process while the block runs.

    They are killed once their resident memory together exceeds the limit, or once the stop file
    exists.

    Parameters
    ----------
    max_bytes : int
        Limit of the resident memory of all child processes together.
    stop_file : Path
        File that another process creates to stop this one's children.

    Yields
    ------
    MemoryGuard
        Its reason is set when the children are killed.
    """
    guard = MemoryGuard()
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(CHECK_INTERVAL_S):
            used_bytes = _resident_bytes()
            if stop_file.exists():
                guard.reason = "stopped"
            elif used_bytes > max_bytes:
                guard.reason = (
                    f"it used {used_bytes / 1e9:.1f} GB of memory; "
                    f"the limit is {max_bytes / 1e9:.1f} GB"
                )
            if guard.reason:
                _kill_children()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield guard
    finally:
        finished.set()
        thread.join()


def _children() -> "list[psutil.Process]":
    import psutil

    return psutil.Process(os.getpid()).children(recursive=True)


def _resident_bytes() -> int:
    import psutil

    total = 0
    for child in _children():
        with suppress(psutil.Error):
            total += child.memory_info().rss
    return total


def _kill_children() -> None:
    import psutil

    for child in _children():
        with suppress(psutil.Error):
            child.kill()
