"""Watching what a report's notebook takes: its process is ended when it wants too much memory, or nobody wants it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.25  # seconds between looks


@dataclass
class MemoryGuard:
    """Why what was watched had to end; empty where it ended by itself."""

    reason: str = ""


@contextmanager
def memory_guard(memory: int, stop: Path) -> Iterator[MemoryGuard]:
    """Within: this process's children are ended once they hold over `memory` bytes together, or the file appears."""
    watch, over = MemoryGuard(), threading.Event()

    def look() -> None:
        while not over.wait(EVERY):
            if stop.exists():
                watch.reason = "stopped"
            elif (taken := _taken()) > memory:
                watch.reason = f"it took {taken / 1e9:.1f} GB of memory, more than the {memory / 1e9:.1f} GB it may"
            if watch.reason:
                _end()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def _taken() -> int:
    import psutil

    total = 0
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):
            total += child.memory_info().rss
    return total


def _end() -> None:
    import psutil

    for child in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
