"""The settings that the advice of each check changes, and the checks that withhold another.

Two checks whose advice moves one setting in opposite directions never both report: one of them is
withheld while the other has a finding. A test compares all pairs of checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["raise", "lower"]


@dataclass(frozen=True)
class Remedy:
    """The changes that a check advises."""

    changes: Mapping[str, Direction] = field(default_factory=dict)  # direction by setting
    # Checks whose finding makes this one invalid, so that it is not applied.
    withheld_by: tuple[str, ...] = ()


MORE_IMAGES: Mapping[str, Direction] = {"number of collected images": "raise"}
MORE_CODES_IN_USE: Mapping[str, Direction] = {
    "revive": "raise",
    "entropy weight": "raise",
    "codebook size": "lower",
}
# By the code of the check.
REMEDIES: dict[str, Remedy] = {
    "TK001": Remedy({"revive": "raise", "codebook size": "lower"}),
    "TK002": Remedy(MORE_IMAGES),
    "TK003": Remedy(MORE_IMAGES),
    "TK004": Remedy(),
    "TK005": Remedy({"KL weight": "lower", "latent channels": "lower"}),
    "TK006": Remedy(MORE_IMAGES),
    "TK007": Remedy(),
    "TK012": Remedy(),
    "TK013": Remedy(MORE_CODES_IN_USE),
    "TK014": Remedy({"revive": "raise", "codebook size": "lower"}),
    "TK015": Remedy({"entropy weight": "raise", "codebook size": "lower"}),
    "TK016": Remedy({"learning rate": "lower", "KL weight": "lower"}),
    "TK017": Remedy(),
    "TK018": Remedy(MORE_CODES_IN_USE),
    "TK020": Remedy({"tokenizer steps": "raise", "tokenizer width": "raise"}),
    "TK021": Remedy(),
    "TK030": Remedy(MORE_IMAGES),
    "TK031": Remedy(),
    # Samples without fidelity may be near to training images because both have few features.
    "TK040": Remedy(
        {"generator steps": "lower", "number of training images": "raise"},
        withheld_by=("TK041", "TK042"),
    ),
    "TK041": Remedy({"generator steps": "raise", "guidance": "lower"}),
    "TK042": Remedy({"generator steps": "raise"}),
    "TK050": Remedy({"tokenizer steps": "raise"}),
    "TK060": Remedy(),
    "TK070": Remedy({"learning rate": "lower"}),
    "TK071": Remedy(withheld_by=("TK070", "TK073")),
    "TK072": Remedy({"KL weight": "lower"}),
    "TK073": Remedy(withheld_by=("TK070",)),
    "TK074": Remedy({"number of training images": "raise", "weight decay": "raise"}),
}


def contradictions(remedy: Remedy, other: Remedy) -> list[str]:
    """Return the settings that two remedies move in opposite directions.

    Examples
    --------
    >>> contradictions(Remedy({"steps": "raise"}), Remedy({"steps": "lower"}))
    ['steps']
    """
    return [
        setting
        for setting, direction in remedy.changes.items()
        if other.changes.get(setting, direction) != direction
    ]
