"""Serve the dashboard of a folder of runs."""

import socket
from pathlib import Path

import panel as pn

from workbench.core.errors import UserError
from workbench.hosts.dashboard.app import Session
from workbench.hosts.dashboard.report_builder_card import report_pages
from workbench.hosts.reports import write_views_report
from workbench.workspace.compute import ComputeQueue
from workbench.workspace.workspace import Workspace


def serve(
    folder: str | Path, *, port: int = 8765, address: str = "127.0.0.1", show: bool = True
) -> None:
    """Serve the dashboard of a folder of runs until interrupted.

    Parameters
    ----------
    folder : str or Path
        The folder of runs.
    port : int, optional
        The port; 0 chooses a free one.
    address : str, optional
        The address of the network interface.
    show : bool, optional
        Whether to open a browser.

    Raises
    ------
    RunError
        If the folder does not exist.
    UserError
        If the port is in use.
    """
    Workspace(folder)  # refuses a wrong folder before the server starts
    if port:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                raise UserError(
                    f"port {port} is in use. Choose another one with --port, or 0 for a free one."
                )
    pn.extension("plotly", "tabulator")
    queue = ComputeQueue(folder, write_report=write_views_report)
    try:
        pn.serve(
            {"/": lambda: Session(folder, queue).page()},
            port=port,
            address=address,
            show=show,
            title="workbench",
            extra_patterns=[report_pages(folder)],
        )
    finally:
        queue.close()
