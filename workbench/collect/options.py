"""Options of a collection."""

from dataclasses import dataclass
from pathlib import Path

from workbench.core.errors import UserError
from workbench.features.default import AUTO

MAX_PICTURES = 2000


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """Options of a collection; `workbench.collect.collect` documents every option.

    Raises
    ------
    UserError
        If a number is below 1.
    """

    limit: int = 2000
    pictures: int = MAX_PICTURES
    samples: int | None = None
    seed: int = 0
    guidance: float = 2.0
    feature_extractor: str = AUTO
    reference: Path | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("limit", "pictures", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}.")
