"""The dashboard in JupyterLab and JupyterHub: the entry point of jupyter-server-proxy.

The server of Jupyter starts the dashboard on a free port when it is opened first, and passes on the
requests of its user, whom it has authenticated. It adds a token that only it and the dashboard
have, so that other users of the machine cannot open the port.
"""

import os
import secrets
import sys
from typing import Any

from workbench.hosts.dashboard.access import TOKEN_VARIABLE

FOLDER_VARIABLE = "WORKBENCH_RUNS"  # the folder of runs; by default that of the command line
START_TIMEOUT_S = 60


def dashboard_server() -> dict[str, Any]:
    """Return how jupyter-server-proxy starts the dashboard and passes requests on to it.

    Returns
    -------
    dict
        A server process, in the format of jupyter-server-proxy.
    """
    token = secrets.token_urlsafe(24)
    host = "127.0.0.1:{port}"
    folder = os.environ.get(FOLDER_VARIABLE, "runs")
    command = [sys.executable, "-P", "-m", "workbench", "dashboard", folder]
    return {
        "command": [*command, "--port", "{port}", "--no-browser"],
        "environment": {TOKEN_VARIABLE: token},
        "timeout": START_TIMEOUT_S,
        "new_browser_tab": True,
        # Jupyter has checked the user and the origin of the request already.
        "request_headers_override": {
            "Host": host,
            "Origin": f"http://{host}",
            "Cookie": f"workbench-token-{{port}}={token}",
        },
        "launcher_entry": {"enabled": True, "title": "workbench"},
    }
