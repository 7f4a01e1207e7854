"""Python code in a process of its own, forked from one that has imported torch and the package.

Starting Python and importing takes some seconds of computation, and a fork takes none. The process
has neither the shape checks of the tests nor later changes of the environment variables. Code whose
imports are the subject of a test needs `subprocess`.
"""

import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

IMPORTED = [
    "accelerate",
    "dask.distributed",
    "ipykernel.kernelapp",
    "pandas",
    "plotly.graph_objects",
    "torch._dynamo",  # imported by every optimizer
    "umap",
    "workbench.analysis",
    "workbench.collect",
    "workbench.generators",
    "workbench.launch.in_process",
    "workbench.launch.recipes",
    "workbench.tokenizers.softvq",
    "workbench.training",
]


def fork_server() -> ForkServerContext:
    """Return the context of the process that has imported the packages and is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class ForkedPython:
    """A running process with the interface of `subprocess.Popen`, as far as tests need it.

    Parameters
    ----------
    code : str
        The program. It runs as `__main__`.
    *arguments : str
        Its `sys.argv[1:]`.
    folder : Path, optional
        Its working folder.
    environment : dict of str, optional
        Environment variables to add.
    """

    def __init__(
        self,
        code: str,
        *arguments: str,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        context = fork_server()
        stdin, write_end = context.Pipe(duplex=False)
        read_end, stdout = context.Pipe(duplex=False)
        command = (stdin, stdout, folder or Path.cwd(), environment or {}, code, arguments)
        self._process = context.Process(target=_execute, args=command)
        self._process.start()
        stdin.close()
        stdout.close()
        self.pid = self._process.pid
        self.stdin = os.fdopen(os.dup(write_end.fileno()), "w")
        self.stdout = os.fdopen(os.dup(read_end.fileno()))
        write_end.close()
        read_end.close()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float = 120) -> int | None:
        """Wait for the end, and return the exit code."""
        self._process.join(timeout_s)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def run(code: str, *arguments: str, folder: Path | None = None) -> str:
    """Return what some code prints. It must not fail."""
    process = ForkedPython(code, *arguments, folder=folder)
    printed = process.stdout.read()
    assert process.wait() == 0, "see the captured stderr"
    return printed


def message_of(code: str) -> str:
    """Return the message of the UserError that some code raises."""
    lines = [f"    {line}" for line in code.splitlines()]
    caught = ["from workbench.core.errors import UserError", "try:", *lines]
    return run("\n".join([*caught, "except UserError as error:", "    print(error)"]))


def start_group(code: str, *arguments: str, size: int = 2) -> list[ForkedPython]:
    """Start processes with the environment variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    group |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [ForkedPython(code, *arguments, environment=group | rank) for rank in ranks]


def _execute(
    stdin: Connection,
    stdout: Connection,
    folder: Path,
    environment: dict[str, str],
    code: str,
    arguments: tuple[str, ...],
) -> None:
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    stdin.close()
    stdout.close()
    os.chdir(folder)
    os.environ |= environment
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
