"""The feature extractor that evaluations use if the user names none: the best on this machine."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from workbench.features import efficientnet, inception

VARIABLE = "WORKBENCH_FEATURE_EXTRACTOR"
AUTO = "auto"  # in place of a name: the best on this machine


@dataclass(frozen=True)
class Candidate:
    """A feature extractor that may be on this machine.

    Attributes
    ----------
    name : str
        Its name for `get_feature_extractor`.
    title : str
        Its name in text.
    is_present : callable
        Whether it can be used without downloading anything.
    instructions : callable
        Returns how to obtain its weights.
    """

    name: str
    title: str
    is_present: Callable[[], bool]
    instructions: Callable[[], str]


@dataclass(frozen=True)
class ChosenExtractor:
    """The name of a feature extractor, and why it was chosen, in one sentence."""

    name: str
    reason: str


def choose_feature_extractor(name: str = AUTO) -> ChosenExtractor:
    """Return the feature extractor that a user names, or the default for `auto`.

    Parameters
    ----------
    name : str
        A name for `get_feature_extractor`, or `auto`.

    Returns
    -------
    ChosenExtractor
        The name, and the reason of the choice.
    """
    if name == AUTO:
        return default_feature_extractor()
    return ChosenExtractor(name, "It was named explicitly.")


def default_feature_extractor() -> ChosenExtractor:
    """Choose the best feature extractor that needs no download.

    The order is Inception-v3, DINOv2, EfficientNet-Lite0, HOG. The environment variable
    WORKBENCH_FEATURE_EXTRACTOR overrides it.

    Returns
    -------
    ChosenExtractor
        The name, and the reason of the choice.

    Raises
    ------
    UserError
        If an environment variable names a file of weights that does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return ChosenExtractor(named, f"{VARIABLE} names it.")
    missing: list[str] = []
    for candidate in CANDIDATES:
        if candidate.is_present():
            reason = f"The weights of {candidate.title} are on this machine"
            return ChosenExtractor(candidate.name, f"{reason}{_absence(missing)}.")
        missing.append(candidate.title)
    return ChosenExtractor(
        "hog",
        f"HOG needs no weights{_absence(missing)}. See `workbench doctor`.",
    )


def _absence(titles: list[str]) -> str:
    if not titles:
        return ""
    if len(titles) == 1:
        return f"; {titles[0]} is missing"
    return f"; {', '.join(titles[:-1])} and {titles[-1]} are missing"


def _has_inception() -> bool:
    return inception.WEIGHTS.find() is not None


def _has_efficientnet() -> bool:
    return efficientnet.WEIGHTS.find() is not None


def _has_dinov2() -> bool:
    """Return True if DINOv2 is in the cache of the hub; nothing is requested from the network."""
    from workbench.features.hub import is_cached

    return is_cached("dinov2")


def _dinov2_instructions() -> str:
    from workbench.features.hub import FAMILIES

    return f"run `hf download {FAMILIES['dinov2'].default_model}`"


CANDIDATES = (
    Candidate(
        name="inception",
        title=inception.WEIGHTS.title,
        is_present=_has_inception,
        instructions=inception.WEIGHTS.instructions,
    ),
    Candidate(
        name="dinov2",
        title="DINOv2",
        is_present=_has_dinov2,
        instructions=_dinov2_instructions,
    ),
    Candidate(
        name="efficientnet",
        title=efficientnet.WEIGHTS.title,
        is_present=_has_efficientnet,
        instructions=efficientnet.WEIGHTS.instructions,
    ),
)
