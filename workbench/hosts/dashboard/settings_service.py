"""Settings of recipes, described and checked in a process of its own: only there torch is imported.

The process starts with the first request and serves all visitors.
"""

import multiprocessing
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

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
        self._pool: ProcessPoolExecutor | None = None
        self._described: dict[str, Future[tuple[Setting, ...]]] = {}
        self._lock = threading.Lock()

    def describe(self, name: str) -> Future[tuple[Setting, ...]]:
        """Return the settings of a recipe or of `module:Class`."""
        with self._lock:
            before = self._described.get(name)
            if before is not None and not (before.done() and before.exception()):
                return before
            future = self._submit(recipe_settings_list, name, self.trust)
            self._described[name] = future
            return future

    def check(self, name: str, trials: Sequence[Mapping[str, Any]]) -> Future[list[dict[str, str]]]:
        """Return what is wrong with the settings of each trial; see `check_settings`."""
        with self._lock:
            return self._submit(_check_all, name, list(trials), self.trust)

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, function: Any, *arguments: Any) -> Future[Any]:
        if self._pool is None:
            # A forked process would inherit the threads and sockets of the server.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(max_workers=1, mp_context=context)
        return self._pool.submit(function, *arguments)


def _check_all(
    name: str, trials: Sequence[Mapping[str, Any]], trust: Sequence[str]
) -> list[dict[str, str]]:
    return [check_settings(name, settings, trust) for settings in trials]
