"""Where requests to a run arrive, and where its status leaves: both within a second, however long a step takes."""

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from workbench.core.errors import RunError
from workbench.storage.run import Run

POLL_S = 0.2  # seconds between two looks at control.json
HEARTBEAT_S = 5.0  # seconds after which the status is written again, so that other machines see that somebody is there


class ControlListener:
    """A thread that acknowledges requests in status.json: `answered` is the latest one heard."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.answered = max(
            (request["id"] for request in run.asked()), default=0
        )  # older ones were not for us
        self._heard: deque[dict[str, Any]] = deque()
        self._told: tuple[str, int, dict[str, Any]] | None = None
        self._written, self._writing, self._closed = 0.0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._listen, name="mailbox", daemon=True)
        self._thread.start()

    def take(self) -> list[dict[str, Any]]:
        """The requests heard since the last call, oldest first."""
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def report(self, state: str, step: int, **more: Any) -> None:
        """Write how the run stands."""
        with self._writing:
            self._told = state, step, more
            self._write()

    def close(self) -> None:
        """Hear no more."""
        self._closed.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._closed.wait(POLL_S):
            fresh = [request for request in self.run.asked() if request["id"] > self.answered]
            self._heard.extend(fresh)
            if fresh or time.monotonic() - self._written > HEARTBEAT_S:
                with self._writing, suppress(RunError):  # of a full disk the loop itself will tell
                    self.answered = max([self.answered, *(request["id"] for request in fresh)])
                    self._write()

    def _write(self) -> None:
        if self._told is not None:
            state, step, more = self._told
            self.run.report(state, step, **more, answered=self.answered)
            self._written = time.monotonic()
