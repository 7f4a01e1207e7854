"""What a person changed while a run trained, as a function of the step: a run that goes on repeats it, to the bit."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Override:
    """From the update after `step` updates on: a term's multiplier, or (term None) that of the config's learning rate."""

    step: int
    term: str | None
    value: float


class WeightOverrides:
    """All changes of a run. Its events hold them, so it is the same after a kill; without any, every multiplier is 1.

    The latest word counts, also over what an earlier life of the run had recorded for later steps.
    """

    def __init__(self, events: Iterable[dict[str, Any]] = ()) -> None:
        self.changes: list[Override] = []
        for event in events:
            if event.get("event") in ("weight", "lr") and "value" in event:
                self.change(Override(int(event["step"]), event.get("term"), float(event["value"])))

    def change(self, change: Override) -> None:
        """Take a change in."""
        self.changes.append(change)

    def weight(self, term: str | None, step: int) -> float:
        """The multiplier of a term (None: of the learning rate) in the update after `step` updates."""
        return next(
            (c.value for c in reversed(self.changes) if c.term == term and c.step <= step), 1.0
        )

    def weighted(self, terms: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """The terms times their multipliers; the very same where nothing was changed."""
        weights = {name: self.weight(name, step) for name in terms}
        return {
            name: value if weights[name] == 1 else weights[name] * value
            for name, value in terms.items()
        }
