"""Checks of a codebook.

The docstring of a rule states when it reports; the values of constants are filled in.
"""

from functools import lru_cache

from workbench.analysis.codebook.usage import CodebookStats, codebook_usage
from workbench.analysis.diagnosis.findings import Finding, Severity
from workbench.storage.evidence import Evidence

MAX_DEAD_SHARE = 0.10  # of the codes of a codebook
MAX_PERPLEXITY_BIAS = 0.10  # relative change by Miller and Madow's correction
MAX_DUPLICATE_SHARE = 0.01  # of the codes of a codebook


def tk001_dead_codes(evidence: Evidence) -> Finding | None:
    """Over {MAX_DEAD_SHARE:.0%} of the codes of a codebook are unused, despite enough tokens."""
    sampled = [c for c in _codebooks(evidence) if c.verdict != "under-sampled"]
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


def tk013_collapsed(evidence: Evidence) -> Finding | None:
    """A codebook is collapsed: it uses far fewer codes than uniform usage would.

    More tokens would not change that.
    """
    codebook = _with_verdict(evidence, "collapsed")
    if codebook is None:
        return None
    observation = (
        f"Only {codebook.used:,} of {codebook.size:,} codes are used, with a perplexity of"
        f" {codebook.perplexity:,.0f}."
    )
    return Finding(
        severity=_severity(evidence, "error"),
        observation=observation + _soft_note(evidence),
        advice=(
            "Initialize codes at encoder outputs, restart dead codes, or raise the weight of the"
            " entropy or commitment loss."
        ),
        numbers={
            "used": codebook.used,
            "used_uniform": codebook.used_uniform,
            "perplexity": codebook.perplexity,
        },
    )


def tk014_duplicate_codes(evidence: Evidence) -> Finding | None:
    """Over {MAX_DUPLICATE_SHARE:.0%} of the codes of a codebook are duplicates of another code."""
    from workbench.analysis.codebook.distances import code_distances

    codebooks = code_distances(**evidence.kwargs_for(code_distances)).codebooks
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
        numbers={"duplicates": share},
    )


def tk015_uneven_usage(evidence: Evidence) -> Finding | None:
    """The usage of a codebook is uneven: its entropy is under half that of uniform usage."""
    codebook = _with_verdict(evidence, "uneven")
    if codebook is None:
        return None
    observation = (
        f"{codebook.used:,} of {codebook.size:,} codes are used, but the perplexity is only"
        f" {codebook.perplexity:,.0f}."
    )
    return Finding(
        severity=_severity(evidence, "warning"),
        observation=observation + _soft_note(evidence),
        advice=(
            "Report perplexity next to usage, and raise the weight of the entropy loss or use a"
            " smaller codebook."
        ),
        numbers={
            "perplexity": codebook.perplexity,
            "uniform": codebook.perplexity_uniform,
        },
    )


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
