"""Codebook utilization, and whether unused codes are dead or merely under-sampled.

Rarefaction and Chao1 come from counting species. They distinguish a collapsed codebook from a short
sample. All analyses of codebooks take their numbers of codes from `codebook_stats`, so that they
agree.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import gammaln, xlogy

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.richness import chao1
from workbench.analysis.codebook.uniform_usage import uniform_counts
from workbench.analysis.codebook.zipf import Zipf, zipf
from workbench.core.counted import counted, mean_count

# With fewer tokens per code, even a uniform source leaves codes unused.
MIN_TOKENS_PER_CODE = 5.0
# With a smaller coverage, unseen codes are too frequent for a verdict on them.
MIN_COVERAGE = 0.9
# Fractions of the reachable codes of a uniform source, which are all codes.
MAX_COLLAPSED_SHARE = 0.5
MIN_HEALTHY_SHARE = 0.75
# Below this fraction of the log perplexity of a uniform source, few codes carry almost all tokens.
MIN_ENTROPY_RATIO = 0.5
CORE_SHARE = 0.99  # of the tokens, held by the core of the codes
MIN_CORE_RATIO = 0.5  # of the core to the used codes of a uniform source
VERDICTS = ("collapsed", "borderline", "uneven", "under-sampled", "healthy")  # worst to best

COLUMNS = (
    "size",
    "tokens",
    "used",
    "used_uniform",
    "perplexity",
    "perplexity_corrected",
    "perplexity_uniform",
    "dead",
    "gini",
    "top_share",
    "core",
    "chao1",
    "chao1_low",
    "chao1_high",
    "coverage",
    "growth",
    "verdict",
)


@dataclass(frozen=True, eq=False)
class CodebookStats:
    """Usage of one codebook.

    Fields named `*_uniform` describe a uniform source with as many tokens.
    """

    # int64 (codebook_size,): number of tokens that selected each code.
    counts: np.ndarray = field(repr=False)
    used: int  # codes that at least one token selected
    used_uniform: float  # codes that a uniform source would use: k (1 - (1 - 1/k)^n)
    perplexity: float  # exponential of the plug-in entropy; biased low
    perplexity_corrected: float  # the same with Miller and Madow's entropy, H + (used - 1) / 2n
    perplexity_uniform: float  # exponential of the exact mean plug-in entropy of a uniform source
    gini: float  # 0 if all codes are equally frequent
    top_share: float  # fraction of tokens on the most frequent 1 % of the codes (at least one code)
    core: int  # most frequent codes that hold 99 % of the tokens
    # Estimated number of reachable codes, at most the codebook size. For a uniform source, its
    # expected value is the codebook size.
    chao1: float
    chao1_low: float  # its 95 % interval
    chao1_high: float
    coverage: float  # estimated probability that a further token selects a used code
    growth: float  # fraction of the used codes that only the second half of the tokens added
    zipf: Zipf  # decay of frequency with rank
    verdict: str  # one of VERDICTS
    token_counts: np.ndarray = field(repr=False)  # (m,): abscissa of the next two curves
    rarefaction: np.ndarray = field(repr=False)  # (m,): expected codes among so many tokens
    rarefaction_uniform: np.ndarray = field(repr=False)  # (m,): the same for a uniform source

    @property
    def size(self) -> int:
        """Number of codes in the codebook."""
        return len(self.counts)

    @property
    def tokens(self) -> int:
        """Number of tokens counted."""
        return int(self.counts.sum())

    @property
    def dead(self) -> int:
        """Number of codes that no token selected."""
        return self.size - self.used

    @property
    def bits(self) -> float:
        """Plug-in entropy, in bits per token."""
        return float(np.log2(self.perplexity))

    @property
    def bits_uniform(self) -> float:
        """Plug-in entropy of a uniform source, in bits per token."""
        return float(np.log2(self.perplexity_uniform))


@dataclass(frozen=True, eq=False, kw_only=True)
class CodebookUsage(Result):
    """Usage of every codebook of a tokenizer.

    Attributes
    ----------
    codebooks : tuple of CodebookStats
        One entry per codebook.
    log : bool
        Whether the figure shows ranks and frequencies on logarithmic axes.
    """

    codebooks: tuple[CodebookStats, ...]
    log: bool

    @property
    def verdict(self) -> str:
        """The worst verdict of all codebooks."""
        return worst_verdict([codebook.verdict for codebook in self.codebooks])

    def table(self) -> pd.DataFrame:
        """Return one row per codebook, and a row `mean` if there are several."""
        rows = []
        for i, codebook in enumerate(self.codebooks):
            row = {"codebook": str(i)} | {name: getattr(codebook, name) for name in COLUMNS}
            row |= {f"zipf_{name}": value for name, value in asdict(codebook.zipf).items()}
            rows.append(row)
        table = pd.DataFrame(rows)
        if len(rows) == 1:
            return table
        means = table.drop(columns=["codebook", "verdict"]).mean()
        mean_row = {"codebook": "mean", "verdict": self.verdict} | {
            str(name): value for name, value in means.items()
        }
        return pd.DataFrame([*rows, mean_row])

    def summary(self) -> str:
        """State the verdict and the codes in use, its reason, and the Zipf exponent."""
        parts = (f"{self._verdict_text()}: {self._used_text()}.", self._reason(), self._zipf_text())
        return " ".join(part for part in parts if part)

    def _verdict_text(self) -> str:
        verdict = self.verdict.capitalize()
        if len(self.codebooks) == 1:
            return verdict
        return f"{verdict} ({len(self._worst())} of {len(self.codebooks)} codebooks)"

    def _used_text(self) -> str:
        first = self.codebooks[0]
        count = f"{first.used:,}"
        scope = ""
        tokens = counted(first.tokens, "token")
        if len(self.codebooks) > 1:
            count = mean_count(self._mean("used"))
            scope = f" in each of {len(self.codebooks)} codebooks, on average"
            tokens += " each"
        return (
            f"{count} of {first.size:,} codes are used{scope} (uniform usage would use"
            f" {mean_count(self._mean('used_uniform'))} with {tokens}), perplexity"
            f" {self._mean('perplexity'):,.1f}"
            f" (uniform: {mean_count(self._mean('perplexity_uniform'))})"
        )

    def _reason(self) -> str:
        """Explain the verdict by the means of the codebooks that have it."""
        worst = self._worst()
        size = worst[0].size
        estimate, low, high, core = (
            float(np.mean([getattr(codebook, name) for codebook in worst]))
            for name in ("chao1", "chao1_low", "chao1_high", "core")
        )
        interval = f"Chao1 estimate {estimate:,.0f}, 95 % interval {low:,.0f} to {high:,.0f}"
        at_most = f"At most about {high:,.0f} of {size:,} codes are reachable ({interval})"
        if self.verdict == "collapsed":
            return f"{at_most}: more tokens would not help."
        if self.verdict == "borderline":
            return (
                f"{at_most}, more than the half of a collapsed codebook and less than the"
                f" {100 * MIN_HEALTHY_SHARE:.0f} % of a healthy one."
            )
        if self.verdict == "uneven":
            return f"Usage is concentrated: {core:,.0f} codes hold 99 % of the tokens."
        if self.verdict == "under-sampled":
            return (
                "Count more tokens before calling a code dead: about"
                f" {estimate:,.0f} of {size:,} codes are reachable ({interval})."
            )
        return f"About {estimate:,.0f} of {size:,} codes are reachable ({interval})."

    def _worst(self) -> list[CodebookStats]:
        return [codebook for codebook in self.codebooks if codebook.verdict == self.verdict]

    def _zipf_text(self) -> str:
        fits = [c.zipf for c in self.codebooks if not np.isnan(c.zipf.exponent)]
        if not fits:
            return ""
        exponent = np.mean([fit.exponent for fit in fits])
        uniform = np.mean([fit.uniform for fit in fits])
        scope = f", mean of {len(fits)} codebooks" if len(self.codebooks) > 1 else ""
        return (
            f"Zipf exponent {exponent:.2f} over ranks {fits[0].low:,} to {fits[0].high:,}{scope}"
            f" (uniform usage: {uniform:.2f})."
        )

    def _mean(self, name: str) -> float:
        return float(np.mean([getattr(codebook, name) for codebook in self.codebooks]))


def codebook_usage(
    codes: np.ndarray,
    codebook: np.ndarray | int,
    active: np.ndarray | None = None,
    *,
    log: bool = True,
) -> CodebookUsage:
    """Measure how many codewords are used and how evenly.

    Each codebook gets the first verdict that applies. The number of reachable codes is Chao1's
    estimate with its 95 % interval; a uniform source with the same numbers of tokens and codes
    reaches all codes and gives the other reference values.

    - *collapsed*: the whole interval is at most 1/2 of the codes;
    - *borderline*: the whole interval is under 3/4 of the codes;
    - *uneven*: the perplexity is below the square root of that of a uniform source, or 99 % of the
      tokens are on under half of the codes that a uniform source would use;
    - *under-sampled*: codes are unused, and there are under 5 tokens per code or the interval
      extends below 3/4 of the codes;
    - *healthy*: none of the above.

    The first two need a coverage of 0.9: with smaller samples, the interval is too optimistic for
    sources that are not uniform. So does the second condition of *uneven*.

    Parameters
    ----------
    codes : ndarray of int, shape (n_images, n_tokens)
        Index of the codeword that each token selected. -1 marks padding, which is left out.
    codebook : ndarray of float, shape (n_codebooks, codebook_size, dim), or int
        The codewords, or only their number if the vectors are not at hand.
    active : ndarray of bool, shape (n_images, n_tokens), optional
        Tokens in use; the others are not counted.
    log : bool, default True
        Show ranks and frequencies on logarithmic axes.

    Returns
    -------
    CodebookUsage
        Used and dead codes, perplexity, Chao1 estimate, and the values of a uniform source.

    Raises
    ------
    UserError
        If a code is outside its codebook or the codebooks cannot share the tokens equally.
    NotApplicable
        If there are no tokens.

    References
    ----------
    Chao, "Nonparametric estimation of the number of classes in a population", 1984.
    Good, "The population frequencies of species and the estimation of population parameters", 1953.

    Examples
    --------
    >>> import numpy as np
    >>> usage = codebook_usage(np.array([[0, 0, 1, 1]]), 4)
    >>> usage.codebooks[0].used, usage.codebooks[0].dead, usage.verdict
    (2, 2, 'under-sampled')
    """
    counts = parse_codes(codes, codebook, active, "Codebook usage").counts
    return CodebookUsage(codebooks=tuple(codebook_stats(c) for c in counts), log=log)


def codebook_stats(counts: np.ndarray) -> CodebookStats:
    """Compute the usage statistics of one codebook.

    Parameters
    ----------
    counts : ndarray of int, shape (codebook_size,)
        Number of tokens that selected each code.

    Returns
    -------
    CodebookStats
        All statistics, and the verdict of `codebook_usage`.
    """
    size = len(counts)
    tokens = int(counts.sum())
    used = int((counts > 0).sum())
    share = counts / tokens
    ascending = np.sort(share)
    entropy = -xlogy(share, share).sum()
    entropy_uniform = _uniform_entropy(size, tokens)
    used_uniform = float(_uniform_used(size, tokens))
    token_counts = np.unique(np.geomspace(1, tokens, 60).round().astype(np.int64))
    rarefaction = rarefy(counts, np.append(token_counts, tokens // 2))
    growth = float(1 - rarefaction[-1] / used)
    richness = chao1(counts)
    stats = CodebookStats(
        counts=counts,
        used=used,
        used_uniform=used_uniform,
        perplexity=float(np.exp(entropy)),
        perplexity_corrected=float(np.exp(entropy + (used - 1) / (2 * tokens))),
        perplexity_uniform=float(np.exp(entropy_uniform)),
        gini=float(2 * (np.arange(1, size + 1) * ascending).sum() / size - (size + 1) / size),
        top_share=float(ascending[-max(1, size // 100) :].sum()),
        core=int((np.cumsum(np.sort(counts)[::-1]) < CORE_SHARE * tokens).sum()) + 1,
        chao1=richness.estimate,
        chao1_low=richness.low,
        chao1_high=richness.high,
        coverage=richness.coverage,
        growth=growth,
        zipf=zipf(counts),
        verdict="",
        token_counts=token_counts,
        rarefaction=rarefaction[:-1],
        rarefaction_uniform=_uniform_used(size, token_counts),
    )
    return replace(stats, verdict=_verdict(stats))


def worst_verdict(verdicts: Iterable[str]) -> str:
    """Return the worst of at least one verdict.

    Examples
    --------
    >>> worst_verdict(["healthy", "collapsed"])
    'collapsed'
    """
    return min(verdicts, key=VERDICTS.index)


def rarefy(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Compute the expected number of codes among tokens drawn without replacement.

    The expectation is the sum over codes of 1 - C(n - n_k, m) / C(n, m). Codes with equal counts
    are summed together, so that the cost does not grow with the codebook.

    Parameters
    ----------
    counts : ndarray of int, shape (codebook_size,)
        Number of tokens n_k that selected each code.
    sizes : ndarray of int, shape (m,)
        Numbers of tokens to draw.

    Returns
    -------
    ndarray of float, shape (m,)
        Expected number of distinct codes for each size.

    References
    ----------
    Hurlbert, "The nonconcept of species diversity", 1971.
    """
    total = counts.sum()
    frequencies, codes = np.unique(counts[counts > 0], return_counts=True)
    undrawn = total - frequencies - sizes[:, None]  # tokens of other codes that are not drawn
    log_missed = gammaln(total - frequencies + 1) - gammaln(np.maximum(undrawn, 0) + 1)
    log_missed = log_missed - gammaln(total + 1) + gammaln(total - sizes + 1)[:, None]
    drawn_probability = np.where(undrawn < 0, 1.0, -np.expm1(np.minimum(log_missed, 0)))
    return (drawn_probability * codes).sum(axis=1)


def _uniform_used(size: int, tokens: int | np.ndarray) -> np.ndarray:
    return size * (1 - (1 - 1 / size) ** np.asarray(tokens, np.float64))


def _uniform_entropy(size: int, tokens: int) -> float:
    """Return the mean plug-in entropy of a uniform source: log n - k E[c log c] / n, c binomial."""
    counts, probability = uniform_counts(size, tokens)
    expectation = (probability * xlogy(counts, counts)).sum()
    return float(np.log(tokens) - size * expectation / tokens)


def _verdict(stats: CodebookStats) -> str:
    """Return the first verdict of `codebook_usage` that applies."""
    max_reachable = stats.chao1_high / stats.size
    is_covered = stats.coverage >= MIN_COVERAGE
    if stats.dead and is_covered and max_reachable <= MAX_COLLAPSED_SHARE:
        return "collapsed"
    if stats.dead and is_covered and max_reachable < MIN_HEALTHY_SHARE:
        return "borderline"
    if _is_uneven(stats, is_covered):
        return "uneven"
    has_few_tokens = stats.tokens < MIN_TOKENS_PER_CODE * stats.size
    is_uncertain = stats.chao1_low < MIN_HEALTHY_SHARE * stats.size
    if stats.dead and (has_few_tokens or is_uncertain):
        return "under-sampled"
    return "healthy"


def _is_uneven(stats: CodebookStats, is_covered: bool) -> bool:
    if stats.bits < MIN_ENTROPY_RATIO * stats.bits_uniform:
        return True
    return is_covered and stats.core < MIN_CORE_RATIO * stats.used_uniform
