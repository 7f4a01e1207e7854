"""The result of a check that failed."""

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """An observation about a run, and the action that it suggests."""

    severity: Severity
    observation: str  # one sentence with the numbers that violate the rule
    advice: str  # one sentence with the action to take
    numbers: dict[str, float] = field(default_factory=dict)  # those numbers by name
    # The advice for a model that was trained elsewhere; empty if `advice` does not change training.
    imported_advice: str = ""
