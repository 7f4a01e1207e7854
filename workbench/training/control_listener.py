"""A thread that receives the commands to a run and keeps its status fresh during long steps."""

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from workbench.core.errors import RunError
from workbench.storage.control import delete_commands, received_number
from workbench.storage.run import Run

POLL_S = 0.2  # seconds between two reads of the commands
MAX_FAILURES = 20  # that wait for the training loop, which records them
HEARTBEAT_S = 5.0  # seconds between status updates, which show that the run is alive


class ControlListener:
    """Receives the commands to a run and acknowledges them in status.json.

    Commands that were sent before the listener started are deleted and ignored. An exception does
    not end the thread, so that the run can always be paused and stopped.

    Attributes
    ----------
    answered : int
        The largest number of a command that was received.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.answered = received_number(run.folder)
        self._received: deque[dict[str, Any]] = deque()
        self._failures: deque[str] = deque(maxlen=MAX_FAILURES)
        self._last_failure = ""
        self._handled: set[tuple[int, float]] | None = None
        with suppress(Exception):  # the thread tries again
            self._ignore_earlier_commands()
        self._status: tuple[str, int, dict[str, Any]] | None = None
        self._written_at = 0.0
        self._write_lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="control-listener", daemon=True)
        self._thread.start()

    def drain(self) -> list[dict[str, Any]]:
        """Return the commands received since the last call, oldest first."""
        return [self._received.popleft() for _ in range(len(self._received))]

    def drain_failures(self) -> list[str]:
        """Return the reasons why commands could not be read since the last call."""
        return [self._failures.popleft() for _ in range(len(self._failures))]

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
            # A network file system raises errors that pass, and a command may be of any content.
            try:
                self._receive()
                self._last_failure = ""
            except Exception as error:
                self._add_failure(error)
            try:
                self._acknowledge()
            except RunError:
                pass  # the training loop reports a full disk itself
            except Exception as error:
                self._add_failure(error)

    def _receive(self) -> None:
        if self._handled is None:
            self._ignore_earlier_commands()
            return
        for command in self.run.commands():
            if _key(command) not in self._handled:
                self._handled.add(_key(command))
                self._received.append(command)

    def _acknowledge(self) -> None:
        """Write the status if commands were received or the last heartbeat is old."""
        number = max((number for number, _ in self._handled or ()), default=0)
        is_late = time.monotonic() - self._written_at > HEARTBEAT_S
        if number > self.answered or is_late:
            with self._write_lock:
                self.answered = max(self.answered, number)
                self._write()

    def _ignore_earlier_commands(self) -> None:
        commands = self.run.commands()
        self.answered = max([self.answered, *(command["id"] for command in commands)])
        self._handled = {_key(command) for command in commands}
        delete_commands(self.run.folder, self.answered)

    def _add_failure(self, error: Exception) -> None:
        """Record an error once, however often it is raised in succession."""
        reason = f"{type(error).__name__}: {error}"
        if reason != self._last_failure:
            self._last_failure = reason
            self._failures.append(reason)

    def _write(self) -> None:
        if self._status is not None:
            state, step, details = self._status
            self.run.report(state, step, **details, answered=self.answered)
            self._written_at = time.monotonic()


def _key(command: dict[str, Any]) -> tuple[int, float]:
    """Identify a command. A host of an earlier version may use a number twice."""
    return command["id"], command.get("time", 0.0)
