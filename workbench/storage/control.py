"""Control of a running training: commands that hosts send and `fit` reads.

A command is one file, `control/000001.json`, so that several hosts can send commands at the same
time. Runs of earlier versions had all commands in one file, control.json, which is still read.

======== ================================ ==========================================
command  arguments                        effect
======== ================================ ==========================================
pause                                     pause training
resume                                    resume training
stop                                      write a checkpoint and stop
sample                                    write sample images of this step
evaluate                                  collect evidence of the current weights
weight   `term="align", value=0.5`        multiply a term of the loss
lr       `value=0.5`                      multiply the learning rate
======== ================================ ==========================================
"""

import json
import math
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

from workbench.core.errors import RunError, UserError, unknown

COMMANDS = ("pause", "resume", "stop", "sample", "evaluate", "weight", "lr")
MAX_MULTIPLIER = 1_000_000  # of a weight or the learning rate; a larger one is a mistake
MAX_RECEIVED_COMMANDS = 20  # stored after the training has received them
MAX_FILE_BYTES = 1_000_000
MAX_NUMBER = 10**9
MAX_VALUE_LENGTH = 40  # characters of a refused value, in an error
_FILE_NAME = re.compile(r"(\d{6,9})\.json")
_ARGUMENTS = {"weight": {"term", "value"}, "lr": {"value"}}
_EXAMPLES = {"weight": '"weight", term="pixel", value=0.5', "lr": '"lr", value=0.5'}


def make_command(
    command: str,
    terms: Collection[str] = (),
    *,
    term: str | None = None,
    value: Any = None,
) -> dict[str, Any]:
    """Check a command and return it as its file stores it.

    Parameters
    ----------
    command : str
        One of `COMMANDS`.
    terms : collection of str
        The terms of the run's loss; empty if they are not known yet.
    term : str, optional
        The term of the loss, for the command `weight`.
    value : float, optional
        The multiplier, finite and at least 0, for the commands `weight` and `lr`.

    Raises
    ------
    UserError
        If the command or the term does not exist, or an argument is missing, superfluous or not a
        valid multiplier.

    Examples
    --------
    >>> make_command("lr", value="0.5")
    {'command': 'lr', 'value': 0.5}
    """
    if command not in COMMANDS:
        raise unknown("command", str(command), COMMANDS)
    arguments = {
        name: argument
        for name, argument in (("term", term), ("value", value))
        if argument is not None
    }
    expected = _ARGUMENTS.get(command, set())
    if arguments.keys() != expected:
        needed = " and ".join(sorted(expected)) or "no arguments"
        example = _EXAMPLES.get(command, repr(command))
        raise UserError(f"The command {command} takes {needed}, as in ask({example}).")
    if "value" in arguments:
        arguments["value"] = _multiplier(value)
    if term is not None and not isinstance(term, str):
        raise UserError(f"A term must be a name, got `{_shorten(term)}`.")
    if term is not None and terms and term not in terms:
        raise unknown("term", term, terms)
    return {"command": command, **arguments}


def append_command(folder: Path, command: dict[str, Any]) -> int:
    """Add a command to those of a run's folder and return its number.

    Numbers are unique and ascending, also if several processes call this at the same time.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    control = folder / "control"
    received = received_number(folder)
    try:
        control.mkdir(exist_ok=True)
        legacy = [legacy["id"] for legacy in _read_legacy(folder)]
        # A number is not used again after the files were deleted.
        number = max([received, *legacy, *_numbers(control)], default=0)
        while True:
            number += 1
            content = json.dumps({"id": number, **command, "time": time.time()})
            with suppress(FileExistsError):  # another process was faster
                with (control / f"{number:06d}.json").open("x", encoding="utf-8") as file:
                    file.write(content)
                break
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"The command could not be written into {control}: {reason}.") from None
    with suppress(OSError):
        delete_commands(folder, min(received, number - MAX_RECEIVED_COMMANDS))
    return number


def read_commands(folder: Path) -> list[dict[str, Any]]:
    """Return the commands in a run's folder, oldest first.

    Files that are damaged, or are still being written, are left out.

    Raises
    ------
    OSError
        If the folder `control` exists and cannot be listed.
    """
    control = folder / "control"
    commands = _read_legacy(folder)
    for number in _numbers(control):
        command = _read(control / f"{number:06d}.json")
        if _is_command(command) and command["id"] == number:
            commands.append(command)
    return commands


def delete_commands(folder: Path, last: int) -> None:
    """Delete the commands up to a number."""
    control = folder / "control"
    for number in _numbers(control):
        if number <= last:
            (control / f"{number:06d}.json").unlink(missing_ok=True)


def received_number(folder: Path) -> int:
    """Return the number of the latest command that a training received; 0 if there is none."""
    status = _read(folder / "status.json")
    number = status.get("answered") if isinstance(status, dict) else None
    return number if _is_number(number) else 0


def _numbers(control: Path) -> list[int]:
    try:
        matches = [_FILE_NAME.fullmatch(path.name) for path in control.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match[1]) for match in matches if match)


def _read_legacy(folder: Path) -> list[dict[str, Any]]:
    """Return the commands in the one file of earlier versions."""
    stored = _read(folder / "control.json")
    if not isinstance(stored, list):
        return []
    return [command for command in stored if _is_command(command)]


def _read(path: Path) -> Any:
    """Return the content of a JSON file; None if it is missing, damaged or not a regular file."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _is_command(command: Any) -> bool:
    if not isinstance(command, dict) or not isinstance(command.get("command"), str):
        return False
    time_s = command.get("time", 0.0)
    return _is_number(command.get("id")) and isinstance(time_s, int | float) and time_s >= 0


def _is_number(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < MAX_NUMBER


def _multiplier(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= MAX_MULTIPLIER:
        raise UserError(
            f"A multiplier must be a number between 0 and {MAX_MULTIPLIER:,}, "
            f"got `{_shorten(value)}`."
        )
    return number


def _shorten(value: Any) -> str:
    try:
        text = str(value)
    except (ValueError, RecursionError):  # Python prints no integer of more than 4,300 digits
        return f"a large {type(value).__name__}"
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"
