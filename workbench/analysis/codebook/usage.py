"""Codebook utilization, and whether unused codes are dead or merely under-sampled.

Rarefaction and Chao1 (Chao 1984) come from counting species. They distinguish a collapsed codebook
from a short sample.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
from scipy.special import gammaln, xlogy

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.zipf import Zipf, zipf

# With fewer tokens per code, even a uniform source leaves codes unused.
MIN_TOKENS_PER_CODE = 5.0
# Below this fraction of a uniform source's entropy, few codes carry almost all tokens.
MIN_ENTROPY_RATIO = 0.5
# A rarefaction curve is flat if its second half adds less than this fraction of the used codes.
MAX_FLAT_GROWTH = 0.05
VERDICTS = ("collapsed", "uneven", "under-sampled", "healthy")  # from worst to best

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
    "chao1",
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
    chao1: float  # lower estimate of the number of reachable codes, at most the codebook size
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


@dataclass(frozen=True, eq=False)
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
        verdicts = {codebook.verdict for codebook in self.codebooks}
        return next(verdict for verdict in VERDICTS if verdict in verdicts)

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
        tokens = "1 token" if first.tokens == 1 else f"{first.tokens:,} tokens"
        if len(self.codebooks) > 1:
            count = f"{self._mean('used'):,.1f}"
            scope = f" in each of {len(self.codebooks)} codebooks, on average"
            tokens += " each"
        return (
            f"{count} of {first.size:,} codes are used{scope} (uniform usage would use"
            f" {self._mean('used_uniform'):,.1f} with {tokens}),"
            f" perplexity {self._mean('perplexity'):,.1f}"
        )

    def _reason(self) -> str:
        """Explain the verdict by the means of the codebooks that have it."""
        worst = self._worst()
        bits = float(np.mean([c.bits for c in worst]))
        bits_uniform = float(np.mean([c.bits_uniform for c in worst]))
        chao1 = float(np.mean([c.chao1 for c in worst]))
        reachable = f"about {chao1:,.0f} of {worst[0].size:,} codes are reachable"
        if self.verdict == "collapsed":
            return f"More tokens would add few codes: {reachable} (Chao1 estimate)."
        if self.verdict == "uneven":
            return (
                f"Usage is concentrated: {bits:.1f} bits per token,"
                f" versus {bits_uniform:.1f} for uniform usage."
            )
        if self.verdict == "under-sampled":
            return f"Count more tokens before calling a code dead: {reachable} (Chao1 estimate)."
        return f"Chao1 estimates that {reachable}."

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

    Each codebook gets the first verdict that applies:

    - *collapsed*: it uses under 3/4 of the codes that a uniform source would use, and its curve of
      codes against tokens is flat (the second half of the tokens added under 5 % of the used
      codes);
    - *uneven*: its entropy is under half that of a uniform source;
    - *under-sampled*: codes are unused and there are under 5 tokens per code, or it uses under
      9/10 of the codes that a uniform source would use on a curve that still rises;
    - *healthy*: none of the above.

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
    return CodebookStats(
        counts=counts,
        used=used,
        used_uniform=used_uniform,
        perplexity=float(np.exp(entropy)),
        perplexity_corrected=float(np.exp(entropy + (used - 1) / (2 * tokens))),
        perplexity_uniform=float(np.exp(entropy_uniform)),
        gini=float(2 * (np.arange(1, size + 1) * ascending).sum() / size - (size + 1) / size),
        top_share=float(ascending[-max(1, size // 100) :].sum()),
        chao1=_chao1(counts),
        growth=growth,
        zipf=zipf(counts),
        verdict=_verdict(
            used_share=used / size,
            used_to_uniform=used / used_uniform,
            growth=growth,
            is_even=bool(entropy >= MIN_ENTROPY_RATIO * entropy_uniform),
            tokens_per_code=tokens / size,
        ),
        token_counts=token_counts,
        rarefaction=rarefaction[:-1],
        rarefaction_uniform=_uniform_used(size, token_counts),
    )


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
    from scipy.stats import binom

    mean = tokens / size
    spread = 12 * np.sqrt(mean) + 40
    c = np.arange(max(0, int(mean - spread)), min(tokens, int(mean + spread)) + 1)
    expectation = (binom.pmf(c, tokens, 1 / size) * xlogy(c, c)).sum()
    return float(np.log(tokens) - size * expectation / tokens)


def _chao1(counts: np.ndarray) -> float:
    singletons = int((counts == 1).sum())
    doubletons = int((counts == 2).sum())
    used = int((counts > 0).sum())
    if doubletons:
        unseen = singletons**2 / (2 * doubletons)
    else:
        unseen = singletons * (singletons - 1) / 2
    return float(min(used + unseen, len(counts)))


def _verdict(
    *,
    used_share: float,
    used_to_uniform: float,
    growth: float,
    is_even: bool,
    tokens_per_code: float,
) -> str:
    is_flat = growth < MAX_FLAT_GROWTH
    if is_flat and used_to_uniform < 3 / 4:
        return "collapsed"
    if not is_even:
        return "uneven"
    is_short = tokens_per_code < MIN_TOKENS_PER_CODE
    still_rises = not is_flat and used_to_uniform < 9 / 10
    if used_share < 1 and (is_short or still_rises):
        return "under-sampled"
    return "healthy"
