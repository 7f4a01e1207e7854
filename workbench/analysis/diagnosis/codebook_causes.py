"""Probable causes of a collapsed codebook, read from the settings of the run, and remedies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.analysis.codebook.usage import CodebookStats, codebook_usage, worst_verdict
from workbench.analysis.runs.commands import as_word, options, retrain_command
from workbench.core.errors import UserError
from workbench.storage.evidence import Evidence

MAX_NAMED_SETTINGS = 4
# A codebook that is smaller by a larger factor has too few codes to be of use.
MAX_SIZE_REDUCTION = 4
GENERAL_ADVICE = (
    "Initialize codes at encoder outputs, restart dead codes, raise the weight of the entropy or"
    " commitment loss, or use a smaller codebook."
)
IMPORTED_ADVICE = (
    "Check that the images have the value range and the size that the tokenizer was trained on;"
    " otherwise choose one that uses its codebook."
)


@dataclass(frozen=True)
class Cause:
    """A value of a setting with which codebooks collapse, and the value to train with instead."""

    setting: str
    value: Any
    text: str  # a clause
    remedy: str  # value of the setting, as on the command line


CAUSES = (
    Cause(setting="revive", value=0, text="unused codes are not revived", remedy="0.1"),
    Cause(
        setting="learn",
        value="gradient",
        text="the codebook is trained by gradient",
        remedy="ema",
    ),
    Cause(
        setting="cosine",
        value=False,
        text="codes are compared by Euclidean distance",
        remedy="true",
    ),
    Cause(setting="entropy_weight", value=0, text="there is no entropy term", remedy="0.01"),
)


def probable_causes(evidence: Evidence) -> tuple[Cause, ...]:
    """Return the causes that apply to the settings of a run.

    How a model was trained elsewhere is not known.

    Examples
    --------
    >>> run = Evidence({"run": "a", "step": 1, "settings": {"revive": 0.0, "learn": "ema"}})
    >>> [cause.setting for cause in probable_causes(run)]
    ['revive']
    """
    if evidence.is_imported:
        return ()
    settings = evidence.provenance.get("settings", {})
    causes = [
        cause
        for cause in CAUSES
        if cause.setting in settings and settings[cause.setting] == cause.value
    ]
    # A codebook that is clustered before training has no codes to revive.
    if settings.get("mode", "online") != "online":
        causes = [cause for cause in causes if cause.setting != "revive"]
    return tuple(causes)


def cause_text(evidence: Evidence, others: Sequence[Evidence]) -> str:
    """Return the probable causes and a comparable run as sentences, each after a space."""
    sentences = []
    causes = probable_causes(evidence)
    if causes:
        clauses = [f"{c.text} ({c.setting} = {as_word(c.value)})" for c in causes]
        sentences.append(f"Probable cause: {', '.join(clauses)}.")
    for other in others:
        comparison = _comparison(evidence, other)
        if comparison:
            sentences.append(comparison)
            break
    return "".join(f" {sentence}" for sentence in sentences)


def remedy_text(evidence: Evidence, codebook: CodebookStats) -> str:
    """Return the command that trains with the remedies, as a sentence."""
    changes = {cause.setting: cause.remedy for cause in probable_causes(evidence)}
    settings = evidence.provenance.get("settings", {})
    if not changes and "codebook_size" in settings:
        size = 2 ** max(1, int(codebook.chao1_high - 1).bit_length())
        if codebook.size / MAX_SIZE_REDUCTION <= size < codebook.size:
            changes = {"codebook_size": str(size)}
    if not changes:
        return GENERAL_ADVICE
    command = retrain_command(evidence, changes)
    if not command:
        return f"Train again with `{options(changes)}`."
    return f"Train again: `{command}`."


def _comparison(evidence: Evidence, other: Evidence) -> str:
    """Return the settings in which a run of the same class without collapse differs."""
    if other is evidence or other.provenance.get("class") != evidence.provenance.get("class"):
        return ""
    if evidence.is_imported or other.is_imported:
        return ""  # models of different origin differ in more than the settings of their class
    try:
        codebooks = codebook_usage(**other.kwargs_for(codebook_usage)).codebooks
    except UserError:
        return ""
    if worst_verdict(c.verdict for c in codebooks) != "healthy":
        return ""
    settings, other_settings = (e.provenance.get("settings", {}) for e in (evidence, other))
    names = [
        name
        for name in settings
        if name in other_settings and settings[name] != other_settings[name]
    ]
    if not 0 < len(names) <= MAX_NAMED_SETTINGS:
        return ""
    used = sum(c.used for c in codebooks) / len(codebooks)
    values = ", ".join(f"{name} = {as_word(other_settings[name])}" for name in names)
    return f"{other.run_name} uses {used:,.0f} of {codebooks[0].size:,} codes with {values}."
