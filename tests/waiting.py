"""Waiting for another thread or process."""

import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object], *, timeout_s: float = 60, every_s: float = 0.05
) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain"
        time.sleep(every_s)
