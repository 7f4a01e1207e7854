"""Perspectives: single numbers that describe a latent space, and what they can be compared with.

An analysis whose result is a `PerspectiveResult` contributes one column per perspective to the
comparison `diffusability`. It needs no registration.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from workbench.analysis.base import Result

Direction = Literal["higher", "lower"]
# Name and value of each property that must be equal for two values to be comparable.
Conditions = tuple[tuple[str, str], ...]
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Perspective:
    """One number of a latent space.

    Attributes
    ----------
    name : str
        Title of the column, unique among all perspectives, for example `VIV`.
    meaning : str
        Definition in one line, with the unit.
    value : float
        The measured value, in the unit that `meaning` states.
    low, high : float
        95 % interval; NaN if there is none.
    null : float
        Value without the structure that is measured; NaN if there is no such value.
    null_case : str
        The data that give the null value, for example `white noise`.
    better : {"higher", "lower"} or None
        Direction of better generation; None unless published evidence that is not contradicted
        supports one.
    reason : str
        Source of the direction, or the reason why there is none, in one sentence.
    conditions : tuple of (str, str)
        Name and value of each property that must be equal for two values to be comparable, for
        example `("dimensions per image", "1,024")`.

    Examples
    --------
    >>> from dataclasses import replace
    >>> small = Perspective(
    ...     name="VIV",
    ...     meaning="mean square root of the eigenvalues",
    ...     value=0.5,
    ...     reason="Not tested.",
    ...     conditions=(("dimensions per image", "256"),),
    ... )
    >>> large = replace(small, conditions=(("dimensions per image", "1,024"),))
    >>> large.incomparability(small)
    'dimensions per image: 1,024, not 256'
    >>> small.incomparability(small)
    ''
    """

    name: str
    meaning: str
    value: float
    low: float = NAN
    high: float = NAN
    null: float = NAN
    null_case: str = ""
    better: Direction | None = None
    reason: str
    conditions: Conditions

    def incomparability(self, reference: "Perspective") -> str:
        """Return the conditions that differ from those of a reference value; empty if none do.

        Parameters
        ----------
        reference : Perspective
            The same perspective of another run.

        Returns
        -------
        str
            One phrase per condition, such as `dimensions per image: 1,024, not 256`.
        """
        conditions, other = dict(self.conditions), dict(reference.conditions)
        names = dict.fromkeys((*conditions, *other))
        return "; ".join(
            f"{name}: {conditions.get(name, 'unknown')}, not {other.get(name, 'unknown')}"
            for name in names
            if conditions.get(name) != other.get(name)
        )


class PerspectiveResult(Result):
    """A result that contributes columns to the comparison of latent spaces."""

    @abstractmethod
    def perspectives(self) -> tuple[Perspective, ...]:
        """Return the numbers that describe the latent space, the most important first.

        Returns
        -------
        tuple of Perspective
        """
