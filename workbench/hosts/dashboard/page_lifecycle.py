"""Defer changes of a page until it has loaded, and forward changes from other threads."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import panel as pn
from tornado.ioloop import IOLoop

Action = Callable[[], None]


class PageLifecycle:
    """Defers document changes until the page has loaded and runs them in the server's event loop.

    Panel serializes a whole document, and sends later changes one by one. It loses some of the
    changes made between the serialization and the page's `load` event. Without a page, every
    action runs at once.
    """

    def __init__(self) -> None:
        self.document: Any = None
        self._loop: IOLoop | None = None  # the server's event loop
        self._deferred: list[Action] | None = None  # None once the page has loaded

    def begin(self, on_load: Action) -> None:
        """Start to defer, if a server is making the page, and call `on_load` once it has loaded."""
        self.document = pn.state.curdoc
        if self.document is not None:
            self._loop = IOLoop.current()
            self._deferred = []
        pn.state.onload(lambda: self._finish_loading(on_load))

    def end(self) -> None:
        """Drop the page: actions no longer run."""
        self.document = None
        self._loop = None
        self._deferred = []

    def after_load(self, action: Action) -> None:
        """Run an action now, or when the page has loaded."""
        if self._deferred is None:
            action()
        else:
            self._deferred.append(action)

    def call_soon(self, action: Action) -> None:
        """Run an action from any thread in the server's event loop, if the page is still open."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has just been closed
                loop.add_callback(self._run_in_document, action)

    def _run_in_document(self, action: Action) -> None:
        # A document that another thread changes may lose the change.
        if self.document is not None and self.document.session_context is not None:
            self.document.add_next_tick_callback(lambda: self.after_load(action))

    def _finish_loading(self, on_load: Action) -> None:
        actions = self._deferred or []
        self._deferred = None
        for action in actions:
            action()
        on_load()
