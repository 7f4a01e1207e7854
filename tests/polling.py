"""Waiting for a condition in tests of other processes and threads."""

import time
from collections.abc import Callable

POLL_INTERVAL_S = 0.02


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Return once a condition is true; fail the test after a timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"the condition was false for {timeout_s} s"
        time.sleep(POLL_INTERVAL_S)
