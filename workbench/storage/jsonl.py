"""Logs of one JSON object per line.

A log grows by one line at a time. A line that was torn by a kill or a full disk is skipped; the
other lines are kept.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.core.errors import RunError
from workbench.storage.files import (
    MAX_LOG_BYTES,
    DamagedError,
    is_count,
    is_number,
    open_regular,
    parse_json,
    read_rest,
    unreadable,
)

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


def read_records(path: Path, is_valid: Callable[[Record], bool] = bool) -> list[Record]:
    """Return the records of a log, oldest first; an empty list if the file does not exist.

    Torn lines, a last line that is still being written, and records that are not valid are left
    out.

    Raises
    ------
    RunError
        If the file exists and cannot be read, or is not a regular file.
    """
    return JsonlTail(path, is_valid).read()


def is_log_record(record: Record) -> bool:
    """Return True if a record of `log.jsonl` has a step, and only numbers as values."""
    return is_count(record.get("step")) and all(is_number(value) for value in record.values())


def is_event(record: Record) -> bool:
    """Return True if a record of `events.jsonl` has a name, a step and valid details."""
    if not isinstance(record.get("event"), str) or not is_count(record.get("step")):
        return False
    checks = {"id": is_count, "value": is_number, "time": is_number}
    texts = (record.get(name) or "" for name in ("why", "term"))
    return all(isinstance(text, str) for text in texts) and all(
        is_valid(record[name]) for name, is_valid in checks.items() if name in record
    )


class JsonlTail:
    """Reads a growing log repeatedly and parses only the lines that are new.

    If the file was replaced or truncated, it is read again from the beginning.

    Parameters
    ----------
    path : Path
        The log.
    is_valid : callable, optional
        Whether a record has the fields of this log; other records are skipped, as torn lines are.
    """

    def __init__(self, path: Path, is_valid: Callable[[Record], bool] = bool) -> None:
        self.path = path
        self._is_valid = is_valid
        self._records: list[Record] = []
        self._inode: int | None = None
        self._offset = 0

    def read(self) -> list[Record]:
        """Return all complete records so far, oldest first.

        Raises
        ------
        RunError
            If the file exists and cannot be read, or is not a regular file.
        """
        try:
            with open_regular(self.path) as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._restart(stat.st_ino)
                file.seek(self._offset)
                raw = read_rest(self.path, file, MAX_LOG_BYTES)
        except FileNotFoundError:
            self._restart(None)
            return []
        except OSError as error:
            raise unreadable(self.path, error) from None
        complete = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(complete)
        records = (_parse(line) for line in complete.splitlines())
        self._records += [r for r in records if r is not None and self._is_valid(r)]
        return self._records

    def _restart(self, inode: int | None) -> None:
        self._records = []
        self._inode = inode
        self._offset = 0


def _parse(line: bytes) -> Record | None:
    try:
        record = parse_json(line)
    except DamagedError:
        return None
    return record if isinstance(record, dict) else None
