"""Open sessions of a dashboard as a browser does, without a browser.

A session is a page that is requested, its websocket, the whole document, and the event by which
Bokeh's client says that the page has loaded. The changes that the server sends then are read, as
results are computed and put into the page. No script of the page runs.
"""

import asyncio
import itertools
import json
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psutil
from tornado.websocket import WebSocketClientConnection, websocket_connect

MAX_MESSAGE_BYTES = 2**28
OPEN_TIMEOUT_S = 60.0
# Bokeh's event of a page that has loaded, as its client sends it.
PAGE_HAS_LOADED = {
    "kind": "MessageSent",
    "msg_type": "bokeh_event",
    "msg_data": {"type": "event", "name": "document_ready", "values": {"type": "map"}},
}


async def _receive(socket: WebSocketClientConnection) -> dict[str, Any]:
    """Read a message of Bokeh's protocol and return its header."""
    fragments: list[Any] = [await socket.read_message() for _ in range(3)]
    if None in fragments:
        raise ConnectionError("The dashboard has closed the connection.")
    header: dict[str, Any] = json.loads(fragments[0])
    for _ in range(2 * header.get("num_buffers", 0)):
        await socket.read_message()
    return header


async def _send(socket: WebSocketClientConnection, kind: str, content: dict[str, Any]) -> None:
    header = {"msgid": kind, "msgtype": kind}
    for fragment in (header, {}, content):
        await socket.write_message(json.dumps(fragment))


async def _visit(link: str, query: str, quiet_s: float, limit_s: float) -> int:
    with urllib.request.urlopen(link + query, timeout=OPEN_TIMEOUT_S) as answer:
        page = answer.read().decode()
    token = re.search(r'"token":"([^"]+)"', page)
    if token is None:
        raise ConnectionError("The page has no session.")
    address = link.replace("http", "ws", 1).rstrip("/") + "/ws"
    socket = await websocket_connect(
        address, subprotocols=["bokeh", token[1]], max_message_size=MAX_MESSAGE_BYTES
    )
    try:
        await _receive(socket)  # the acknowledgement
        await _send(socket, "PULL-DOC-REQ", {})
        while (await _receive(socket))["msgtype"] != "PULL-DOC-REPLY":
            pass
        await _send(socket, "PATCH-DOC", {"events": [PAGE_HAS_LOADED]})
        end_s = time.monotonic() + limit_s
        for num_changes in itertools.count():
            wait_s = min(quiet_s, end_s - time.monotonic())
            try:
                await asyncio.wait_for(_receive(socket), max(wait_s, 0.0))
            except TimeoutError:
                return num_changes
    finally:
        socket.close()
    raise AssertionError("unreachable")


def visit(link: str, query: str = "", *, quiet_s: float = 1.0, limit_s: float = 10.0) -> int:
    """Open a session, read what it shows, and close it.

    Parameters
    ----------
    link : str
        The link that the dashboard prints, without a token.
    query : str, optional
        The view to open, such as `?tab=lens`.
    quiet_s : float, optional
        The session is closed when the page has not changed for this time.
    limit_s : float, optional
        The session is closed after this time in any case.

    Returns
    -------
    int
        The number of changes that the server sent after the page had loaded.
    """
    return asyncio.run(_visit(link, query, quiet_s, limit_s))


def memory_over_sessions(
    link: str, server: psutil.Process, queries: Sequence[str], num_sessions: int
) -> Iterator[tuple[float, float]]:
    """Open sessions one after another.

    Parameters
    ----------
    link : str
        The link that the dashboard prints, without a token.
    server : psutil.Process
        The process of the server.
    queries : sequence of str
        The views to open, again from the first one after the last.
    num_sessions : int
        The number of sessions.

    Yields
    ------
    tuple of float
        The memory of the server and that of its compute process after each session, in MB. The
        compute process is another one after a computation that did not stop in time.
    """
    for query in itertools.islice(itertools.cycle(queries), num_sessions):
        visit(link, query)
        children = sum(child.memory_info().rss for child in server.children(recursive=True))
        yield server.memory_info().rss / 2**20, children / 2**20


def growth_per_100_sessions(memory_mb: Sequence[float]) -> float:
    """Return the slope of a straight line through the second half, in MB per 100 sessions.

    The first half fills caches of fixed size, and Bokeh keeps a closed session for up to half a
    minute.

    Examples
    --------
    >>> growth_per_100_sessions([300, 380, 400, 401, 402, 403])
    100.0
    """
    half = np.asarray(memory_mb[len(memory_mb) // 2 :])
    if len(half) < 2:
        return 0.0
    return round(100 * float(np.polyfit(np.arange(len(half)), half, 1)[0]), 6)
