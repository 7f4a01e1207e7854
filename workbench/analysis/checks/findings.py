"""What a check finds."""

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something about a run that its user should know."""

    severity: Severity
    found: str  # one sentence, with the numbers that broke the rule
    advice: str  # one sentence: what to do
    numbers: dict[str, float] = field(default_factory=dict)  # those numbers, by name
