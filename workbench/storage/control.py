"""What a person asks of a run while it trains: numbered requests in control.json, written by hosts, read by `fit`.

pause, resume, stop (with a checkpoint), sample (pictures now), evaluate (evidence now, of the weights as they are),
weight (a term's multiplier: term="align", value=0.5) and lr (the multiplier of the plan's learning rate: value=0.5).
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
_TAKES = {"weight": {"term", "value"}, "lr": {"value"}}
_EXAMPLE = {"weight": '"weight", term="pixel", value=0.5', "lr": '"lr", value=0.5'}


def make_command(
    command: str, terms: Collection[str] = (), *, term: str | None = None, value: Any = None
) -> dict[str, Any]:
    """A request's command and what it needs. Raises UserError for an unknown command, a term that is not among
    `terms` (where they are known), or a multiplier that is no finite number from 0 on.
    """
    if command not in COMMANDS:
        raise unknown("command", str(command), COMMANDS)
    given = {name: told for name, told in (("term", term), ("value", value)) if told is not None}
    if given.keys() != _TAKES.get(command, set()):
        takes = " and ".join(sorted(_TAKES.get(command, ()))) or "nothing else"
        raise UserError(
            f"{command} takes {takes}, as in ask({_EXAMPLE.get(command, repr(command))})."
        )
    if "value" in given:
        given["value"] = _multiplier(value)
    if term is not None and terms and term not in terms:
        raise unknown("term", str(term), terms)
    return {"command": command, **given}


def append_command(folder: Path, wish: dict[str, Any]) -> int:
    """Add a request to those of a run's folder; returns its number."""
    earlier = read_commands(folder)
    number = earlier[-1]["id"] + 1 if earlier else 1
    told = [*earlier[-20:], {"id": number, **wish, "time": time.time()}]
    write_text(folder / "control.json", json.dumps(told))
    return number


def read_commands(folder: Path) -> list[dict[str, Any]]:
    """The latest requests in a run's folder, oldest first."""
    told = read_json(folder / "control.json", [])
    return [
        one
        for one in told
        if isinstance(one, dict) and isinstance(one.get("id"), int) and "command" in one
    ]


def _multiplier(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise UserError(f"A multiplier is a number from 0 on; got `{value}`.")
    return number
