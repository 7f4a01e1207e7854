"""The results of one scale next to its variants: more steps, wider models, more arms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .claim import Claim
from .store import SETTING, STORED_RESULTS, read_results
from .work import all_claims

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A claim together with its results at one scale; `variant` is empty for the scale itself."""

    claim: Claim
    results: JSON
    variant: str = ""

    @property
    def label(self) -> str:
        """The verdict, after the variant: `3 x the steps: shown`."""
        verdict = self.results["verdict"]
        return f"{self.variant}: {verdict}" if self.variant else verdict


@dataclass(frozen=True, kw_only=True)
class Row:
    """All outcomes of one claim: at the scale itself, if it was run there, then of the variants."""

    claim: Claim
    outcomes: tuple[Outcome, ...]

    @property
    def first(self) -> Outcome:
        """The outcome to show in full."""
        return self.outcomes[0]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The results of one scale: its setting, and a row for each claim."""

    setting: JSON
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, folder: Path, variants: list[Path]) -> "Comparison":
        """Read the results of a scale and of its variants.

        Parameters
        ----------
        folder : Path
            Folder of results of the scale itself.
        variants : list of Path
            Folders of results of its variants; a later one replaces claims of an earlier one that
            is the same variant.
        """
        keys = [claim.key for claim in all_claims()]
        own = read_results(folder, keys)
        outcomes: dict[str, dict[str, Outcome]] = {key: {} for key in keys}
        claims = {claim.key: claim for claim in all_claims()}
        for results in (own, *(read_results(path, keys) for path in variants)):
            variant = "" if results is own else variant_name(results)
            for result in results["claims"]:
                claim = claims[result["key"]]
                outcome = Outcome(claim=claim, results=result, variant=variant)
                outcomes[claim.key][variant] = outcome
        rows = [
            Row(claim=claims[key], outcomes=tuple(by_variant.values()))
            for key, by_variant in outcomes.items()
            if by_variant
        ]
        return cls(setting=own, rows=tuple(rows))

    @classmethod
    def stored(cls, scale: str, root: Path = STORED_RESULTS) -> "Comparison":
        """Read what the repository has of a scale."""
        return cls.read(root / scale, stored_variants(scale, root))

    def count(self, verdict: str, system: str | None = None) -> int:
        """Count the claims with a verdict at the scale itself."""
        rows = [row for row in self.rows if not row.first.variant]
        rows = [row for row in rows if system in (None, row.claim.system)]
        return sum(row.first.results["verdict"] == verdict for row in rows)


def stored_variants(scale: str, root: Path = STORED_RESULTS) -> list[Path]:
    """Return the folders of the variants of a scale: `laptop-3x` and `laptop-full` for `laptop`."""
    return sorted(path.parent for path in root.glob(f"{scale}-*/{SETTING}"))


def variant_name(setting: JSON) -> str:
    """Return what is different in a variant: `3 x the steps, every arm`."""
    parts = []
    if setting["longer"] > 1:
        parts.append(f"{setting['longer']} x the steps")
    if setting["wider"] > 1:
        parts.append(f"{setting['wider']} x the width")
    if setting["full"]:
        parts.append("every arm")
    if setting.get("released"):  # older results do not have it
        parts.append("networks as released")
    return ", ".join(parts)


def describe_setting(setting: JSON) -> str:
    """Return the sentences that describe how a scale was run."""
    sentences = [
        f"{setting['data']}, {setting['seeds']} seeds, scale `{setting['scale']}`,"
        f" {setting['machine']}, {setting['date']}: `{setting['command']}`.",
        f"Fréchet distances compare {setting['samples']:,} images, in the features of a contrastive"
        " network trained on these images (rFD, gFD) and of an untrained one (rFD free, gFD free).",
        "The floor is the distance from training to held-out images. rFD compares images with their"
        " own reconstructions, so it may be below the floor.",
        f"The teacher is {setting['teacher']}.",
    ]
    if setting["teacher"] == "resnet56":
        sentences.append(
            "It was trained with the classes of these images, which contributes to what its"
            " features know about them."
        )
    sentences.append("The seeds share images, teacher and feature extractor.")
    if setting["minutes"] is not None:
        sentences.append(f"All claims took {setting['minutes']:.0f} minutes of one core.")
    sentences.append("The minutes of a claim include runs that it shares with others.")
    return " ".join(sentences)


def format_spread(values: list[float | None], *, sign: bool = False) -> str:
    """Return mean ± standard deviation over seeds, or a dash if a value is undefined."""
    x = np.array(values, np.float64)  # None becomes NaN
    mean = x.mean()
    if np.isnan(mean):
        return "–"
    text = f"{mean:+.3g}" if sign else f"{mean:.4g}"
    return f"{text} ± {x.std(ddof=1):.2g}" if len(x) > 1 else text
