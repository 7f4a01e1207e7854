"""The process that executes a report template.

A report may be made in a folder of someone else's files. Python and IPython search the current
folder for modules by default, so that a file `numpy.py` there would be executed.
"""

import os
import site
import sys
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

PACKAGE_FOLDER = Path(__file__).resolve().parents[3]


class IsolatedKernelManager(AsyncKernelManager):
    """Starts kernels of this Python that import no module from the current folder."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Return the command of a kernel.

        The command of the kernel specification removes the current folder from the search path
        even where it is the checkout that `workbench` is imported from.
        """
        command = [sys.executable, "-P", "-m", "ipykernel", "-f", self.connection_file]
        return [*command, "--IPKernelApp.ignore_cwd=True", *(extra_arguments or [])]

    # Its base class is declared without `async`, as AsyncKernelManager replaces the method.
    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start a kernel in the environment of `kernel_environment`."""
        await super().start_kernel(**options, env=kernel_environment())


def kernel_environment() -> dict[str, str]:
    """Return the environment of a kernel: this process's, without imports from the current folder.

    The kernel imports the `workbench` that this process imported, also from a checkout that is not
    installed.
    """
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    # An empty entry of PYTHONPATH means the current folder.
    entries = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if str(PACKAGE_FOLDER) not in [*site.getsitepackages(), site.getusersitepackages()]:
        entries.insert(0, str(PACKAGE_FOLDER))
    return environment | {"PYTHONPATH": os.pathsep.join(entries)}
