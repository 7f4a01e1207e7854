"""In the dashboard: when an open page may be told something."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import panel as pn
from tornado.ioloop import IOLoop

Act = Callable[[], None]


class PageLifecycle:
    """An open page, or none: what is done before it is there, or from another thread, waits until it can be heard.

    The library sends a document whole and then what changes of it; of what changes in between, some is sent never.
    """

    def __init__(self) -> None:
        self.document: Any = None
        self._loop: IOLoop | None = None  # the server's
        self._put_off: list[Act] | None = None  # until the page is there; None: it is

    def begin(self, loaded: Act) -> None:
        """The page is about to be sent, if it is one that a server made; `loaded` is called when it is there."""
        self.document = pn.state.curdoc
        if self.document is not None:
            self._loop, self._put_off = IOLoop.current(), []
        pn.state.onload(lambda: self._loaded(loaded))

    def end(self) -> None:
        """Nobody looks at it any more."""
        self.document, self._loop, self._put_off = None, None, []

    def when_loaded(self, act: Act) -> None:
        """Do something now, or when the page is there."""
        act() if self._put_off is None else self._put_off.append(act)

    def later(self, act: Act) -> None:
        """Do something from another thread, if the page is still open."""
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # it has just ended
                loop.add_callback(self._next, act)

    def _next(self, act: Act) -> None:
        """In the server's own thread: a document that is told something by another may lose it."""
        if self.document is not None and self.document.session_context is not None:
            self.document.add_next_tick_callback(lambda: self.when_loaded(act))

    def _loaded(self, loaded: Act) -> None:
        acts, self._put_off = self._put_off or [], None
        for act in acts:
            act()
        loaded()
