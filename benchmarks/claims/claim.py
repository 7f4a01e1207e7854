"""A claim, and the one rule that decides the verdict of every claim.

The rule was written before any claim was run. A claim states that some *effects* are above zero.
An effect is one number per seed, such as "gFD of the plain autoencoder minus gFD of MAETok". An
effect is *shown* if it is above zero in every seed, with at least three seeds, and its mean is
above two standard errors. It is *weak* if only its mean is above zero, and *not shown* otherwise.
A claim has the verdict of its worst effect. A margin that a claim requires (a share, a
correlation) is already subtracted from its effect; the module of the claim gives it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from workbench.storage.run import Run

from .arms import Arm, Scale

Verdict = Literal["shown", "weak", "not shown"]
VERDICTS: tuple[Verdict, ...] = ("not shown", "weak", "shown")  # from worst to best
MIN_SEEDS = 3
Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper, the runs that test it, and the effects that it predicts.

    Parameters
    ----------
    key : str
        Name of its files.
    system : str
        The system it is about.
    statement : str
        The claim in one sentence.
    source : str
        Paper, and table or figure.
    rule : str
        The condition in words; `effects` is the same in numbers.
    arms : callable
        From a scale to the arms by label.
    effects : callable
        From the numbers of one seed, by label of the arm, to the effects by name.
    measure : callable, optional
        Measures what is not measured of every run; its second argument is the `Lab`.
    details : callable, optional
        From the numbers of one seed to further numbers over all arms.
    columns : tuple of str
        Names of the numbers to show for each arm, the most important first.
    caveat : str
        A caution that holds whatever the verdict.
    on_request : bool
        It is run only if it, or its module, is named.
    """

    key: str
    system: str
    statement: str
    source: str
    rule: str
    arms: Callable[[Scale], dict[str, Arm]]
    effects: Callable[[Mapping[str, Numbers]], Numbers]
    measure: Callable[[Run, Any], Numbers] | None = None
    details: Callable[[Mapping[str, Numbers]], Numbers] | None = None
    columns: tuple[str, ...] = ()
    caveat: str = ""
    on_request: bool = False


def judge_effect(values: list[float]) -> Verdict:
    """Return the verdict of an effect from its value in every seed."""
    x = np.asarray(values, np.float64)
    if len(x) == 0 or not np.isfinite(x).all() or x.mean() <= 0:
        return "not shown"
    if len(x) < MIN_SEEDS or (x <= 0).any():
        return "weak"
    return "shown" if x.mean() > 2 * x.std(ddof=1) / np.sqrt(len(x)) else "weak"


def worst_verdict(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict of a claim from those of its effects."""
    return min(verdicts, key=VERDICTS.index, default="not shown")
