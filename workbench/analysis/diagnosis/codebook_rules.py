"""Checks of a codebook.

The docstring of a rule states when it reports; the values of constants are filled in.
"""

from collections.abc import Sequence
from functools import lru_cache

from workbench.analysis.codebook.usage import CodebookStats, codebook_usage
from workbench.analysis.diagnosis.codebook_causes import IMPORTED_ADVICE, cause_text, remedy_text
from workbench.analysis.diagnosis.findings import Finding, Severity
from workbench.analysis.result_cache import composed_result
from workbench.storage.evidence import Evidence

MAX_DEAD_SHARE = 0.10  # of the codes of a codebook
MAX_PERPLEXITY_BIAS = 0.10  # relative change by Miller and Madow's correction
MAX_DUPLICATE_SHARE = 0.01  # of the codes of a codebook


def tk001_dead_codes(evidence: Evidence) -> Finding | None:
    """Over {MAX_DEAD_SHARE:.0%} of the codes of a codebook are unused, despite enough tokens.

    A collapsed, borderline or uneven codebook is reported by its own check.
    """
    sampled = [c for c in _codebooks(evidence) if c.verdict == "healthy"]
    if not sampled:
        return None
    worst = max(sampled, key=_dead_share)
    dead_share = _dead_share(worst)
    if dead_share <= MAX_DEAD_SHARE:
        return None
    observation = (
        f"{worst.dead:,} of {worst.size:,} codes ({100 * dead_share:.0f} %) were never selected by"
        f" {worst.tokens:,} tokens."
    )
    return Finding(
        severity=_severity(evidence, "warning"),
        observation=observation + _soft_note(evidence),
        advice=(
            "Restart dead codes, lower the learning rate of the codebook, or use a smaller"
            " codebook."
        ),
        imported_advice=(
            "Count bits by the codes in use, or choose a tokenizer with a smaller codebook."
        ),
        numbers={"dead": dead_share, "size": worst.size},
    )


def tk002_perplexity_biased(evidence: Evidence) -> Finding | None:
    """Perplexity is over {MAX_PERPLEXITY_BIAS:.0%} too low, because few tokens were counted.

    The bias is estimated by Miller and Madow's correction.
    """
    worst = max(_codebooks(evidence), key=lambda c: c.perplexity_corrected / c.perplexity)
    bias = worst.perplexity_corrected / worst.perplexity - 1
    if bias <= MAX_PERPLEXITY_BIAS:
        return None
    return Finding(
        severity="info",
        observation=(
            f"The perplexity is {worst.perplexity:,.0f}, and about"
            f" {worst.perplexity_corrected:,.0f} after removal of its bias."
        ),
        advice=f"Report the corrected value, or count more than {worst.tokens:,} tokens.",
        numbers={"perplexity": worst.perplexity, "corrected": worst.perplexity_corrected},
    )


def tk003_under_sampled(evidence: Evidence) -> Finding | None:
    """A codebook is under-sampled: too few tokens to distinguish dead codes from rare codes."""
    codebook = _with_verdict(evidence, "under-sampled")
    if codebook is None:
        return None
    return Finding(
        severity="info",
        observation=(
            f"{codebook.tokens:,} tokens reach {codebook.used:,} of {codebook.size:,} codes, and"
            " more tokens would reach more codes."
        ),
        advice="Collect evidence of more images before calling codes dead.",
        numbers={
            "tokens": codebook.tokens,
            "used": codebook.used,
            "growth": codebook.growth,
        },
    )


def tk013_collapsed(evidence: Evidence, others: Sequence[Evidence]) -> Finding | None:
    """A codebook is collapsed: at most half of its codes are reachable.

    The 95 % interval of Chao1's estimate is below that, so that more tokens would not help.
    """
    codebook = _with_verdict(evidence, "collapsed")
    if codebook is None:
        return None
    return Finding(
        severity=_severity(evidence, "error"),
        observation=_reach_text(codebook) + _soft_note(evidence) + cause_text(evidence, others),
        advice=remedy_text(evidence, codebook),
        imported_advice=IMPORTED_ADVICE,
        numbers=_reach_numbers(codebook),
    )


def tk018_nearly_collapsed(evidence: Evidence, others: Sequence[Evidence]) -> Finding | None:
    """A codebook is at the border of collapse: between half and 3/4 of its codes are reachable.

    The 95 % interval of Chao1's estimate is below 3/4, but not below half.
    """
    codebook = _with_verdict(evidence, "borderline")
    if codebook is None:
        return None
    return Finding(
        severity=_severity(evidence, "warning"),
        observation=_reach_text(codebook) + _soft_note(evidence) + cause_text(evidence, others),
        advice=remedy_text(evidence, codebook),
        imported_advice=IMPORTED_ADVICE,
        numbers=_reach_numbers(codebook),
    )


def tk014_duplicate_codes(evidence: Evidence) -> Finding | None:
    """Over {MAX_DUPLICATE_SHARE:.0%} of the codes of a codebook are duplicates of another code."""
    from workbench.analysis.codebook.distances import code_distances

    inputs = evidence.kwargs_for(code_distances)
    codebooks = composed_result(code_distances, inputs).codebooks
    worst = max(codebooks, key=lambda codebook: codebook.duplicates / codebook.size)
    share = worst.duplicates / worst.size
    if share <= MAX_DUPLICATE_SHARE:
        return None
    return Finding(
        severity="warning",
        observation=(
            f"About {worst.duplicates:,.0f} of {worst.size:,} codes ({100 * share:.0f} %) are"
            " duplicates of another code."
        ),
        advice=(
            "Duplicates waste bits: restart them at encoder outputs, or use a smaller codebook."
        ),
        imported_advice="Duplicates waste bits: choose a tokenizer with a smaller codebook.",
        numbers={"duplicates": share},
    )


def tk015_uneven_usage(evidence: Evidence) -> Finding | None:
    """The usage of a codebook is uneven: few of its codes hold almost all tokens.

    Its perplexity is below the square root of that of uniform usage, or 99 % of the tokens are on
    under half of the codes that uniform usage would use.
    """
    codebook = _with_verdict(evidence, "uneven")
    if codebook is None:
        return None
    observation = (
        f"{codebook.used:,} of {codebook.size:,} codes are used, but {codebook.core:,} of them hold"
        f" 99 % of the tokens; the perplexity is {codebook.perplexity:,.0f} (uniform usage:"
        f" {codebook.perplexity_uniform:,.0f})."
    )
    return Finding(
        severity=_severity(evidence, "warning"),
        observation=observation + _soft_note(evidence),
        advice=(
            "Report perplexity next to usage, and raise the weight of the entropy loss or use a"
            " smaller codebook."
        ),
        imported_advice=(
            "Report perplexity next to usage, or choose a tokenizer that uses its codes evenly."
        ),
        numbers={
            "perplexity": codebook.perplexity,
            "uniform": codebook.perplexity_uniform,
        },
    )


def _reach_text(codebook: CodebookStats) -> str:
    return (
        f"At most about {codebook.chao1_high:,.0f} of {codebook.size:,} codes are reachable"
        f" (Chao1, 95 % interval {codebook.chao1_low:,.0f} to {codebook.chao1_high:,.0f});"
        f" {codebook.used:,} are used, with a perplexity of {codebook.perplexity:,.0f} (uniform"
        f" usage: {codebook.used_uniform:,.0f} and {codebook.perplexity_uniform:,.0f})."
    )


def _reach_numbers(codebook: CodebookStats) -> dict[str, float]:
    return {
        "used": codebook.used,
        "used_uniform": codebook.used_uniform,
        "chao1": codebook.chao1,
        "chao1_high": codebook.chao1_high,
        "perplexity": codebook.perplexity,
        "perplexity_uniform": codebook.perplexity_uniform,
    }


@lru_cache(maxsize=1)
def _codebooks(evidence: Evidence) -> tuple[CodebookStats, ...]:
    return codebook_usage(**evidence.kwargs_for(codebook_usage)).codebooks


def _dead_share(codebook: CodebookStats) -> float:
    return codebook.dead / codebook.size


def _with_verdict(evidence: Evidence, verdict: str) -> CodebookStats | None:
    """Return the codebook with this verdict that uses the smallest fraction of its codes."""
    codebooks = [codebook for codebook in _codebooks(evidence) if codebook.verdict == verdict]
    return min(codebooks, key=lambda codebook: codebook.used / codebook.size, default=None)


def _is_discrete(evidence: Evidence) -> bool:
    return bool(evidence.provenance.get("discrete", True))


def _severity(evidence: Evidence, severity: Severity) -> Severity:
    # The decoder of a soft quantizer reads all codes, so that the most probable is only a label.
    return severity if _is_discrete(evidence) else "info"


def _soft_note(evidence: Evidence) -> str:
    return "" if _is_discrete(evidence) else " These are the most probable of soft codes."
