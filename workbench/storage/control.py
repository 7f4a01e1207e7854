"""Control of a running training: commands in control.json, sent by hosts and read by `fit`.

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
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from workbench.core.errors import UserError, unknown
from workbench.storage.atomic import read_json, write_text

COMMANDS = ("pause", "resume", "stop", "sample", "evaluate", "weight", "lr")
MAX_STORED_COMMANDS = 21
_ARGUMENTS = {"weight": {"term", "value"}, "lr": {"value"}}
_EXAMPLES = {"weight": '"weight", term="pixel", value=0.5', "lr": '"lr", value=0.5'}


def make_command(
    command: str,
    terms: Collection[str] = (),
    *,
    term: str | None = None,
    value: Any = None,
) -> dict[str, Any]:
    """Check a command and return it as control.json stores it.

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
    if term is not None and terms and term not in terms:
        raise unknown("term", str(term), terms)
    return {"command": command, **arguments}


def append_command(folder: Path, command: dict[str, Any]) -> int:
    """Add a command to those of a run's folder and return its number."""
    earlier = read_commands(folder)
    number = earlier[-1]["id"] + 1 if earlier else 1
    stamped = {"id": number, **command, "time": time.time()}
    latest = [*earlier[-(MAX_STORED_COMMANDS - 1) :], stamped]
    write_text(folder / "control.json", json.dumps(latest))
    return number


def read_commands(folder: Path) -> list[dict[str, Any]]:
    """Return the latest commands in a run's folder, oldest first."""
    stored: list[Any] = read_json(folder / "control.json", [])
    return [
        command
        for command in stored
        if isinstance(command, dict) and isinstance(command.get("id"), int) and "command" in command
    ]


def _multiplier(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise UserError(f"A multiplier must be a finite number of at least 0, got `{value}`.")
    return number
