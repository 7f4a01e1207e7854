"""A thread that receives the commands to a run and keeps its status fresh during long steps."""

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from workbench.core.errors import RunError
from workbench.storage.run import Run

POLL_S = 0.2  # seconds between two reads of control.json
HEARTBEAT_S = 5.0  # seconds between status updates; other machines judge by them if a run is alive


class ControlListener:
    """Receives the commands of control.json and acknowledges them in status.json.

    Commands that were sent before the listener started are ignored.

    Attributes
    ----------
    answered : int
        The number of the latest command that was received.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.answered = max((command["id"] for command in run.commands()), default=0)
        self._received: deque[dict[str, Any]] = deque()
        self._status: tuple[str, int, dict[str, Any]] | None = None
        self._written_at = 0.0
        self._write_lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="control-listener", daemon=True)
        self._thread.start()

    def drain(self) -> list[dict[str, Any]]:
        """Return the commands received since the last call, oldest first."""
        return [self._received.popleft() for _ in range(len(self._received))]

    def report(self, state: str, step: int, **details: Any) -> None:
        """Write the status of the run."""
        with self._write_lock:
            self._status = (state, step, details)
            self._write()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._thread.join()

    def _listen(self) -> None:
        while not self._closed.wait(POLL_S):
            commands = [command for command in self.run.commands() if command["id"] > self.answered]
            self._received.extend(commands)
            if commands or time.monotonic() - self._written_at > HEARTBEAT_S:
                # The training loop reports a full disk itself.
                with self._write_lock, suppress(RunError):
                    numbers = [command["id"] for command in commands]
                    self.answered = max([self.answered, *numbers])
                    self._write()

    def _write(self) -> None:
        if self._status is not None:
            state, step, details = self._status
            self.run.report(state, step, **details, answered=self.answered)
            self._written_at = time.monotonic()
