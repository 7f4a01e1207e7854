"""What a claim is, and the one rule by which every claim is judged, written before any of them was run.

A claim says that some *effects* are above zero; an effect is one number a seed, such as "gFD of the plain autoencoder
less gFD of MAETok". An effect is *shown* where it is above zero in every seed, of which there are at least three, and
its mean is above two standard errors; *weak* where only its mean is above zero; else *not shown*. A claim is as good
as the least of its effects. What a claim asks for beyond zero (a share, a correlation) is a margin that its effect
has subtracted already, and its module says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from workbench.storage.run import Run

from .arms import Arm, Scale

Verdict = Literal["shown", "weak", "not shown"]
VERDICTS: tuple[Verdict, ...] = ("not shown", "weak", "shown")
SEEDS = 3
Numbers = dict[str, float]


@dataclass(frozen=True)
class Claim:
    """A paper's sentence, what is trained to test it, what is measured, and which effects it says are above zero."""

    key: str  # of its rows and files
    system: str
    says: str
    source: str
    rule: str  # in words; `effects` is the same in numbers
    arms: Callable[[Scale], dict[str, Arm]]  # by label
    effects: Callable[
        [Mapping[str, Numbers]], Numbers
    ]  # of one seed: numbers by label, to effects by name
    measure: Callable[[Run, Any], Numbers] | None = (
        None  # beyond what is measured of every run; its second is the lab
    )
    details: Callable[[Mapping[str, Numbers]], Numbers] | None = (
        None  # of one seed: numbers of all arms together
    )
    shows: tuple[str, ...] = ()  # names of numbers worth a column, the most telling first
    note: str = ""  # what to beware of, whatever the verdict


def judged(values: list[float]) -> Verdict:
    """An effect's verdict from its value in every seed."""
    x = np.asarray(values, np.float64)
    if len(x) == 0 or not np.isfinite(x).all() or x.mean() <= 0:
        return "not shown"
    sure = len(x) >= SEEDS and (x > 0).all() and x.mean() > 2 * x.std(ddof=1) / np.sqrt(len(x))
    return "shown" if sure else "weak"


def least(verdicts: list[Verdict]) -> Verdict:
    """A claim's verdict from its effects'."""
    return min(verdicts, key=VERDICTS.index, default="not shown")
