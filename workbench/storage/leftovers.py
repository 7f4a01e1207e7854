"""Leftovers of killed writers: unfinished files, and folders that were moved aside.

The name of a temporary path identifies the process that writes it. Another process therefore never
removes the files of a living writer. Leftovers of another machine or container are removed after a
day.
"""

import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

import psutil

from workbench.storage.process import is_alive

FOREIGN_AGE_S = 24 * 3600  # after which a leftover of an unknown process is removed
REPLACEMENT_TIMEOUT_S = 0.5  # in which a living writer moves a new folder into place
POLL_INTERVAL_S = 0.01
_NAME = re.compile(
    r"\.(?P<name>.+)\.(?P<pid>[0-9]{1,10})-(?P<born>[0-9]{1,16})-(?P<machine>[0-9a-f]{8})-"
    r"[0-9a-f]{8}(?P<previous>\.previous)?"
)
_OLD_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}")  # names without a process


@dataclass(frozen=True)
class Leftover:
    """A temporary file or folder in a folder.

    Attributes
    ----------
    path : Path
        The file or folder.
    target : Path
        The path that its writer replaces.
    is_previous : bool
        Whether it is the folder that was at the target before, and was moved aside.
    may_be_previous : bool
        As `is_previous`, or its name does not contain this.
    is_living : bool
        Whether its writer may still run.
    """

    path: Path
    target: Path
    is_previous: bool
    may_be_previous: bool
    is_living: bool


def temporary_path(path: Path) -> Path:
    """Return a new path next to another, whose name marks this process as its writer.

    Its random part distinguishes it from other paths of this process.
    """
    pid = os.getpid()
    owner = f"{pid}-{_birth_ms(pid)}-{_machine()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name}.{owner}")


def previous_path(path: Path) -> Path:
    """Return a new path next to a folder, to which it is moved while it is replaced."""
    temporary = temporary_path(path)
    return temporary.with_name(f"{temporary.name}.previous")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder, and restore what they had moved aside.

    Everything that cannot be removed stays.
    """
    restore_moved_folders(folder)
    for leftover in _leftovers(folder):
        if leftover.is_living:
            continue
        if leftover.path.is_dir() and not leftover.path.is_symlink():
            # Without the target, a folder that was moved aside is the only copy.
            if leftover.target.exists() or not leftover.may_be_previous:
                shutil.rmtree(leftover.path, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.path.unlink()


def restore_moved_folders(folder: Path) -> set[str]:
    """Move the folders back that killed writers had moved aside.

    Returns
    -------
    set of str
        The names of the folders that living writers are replacing now.
    """
    names = set()
    for leftover in _leftovers(folder):
        if not leftover.is_previous:
            continue
        if leftover.is_living:
            names.add(leftover.target.name)
        elif not leftover.target.exists():
            with suppress(OSError):
                leftover.path.replace(leftover.target)
    return names


def reappears(folder: Path, file: str) -> bool:
    """Return True if a folder that was missing is there again, with a file.

    It was restored after a kill, or a living writer has replaced it.

    Parameters
    ----------
    folder : Path
        The folder that is waited for.
    file : str
        The name of a file that it must have.
    """
    deadline = time.monotonic() + REPLACEMENT_TIMEOUT_S
    while folder.name in restore_moved_folders(folder.parent) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    return (folder / file).exists()


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Yield a new private folder for temporary files, and remove it at the end of the block.

    A folder of that name that a killed process left is removed first.
    """
    folder = temporary_path(Path(tempfile.gettempdir()) / name)
    remove_leftovers(folder.parent)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _leftovers(folder: Path) -> Iterator[Leftover]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(".")]
    except OSError:
        return
    for name in sorted(names):
        match = _NAME.fullmatch(name) or _OLD_NAME.fullmatch(name)
        if match is not None:
            owner = match.groupdict()
            yield Leftover(
                path=folder / name,
                target=folder / owner["name"],
                is_previous=owner.get("previous") is not None,
                may_be_previous="previous" not in owner or owner["previous"] is not None,
                is_living=_may_live(folder / name, owner),
            )


def _may_live(path: Path, owner: dict[str, str | None]) -> bool:
    if owner.get("machine") == _machine():
        process = {
            "host": socket.gethostname(),
            "pid": int(owner["pid"] or 0),
            "born": int(owner["born"] or 0) / 1000,
        }
        return is_alive(process)
    try:
        return time.time() - path.lstat().st_mtime < FOREIGN_AGE_S
    except OSError:
        return True


@cache
def _birth_ms(pid: int) -> int:
    return int(psutil.Process(pid).create_time() * 1000)


@cache
def _machine() -> str:
    """Return a hash of the name of the machine and of the space in which process ids are unique."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())  # containers have their own
    except OSError:
        namespace = ""
    return blake2b(f"{socket.gethostname()} {namespace}".encode(), digest_size=4).hexdigest()
