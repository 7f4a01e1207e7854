"""Logs of one JSON object per line.

A log grows by one line at a time. A line that was torn by a kill or a full disk is skipped; the
other lines are kept.
"""

import json
import os
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError

Record = dict[str, Any]


def append_record(path: Path, record: Record) -> None:
    """Append a record to a log, on a line of its own even if the last line was torn.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    try:
        with path.open("a+b") as file:
            is_torn = False
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                is_torn = file.read(1) != b"\n"
            separator = b"\n" if is_torn else b""
            file.write(separator + json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}.") from None


def read_records(path: Path) -> list[Record]:
    """Return the records of a log, oldest first; an empty list if the file does not exist.

    Torn lines, and a last line that is still being written, are left out.
    """
    return JsonlTail(path).read()


class JsonlTail:
    """Reads a growing log repeatedly and parses only the lines that are new.

    If the file was replaced or truncated, it is read again from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: list[Record] = []
        self._inode: int | None = None
        self._offset = 0

    def read(self) -> list[Record]:
        """Return all complete records so far, oldest first."""
        try:
            with self.path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._restart(stat.st_ino)
                file.seek(self._offset)
                raw = file.read()
        except FileNotFoundError:
            self._restart(None)
            return []
        complete = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(complete)
        records = (_parse(line) for line in complete.splitlines())
        self._records += [record for record in records if record is not None]
        return self._records

    def _restart(self, inode: int | None) -> None:
        self._records = []
        self._inode = inode
        self._offset = 0


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
