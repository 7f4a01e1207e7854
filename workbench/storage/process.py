"""Identity and liveness of the process that writes a run."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil

REMOTE_TIMEOUT_S = 60  # a process on another machine counts as alive for so long after its status
MAX_CLOCK_DRIFT_S = 2.0  # the start time of a process is derived from the clock of the machine


def current_process() -> dict[str, Any]:
    """Return this process as a run's status.json records it.

    Returns
    -------
    dict
        `pid`; `born`, its start time in seconds since the epoch; `host`; and `time`, the current
        time.
    """
    return {
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        "host": socket.gethostname(),
        "time": time.time(),
    }


def is_alive(process: Mapping[str, Any]) -> bool:
    """Return True if the process that a status records still runs.

    A process on another machine counts as alive if its status is recent. The start time
    distinguishes the process from a later one with the same number.
    """
    if process.get("host") != socket.gethostname():
        return time.time() - process.get("time", 0) < REMOTE_TIMEOUT_S
    try:
        candidate = psutil.Process(process["pid"])
        if candidate.status() == psutil.STATUS_ZOMBIE:
            return False
        born = process.get("born")
        if not isinstance(born, float):  # format 1 recorded clock ticks
            return True
        return abs(candidate.create_time() - born) <= MAX_CLOCK_DRIFT_S
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError, OverflowError):
        return False
