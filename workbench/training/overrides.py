"""Multipliers of loss terms and of the learning rate that a user sets while a run trains.

They are a function of the step, so a resumed run repeats them exactly.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Override:
    """One multiplier, in force from the update after `step` updates on.

    Attributes
    ----------
    step : int
        The number of updates before the override.
    term : str or None
        The term of the loss; None for the learning rate.
    value : float
        The multiplier.
    """

    step: int
    term: str | None
    value: float


class WeightOverrides:
    """All overrides of a run; without any, every multiplier is 1.

    They are read from the run's events, so they survive a kill. The most recent override wins, even
    over overrides that a previous session had recorded for later steps.

    Parameters
    ----------
    events : iterable of dict
        The run's events.
    """

    def __init__(self, events: Iterable[dict[str, Any]] = ()) -> None:
        self.overrides: list[Override] = []
        for event in events:
            if event.get("event") in ("weight", "lr") and "value" in event:
                override = Override(
                    step=int(event["step"]),
                    term=event.get("term"),
                    value=float(event["value"]),
                )
                self.add(override)

    def add(self, override: Override) -> None:
        """Add an override."""
        self.overrides.append(override)

    def multiplier(self, term: str | None, step: int) -> float:
        """Return the multiplier of a term (None: the learning rate) after `step` updates."""
        for override in reversed(self.overrides):
            if override.term == term and override.step <= step:
                return override.value
        return 1.0

    def apply(self, terms: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return the terms times their multipliers; terms without an override are unchanged."""
        weighted = {}
        for name, value in terms.items():
            multiplier = self.multiplier(name, step)
            weighted[name] = value if multiplier == 1 else multiplier * value
        return weighted
