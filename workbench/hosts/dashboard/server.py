"""Serve the dashboard of a folder of runs."""

import asyncio
import gc
import socket
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import panel as pn
from tornado.websocket import WebSocketClosedError

from workbench.core.errors import UserError
from workbench.hosts.dashboard.access import (
    LOOPBACK_HOSTS,
    WILDCARD_ADDRESSES,
    AccessPolicy,
    access_rules,
)
from workbench.hosts.dashboard.app import TAB_TITLES, Session
from workbench.hosts.dashboard.early_page import early_page
from workbench.hosts.dashboard.help_pages import help_pages
from workbench.hosts.dashboard.page_template import outline
from workbench.hosts.dashboard.report_builder_card import report_pages
from workbench.hosts.dashboard.settings_service import SettingsService
from workbench.hosts.reports import write_views_report
from workbench.launch.training_queue import TrainingQueue
from workbench.storage.run_folders import run_names
from workbench.workspace.compute import ComputeQueue
from workbench.workspace.workspace import Workspace


def serve(
    folder: str | Path,
    *,
    port: int = 8765,
    address: str = "127.0.0.1",
    show: bool = True,
    use_token: bool = True,
    allow_hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    trust: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard of a folder of runs until interrupted.

    Parameters
    ----------
    folder : str or Path
        The folder of runs.
    port : int, optional
        The port; 0 chooses a free one.
    address : str, optional
        The address to listen at; by default only this machine can connect.
    show : bool, optional
        Whether to open a browser.
    use_token : bool, optional
        Whether the link contains a secret token, without which nothing is answered.
    allow_hosts : sequence of str, optional
        Host names besides those of this machine, as in a request's Host header.
    origins : sequence of str, optional
        Origins besides those of the hosts, such as `https://hub.example.org`.
    trust : sequence of str, optional
        Modules and packages outside of this package that may be imported to load a run's model.
    on_ready : callable, optional
        Called with the link when the server listens.

    Raises
    ------
    RunError
        If the folder does not exist.
    UserError
        If the port is in use, or the address is an IPv6 address.
    """
    if ":" in address and address not in WILDCARD_ADDRESSES:
        raise UserError(
            f"{address} is an IPv6 address. Give the name of a host or an IPv4 address."
        )
    Workspace(folder)  # refuses a wrong folder before the server starts
    port = _free_port(address) if port == 0 else _checked_port(address, port)
    policy = AccessPolicy.create(
        address=address,
        port=port,
        allow_hosts=allow_hosts,
        origins=origins,
        use_token=use_token,
    )
    pn.extension("plotly", "tabulator")
    write_report = partial(write_views_report, trust=tuple(trust))
    queue = ComputeQueue(folder, write_report=write_report, trust=trust)
    settings = SettingsService(trust)
    trainings = TrainingQueue(folder, trust) if use_token or address in LOOPBACK_HOSTS else None
    session = partial(Session, folder, queue, trust, trainings=trainings, settings=settings)
    try:
        server = pn.io.server.get_server(
            {"/": lambda: session().page()},
            port=port,
            address=address,
            show=False,
            start=False,
            verbose=False,
            title="workbench",
            websocket_origin=_websocket_origins(policy),
            extra_patterns=[report_pages(folder), *help_pages()],
        )
        # Before any rule of Bokeh. Its server gives no other access to the tornado application.
        tornado = server._tornado
        page = early_page(tornado, partial(_outline, Path(folder)))
        tornado.add_handlers(r".*", [*access_rules(policy), page])
        # Panel collects garbage after a page was closed. It need not search what was imported.
        gc.collect()
        gc.freeze()
        server.start()
        server.io_loop.add_callback(_ignore_closed_pages)
        link = _link(address, port, policy.token)
        if on_ready is not None:
            on_ready(link)
        if show:
            webbrowser.open(link)
        server.io_loop.start()
    finally:
        if trainings is not None:
            trainings.close()
        settings.close()
        queue.close()


def _outline(folder: Path) -> str:
    """Return what the page shows first: its tabs, and the names of the runs as they are now."""
    names: list[str] = []
    with suppress(UserError):  # the page itself gives the reason
        names = [folder.name] if (folder / "config.json").exists() else run_names(folder)
    return outline(TAB_TITLES, names)


def _ignore_closed_pages() -> None:
    """Leave out of the log that a message could not be sent to a page that was closed."""
    asyncio.get_running_loop().set_exception_handler(_report_exception)


def _report_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that nothing handles, except of messages to a page that was closed."""
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def _link(address: str, port: int, token: str | None) -> str:
    host = "127.0.0.1" if address in WILDCARD_ADDRESSES else address
    if ":" in host:
        host = f"[{host}]"
    query = "" if token is None else f"?token={token}"
    return f"http://{host}:{port}/{query}"


def _websocket_origins(policy: AccessPolicy) -> list[str]:
    """Return the hosts of the policy as Bokeh's own check of a websocket takes them."""
    hosts = [*policy.hosts, *(urlsplit(origin).netloc for origin in policy.origins)]
    # Bokeh's list takes no IPv6 addresses.
    return sorted(host for host in hosts if not host.startswith("["))


def _free_port(address: str) -> int:
    with socket.socket(_family(address)) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _checked_port(address: str, port: int) -> int:
    with socket.socket(_family(address)) as probe:
        if probe.connect_ex((address, port)) == 0:
            raise UserError(
                f"port {port} is in use. Choose another one with --port, or 0 for a free one."
            )
    return port


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
