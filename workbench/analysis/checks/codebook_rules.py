"""Checks of a codebook. A rule's docstring says when it speaks; numbers in it are filled in from the constants."""

from functools import lru_cache

from workbench.analysis.checks.findings import Finding, Severity
from workbench.analysis.codebook.usage import CodebookStats, codebook_usage
from workbench.storage.evidence import Evidence

DEAD = 0.10  # share of a book's codes
BIAS = 0.10  # of the perplexity, that Miller and Madow's correction adds
DUPLICATES = 0.01  # share of a book's codes


def tk001_dead_codes(evidence: Evidence) -> Finding | None:
    """Over {DEAD:.0%} of a book's codes were chosen by no token, though there were tokens enough to reach them."""
    books = [book for book in _books(evidence) if book.verdict != "under-sampled"]
    dead = max((book.dead / book.size for book in books), default=0.0)
    if dead <= DEAD:
        return None
    book = max(books, key=lambda book: book.dead / book.size)
    found = f"{book.dead:,} of {book.size:,} codes ({100 * dead:.0f} %) were never chosen by {book.tokens:,} tokens."
    advice = "Restart dead codes, lower the learning rate of the codebook, or take a smaller book."
    return Finding(
        _severity(evidence, "warning"),
        found + _soft(evidence),
        advice,
        {"dead": dead, "size": book.size},
    )


def tk002_perplexity_biased(evidence: Evidence) -> Finding | None:
    """Counted on so few tokens, perplexity reads over {BIAS:.0%} too low by Miller and Madow's correction."""
    book = max(_books(evidence), key=lambda book: book.perplexity_corrected / book.perplexity)
    bias = book.perplexity_corrected / book.perplexity - 1
    if bias <= BIAS:
        return None
    found = f"The perplexity {book.perplexity:,.0f} is about {book.perplexity_corrected:,.0f} once its bias is removed."
    advice = f"Quote the corrected number, or count more than {book.tokens:,} tokens."
    return Finding(
        "info",
        found,
        advice,
        {"perplexity": book.perplexity, "corrected": book.perplexity_corrected},
    )


def tk003_under_sampled(evidence: Evidence) -> Finding | None:
    """A book is under-sampled: too few tokens were counted to tell dead codes from codes that were not asked for."""
    book = _with_verdict(evidence, "under-sampled")
    if book is None:
        return None
    found = f"{book.tokens:,} tokens reached {book.used:,} of {book.size:,} codes, and more would reach more."
    advice = "Collect evidence of more images before calling codes dead."
    return Finding(
        "info", found, advice, {"tokens": book.tokens, "used": book.used, "growth": book.growth}
    )


def tk013_collapsed(evidence: Evidence) -> Finding | None:
    """A book is collapsed: it uses far less than a uniform source would, and more tokens would not change that."""
    book = _with_verdict(evidence, "collapsed")
    if book is None:
        return None
    found = f"Only {book.used:,} of {book.size:,} codes are in use, as evenly as {book.perplexity:,.0f} codes."
    advice = "Start codes at encoder outputs, restart dead ones, or raise the entropy or commitment weight."
    numbers = {"used": book.used, "ceiling": book.used_uniform, "perplexity": book.perplexity}
    return Finding(_severity(evidence, "error"), found + _soft(evidence), advice, numbers)


def tk014_duplicate_codes(evidence: Evidence) -> Finding | None:
    """Over {DUPLICATES:.0%} of a book's codes are next to a copy of another."""
    from workbench.analysis.codebook.distances import code_distances

    book = max(
        code_distances(**evidence.kwargs_for(code_distances)).codebooks,
        key=lambda book: book.duplicates / book.size,
    )
    share = book.duplicates / book.size
    if share <= DUPLICATES:
        return None
    found = f"About {book.duplicates:,.0f} of {book.size:,} codes ({100 * share:.0f} %) are copies of another."
    advice = "Copies waste bits: restart them at encoder outputs, or take a smaller book."
    return Finding("warning", found, advice, {"duplicates": share})


def tk015_uneven_usage(evidence: Evidence) -> Finding | None:
    """A book is uneven: its tokens tell under half the bits that a uniform source's would."""
    book = _with_verdict(evidence, "uneven")
    if book is None:
        return None
    found = f"{book.used:,} codes are in use, but only as evenly as {book.perplexity:,.0f} of {book.size:,}."
    advice = "Quote perplexity beside usage, and raise the entropy weight or take a smaller book."
    numbers = {"perplexity": book.perplexity, "uniform": book.perplexity_uniform}
    return Finding(_severity(evidence, "warning"), found + _soft(evidence), advice, numbers)


@lru_cache(maxsize=1)
def _books(evidence: Evidence) -> tuple[CodebookStats, ...]:
    return codebook_usage(**evidence.kwargs_for(codebook_usage)).codebooks


def _with_verdict(evidence: Evidence, verdict: str) -> CodebookStats | None:
    """The book of that verdict that uses the smallest share of its codes."""
    alike = [book for book in _books(evidence) if book.verdict == verdict]
    return min(alike, key=lambda book: book.used / book.size, default=None)


def _severity(evidence: Evidence, severity: Severity) -> Severity:
    return severity if evidence.provenance.get("discrete", True) else "info"


def _soft(evidence: Evidence) -> str:
    """A soft quantizer's decoder reads all codes at once, and the most probable one is only a label."""
    return (
        ""
        if evidence.provenance.get("discrete", True)
        else " They are the most probable of soft codes."
    )
