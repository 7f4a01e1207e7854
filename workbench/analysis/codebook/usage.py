"""How much of a codebook is used, and whether what is not used is dead or was merely never asked for.

Rarefaction and Chao1 (Chao 1984) come from counting species: they tell a collapsed codebook from a short sample.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.special import gammaln, xlogy

from workbench.analysis.base import Result
from workbench.analysis.codebook.codes import parse_codes
from workbench.analysis.codebook.zipf import Zipf, zipf

ENOUGH = 5.0  # tokens a code: with fewer, even a uniform source leaves codes out
EVEN = 0.5  # of the bits a uniform source's token would tell: with fewer, few codes carry almost all tokens
VERDICTS = ("collapsed", "uneven", "under-sampled", "healthy")  # the worst first


@dataclass(frozen=True, eq=False)
class CodebookStats:
    """One codebook's usage. `null` is what a perfectly uniform source would show with as many tokens."""

    counts: np.ndarray = field(repr=False)  # int64 (k,): how often each code was chosen
    used: int
    ceiling: float  # codes that a uniform source would use: k (1 - (1 - 1/k)^n)
    perplexity: float  # exp of the plug-in entropy: "as even as this many codes"; biased low
    perplexity_corrected: float  # exp of Miller and Madow's entropy, H + (used - 1) / 2n
    perplexity_null: float  # exp of the plug-in entropy's exact mean under a uniform source
    gini: float  # 0: all codes equally often
    top: float  # share of the tokens that chose the commonest 1 % of the codes (at least one)
    chao1: float  # estimate, from below, of how many codes can be reached; at most k
    growth: float  # share of the used codes that only the second half of the tokens brought in
    zipf: Zipf  # how steeply codes fall off with their rank
    verdict: str  # one of VERDICTS
    seen: np.ndarray = field(repr=False)  # (m,) numbers of tokens
    rarefaction: np.ndarray = field(repr=False)  # (m,) codes expected among so many tokens of ours
    uniform: np.ndarray = field(
        repr=False
    )  # (m,) codes expected among so many tokens of a uniform source

    @property
    def size(self) -> int:
        """How many codes the book has."""
        return len(self.counts)

    @property
    def tokens(self) -> int:
        """How many tokens were counted."""
        return int(self.counts.sum())

    @property
    def dead(self) -> int:
        """How many codes no token chose."""
        return self.size - self.used

    @property
    def bits(self) -> float:
        """What a token tells: the plug-in entropy."""
        return float(np.log2(self.perplexity))

    @property
    def bits_null(self) -> float:
        """What a uniform source's would."""
        return float(np.log2(self.perplexity_null))


@dataclass(frozen=True, eq=False)
class CodebookUsage(Result):
    """The usage of every book, and of the books on average."""

    books: tuple[CodebookStats, ...]
    log: bool

    @property
    def verdict(self) -> str:
        """The worst book's."""
        found = {book.verdict for book in self.books}
        return next(v for v in VERDICTS if v in found)

    def figure(self) -> go.Figure:
        """Rank and frequency, codes against tokens, and the book as a grid in which dead codes are crossed out."""
        from workbench.analysis.codebook.usage_figure import draw

        return draw(self)

    def table(self) -> pd.DataFrame:
        """One row a book, and a row `mean` where there are several."""
        names = (
            "size",
            "tokens",
            "used",
            "ceiling",
            "perplexity",
            "perplexity_corrected",
            "perplexity_null",
        )
        names += ("dead", "gini", "top", "chao1", "growth", "verdict")
        rows = [
            {
                "book": str(i),
                **{x: getattr(b, x) for x in names},
                **{f"zipf_{x}": y for x, y in asdict(b.zipf).items()},
            }
            for i, b in enumerate(self.books)
        ]
        if len(rows) > 1:
            means = pd.DataFrame(rows).drop(columns=["book", "verdict"]).mean().to_dict()
            rows.append({"book": "mean", **means, "verdict": self.verdict})
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """How many codes are used and how evenly, what a uniform source would have used, and the verdict."""
        first, several = self.books[0], len(self.books) > 1
        used, perplexity, ceiling = (self._mean(x) for x in ("used", "perplexity", "ceiling"))
        count = f"{used:,.1f}" if several else f"{first.used:,}"
        where = f" in each of {len(self.books)} books, on average" if several else ""
        tokens = (
            f"{first.tokens:,} token{'' if first.tokens == 1 else 's'}{' each' if several else ''}"
        )
        return (
            f"{count} of {first.size:,} codes are used{where}, as evenly as {perplexity:,.1f} codes."
            f" A uniform source would have used {ceiling:,.1f} of them with {tokens}.{self._fall()} {self._judgement()}"
        )

    def _fall(self) -> str:
        fits = [book.zipf for book in self.books if not np.isnan(book.zipf.exponent)]
        if not fits:
            return ""
        mine, null = (
            np.mean([getattr(fit, name) for fit in fits]) for name in ("exponent", "uniform")
        )
        each = f" in {len(fits)} books, on average" if len(self.books) > 1 else ""
        ranks = f"{fits[0].low:,} to {fits[0].high:,}"
        return f" Shares fall as rank to the -{mine:.2f} (ranks {ranks}{each}; a uniform source's to the -{null:.2f})."

    def _mean(self, name: str) -> float:
        return float(np.mean([getattr(book, name) for book in self.books]))

    def _judgement(self) -> str:
        alike = [i for i, book in enumerate(self.books) if book.verdict == self.verdict]
        several = len(self.books) > 1
        verb = "is" if len(alike) == 1 else "are"
        which = f"{len(alike)} of {len(self.books)} books {verb}" if several else "The codebook is"
        chao1, bits, null = (
            np.mean([getattr(self.books[i], x) for i in alike])
            for x in ("chao1", "bits", "bits_null")
        )
        reachable = f"about {chao1:,.0f} of {self.books[0].size:,} seem reachable"
        reasons = {
            "collapsed": f"more tokens would hardly bring more codes, {reachable}",
            "uneven": f"few codes carry most tokens, which tell {bits:.1f} bits each, a uniform source's {null:.1f}",
            "under-sampled": f"count more tokens before calling a code dead, {reachable}",
            "healthy": reachable,
        }
        return f"{which} {self.verdict}: {reasons[self.verdict]}."


def codebook_usage(
    codes: np.ndarray, codebook: np.ndarray, active: np.ndarray | None = None, *, log: bool = True
) -> CodebookUsage:
    """Count how often codes (n, tokens) choose each entry of a codebook (g, k, d); `log` draws ranks on log axes.

    A book is *collapsed* when it uses under 3/4 of what a uniform source would, and its curve of codes against tokens
    is flat (the second half of the tokens brought in under 5 % of the used codes). Else it is *uneven* where its tokens
    tell under half the bits of a uniform source's. Else it is *under-sampled* where codes are left over and there are
    under 5 tokens a code, or it uses under 9/10 of what a uniform source would on a curve that still rises. Else it is
    *healthy*. Tokens that are not `active` are not counted.
    Raises UserError for a code outside the book or tokens that g does not divide, NotApplicable without tokens.
    """
    counts = parse_codes(codes, codebook, active, "Codebook usage").counts
    return CodebookUsage(tuple(codebook_stats(c) for c in counts), log)


def codebook_stats(counts: np.ndarray) -> CodebookStats:
    """Everything about one book, from how often each of its codes was chosen, int (k,)."""
    size, tokens, used = len(counts), int(counts.sum()), int((counts > 0).sum())
    share = counts / tokens
    entropy = -xlogy(share, share).sum()
    entropy_null = _uniform_entropy(size, tokens)
    ceiling = _uniform_used(size, tokens)
    seen = np.unique(np.geomspace(1, tokens, 60).round().astype(np.int64))
    rarefaction = rarefy(counts, np.append(seen, tokens // 2))
    growth = 1 - rarefaction[-1] / used
    ascending = np.sort(share)
    even = entropy >= EVEN * entropy_null
    return CodebookStats(
        counts=counts,
        used=used,
        ceiling=float(ceiling),
        perplexity=float(np.exp(entropy)),
        perplexity_corrected=float(np.exp(entropy + (used - 1) / (2 * tokens))),
        perplexity_null=float(np.exp(entropy_null)),
        gini=float(2 * (np.arange(1, size + 1) * ascending).sum() / size - (size + 1) / size),
        top=float(ascending[-max(1, size // 100) :].sum()),
        chao1=_chao1(counts),
        growth=float(growth),
        zipf=zipf(counts),
        verdict=_verdict(used / size, used / ceiling, growth, even, tokens / size),
        seen=seen,
        rarefaction=rarefaction[:-1],
        uniform=_uniform_used(size, seen),
    )


def rarefy(counts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Codes expected among `sizes` (m,) tokens drawn without replacement: the sum of 1 - C(n - n_k, m) / C(n, m).

    Source: Hurlbert 1971. Codes with equal counts are summed together, so the cost does not grow with the book.
    """
    total = counts.sum()
    times, codes = np.unique(counts[counts > 0], return_counts=True)
    left = total - times - sizes[:, None]  # tokens of other codes that stay behind
    log_missed = gammaln(total - times + 1) - gammaln(np.maximum(left, 0) + 1)
    log_missed = log_missed - gammaln(total + 1) + gammaln(total - sizes + 1)[:, None]
    return (np.where(left < 0, 1.0, -np.expm1(np.minimum(log_missed, 0))) * codes).sum(axis=1)


def _uniform_used(size: int, tokens: int | np.ndarray) -> np.ndarray:
    return size * (1 - (1 - 1 / size) ** np.asarray(tokens, np.float64))


def _uniform_entropy(size: int, tokens: int) -> float:
    """The plug-in entropy's mean when every code is as likely: log n - k E[c log c] / n, c binomial."""
    from scipy.stats import binom

    spread = 12 * np.sqrt(tokens / size) + 40
    c = np.arange(max(0, int(tokens / size - spread)), min(tokens, int(tokens / size + spread)) + 1)
    return float(
        np.log(tokens) - size * (binom.pmf(c, tokens, 1 / size) * xlogy(c, c)).sum() / tokens
    )


def _chao1(counts: np.ndarray) -> float:
    once, twice, used = (int(x.sum()) for x in (counts == 1, counts == 2, counts > 0))
    unseen = once**2 / (2 * twice) if twice else once * (once - 1) / 2
    return float(min(used + unseen, len(counts)))


def _verdict(
    of_book: float, of_ceiling: float, growth: float, even: bool, tokens_a_code: float
) -> str:
    flat = growth < 0.05
    if flat and of_ceiling < 3 / 4:
        return "collapsed"
    if not even:
        return "uneven"
    if of_book < 1 and (tokens_a_code < ENOUGH or (not flat and of_ceiling < 9 / 10)):
        return "under-sampled"
    return "healthy"
