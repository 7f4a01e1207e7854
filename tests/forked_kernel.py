"""Kernels of reports, forked instead of started anew.

Every new kernel would import IPython, plotly and the analyses, which takes longer than most reports
of these tests. What a kernel imports, and from where, is tested with real kernels.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from forked_python import ForkedPython
from jupyter_client.provisioning import local_provisioner

MAIN = """
import os, sys
os.setsid()  # it receives the interrupts that are meant for it, and no others
print("started", flush=True)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.path.insert(0, sys.argv.pop(1))
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


class ForkedKernel(ForkedPython):
    """A forked kernel with the part of the interface of `subprocess.Popen` that Jupyter uses."""

    stderr = None

    def __init__(self, *arguments: str, environment: dict[str, str]) -> None:
        package_folder = environment.get("PYTHONPATH", "").partition(os.pathsep)[0]
        super().__init__(MAIN, package_folder, *arguments, environment=environment)
        assert self.stdout.readline() == "started\n"

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()


def _launch(command: list[str], *, env: dict[str, str], **options: Any) -> ForkedKernel:
    arguments = command[command.index("ipykernel") + 1 :]
    changed = {name: value for name, value in env.items() if os.environ.get(name) != value}
    return ForkedKernel(*arguments, environment=changed)


_started_anew = local_provisioner.launch_kernel


@contextmanager
def forked_kernels() -> Iterator[None]:
    """Let the kernels that this process starts be forked."""
    with mock.patch.object(local_provisioner, "launch_kernel", _launch):
        yield


@contextmanager
def real_kernels() -> Iterator[None]:
    """Let this process start kernels as real processes, also within `forked_kernels`."""
    with mock.patch.object(local_provisioner, "launch_kernel", _started_anew):
        yield
