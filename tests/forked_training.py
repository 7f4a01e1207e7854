"""Trainings that `wb.train` and `wb.start` start from a notebook, forked instead of started anew.

Every new process would import torch, which takes longer than the trainings of these tests. That a
training survives its kernel is tested with real processes.
"""

import os
import sys
from typing import BinaryIO

from forked_python import ForkedPython

from workbench.launch import subprocess

MAIN = """
import os, sys
sys.path = sys.argv.pop(1).split(os.pathsep)
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND)
os.dup2(log, 1), os.dup2(log, 2)
from workbench.cli import main
main()
"""


class ForkedTraining(ForkedPython):
    """A forked training with the part of the interface of `subprocess.Popen` that it needs."""

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self.poll()


def _forked(command: list[str], log: BinaryIO) -> ForkedTraining:
    # Multiprocessing reads it, and `%reset` removes it from a notebook.
    vars(sys.modules["__main__"]).setdefault("__spec__", None)
    arguments = command[command.index("workbench") + 1 :]
    return ForkedTraining(MAIN, os.pathsep.join(sys.path), log.name, *arguments)


_started_anew = subprocess._detached


def install() -> None:
    """Let this process fork the trainings that it starts."""
    subprocess._detached = _forked


def uninstall() -> None:
    """Let this process start trainings as real processes again."""
    subprocess._detached = _started_anew
