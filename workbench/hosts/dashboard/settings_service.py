"""Settings of recipes, described and checked in a process of its own: only there torch is imported.

The process starts with the first request and serves all visitors. It ends with the server, however
that ends: its pipe is closed then.
"""

import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from workbench.core.errors import UserError
from workbench.core.safe_path import ignore_current_folder
from workbench.launch.settings import Setting, check_settings, recipe_settings_list


class SettingsService:
    """Answers requests about settings; safe to use from any thread.

    Parameters
    ----------
    trust : sequence of str
        Modules outside of this package that may be imported.
    """

    def __init__(self, trust: Sequence[str] = ()) -> None:
        self.trust = tuple(trust)
        self._pipe: Connection | None = None
        self._described: dict[str, Future[tuple[Setting, ...]]] = {}
        self._lock = threading.Lock()
        # One thread: requests and answers of the pipe alternate.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="settings")

    def describe(self, name: str) -> Future[tuple[Setting, ...]]:
        """Return the settings of a recipe or of `module:Class`."""
        with self._lock:
            before = self._described.get(name)
            if before is not None and not (before.done() and before.exception()):
                return before
            future = self._thread.submit(self._ask, "describe", name)
            self._described[name] = future
            return future

    def check(self, name: str, trials: Sequence[Mapping[str, Any]]) -> Future[list[dict[str, str]]]:
        """Return what is wrong with the settings of each trial; see `check_settings`."""
        return self._thread.submit(self._ask, "check", name, list(trials))

    def close(self) -> None:
        """End the process."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._disconnect()

    def _ask(self, *request: Any) -> Any:
        try:
            if self._pipe is None:
                self._pipe = _start(self.trust)
            self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._disconnect()
            raise UserError("The process that reads settings ended. Try again.") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _disconnect(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()


def _start(trust: tuple[str, ...]) -> Connection:
    # A forked process would inherit the threads and sockets of the server.
    context = multiprocessing.get_context("spawn")
    pipe, other_end = context.Pipe()
    process = context.Process(target=_serve, args=(other_end, trust), daemon=True)
    with ignore_current_folder():
        process.start()
    other_end.close()
    return pipe


def _serve(pipe: Connection, trust: tuple[str, ...]) -> None:
    """Answer requests until the other end of the pipe is closed."""
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            pipe.send(_answer(pipe.recv(), trust))


def _answer(request: tuple[Any, ...], trust: tuple[str, ...]) -> Any:
    try:
        if request[0] == "describe":
            return recipe_settings_list(request[1], trust)
        return [check_settings(request[1], settings, trust) for settings in request[2]]
    except UserError as error:
        return error
    except Exception as error:
        return UserError(f"The settings of {request[1]} cannot be read: {error}")
