"""Number of reachable codes, estimated from a sample of tokens (Chao 1984 and 1987).

The estimate comes from counting species: codes that occurred once or twice predict how many codes
have not occurred yet. For a uniform source, its expected value is the size of the codebook for any
number of tokens, whereas the number of used codes is smaller.
"""

from dataclasses import dataclass

import numpy as np

Z_95 = 1.96  # quantile of the normal distribution for a 95 % interval


@dataclass(frozen=True)
class Richness:
    """The estimated number of reachable codes. All are at most the codebook size."""

    estimate: float  # Chao1; a lower estimate if the reachable codes are not equally frequent
    low: float  # 95 % interval, log-normal
    high: float
    # Good and Turing's estimate of the probability that a further token selects a used code.
    coverage: float


def chao1(counts: np.ndarray) -> Richness:
    """Estimate how many codes are reachable.

    With n tokens, s used codes, and f_i codes that occurred i times, the estimate is
    s + (n - 1) / n f_1^2 / (2 f_2), or s + (n - 1) / n f_1 (f_1 - 1) / 2 if f_2 is 0.

    Parameters
    ----------
    counts : ndarray of int, shape (codebook_size,)
        Number of tokens that selected each code, at least one token in all.

    Returns
    -------
    Richness
        The estimate, its interval, and the coverage of the sample.

    References
    ----------
    Chao, "Nonparametric estimation of the number of classes in a population", 1984.
    Chao, "Estimating the population size for capture-recapture data with unequal catchability",
    1987: the interval.
    Colwell et al., "Models and estimators linking individual-based and sample-based rarefaction,
    extrapolation and comparison of assemblages", 2012, appendix G: the interval if no code is
    estimated to be unseen.

    Examples
    --------
    >>> import numpy as np
    >>> richness = chao1(np.array([9, 5, 2, 2, 1, 1, 1, 0, 0, 0, 0, 0]))
    >>> round(richness.estimate, 2), round(richness.low, 2), richness.high
    (9.14, 7.25, 12.0)
    """
    size = len(counts)
    tokens = int(counts.sum())
    used = int((counts > 0).sum())
    singletons = int((counts == 1).sum())
    doubletons = int((counts == 2).sum())
    unseen = _unseen(tokens, singletons, doubletons)
    if unseen > 0:
        variance = _variance(tokens, used + unseen, singletons, doubletons)
        factor = float(np.exp(Z_95 * np.sqrt(np.log1p(variance / unseen**2))))
        low = used + unseen / factor
        high = used + unseen * factor
    else:
        low = float(used)
        high = _high_without_unseen(counts, tokens, used)
    return Richness(
        estimate=float(min(used + unseen, size)),
        low=float(min(low, size)),
        high=float(min(high, size)),
        coverage=1 - singletons / tokens,
    )


def _unseen(tokens: int, singletons: int, doubletons: int) -> float:
    correction = (tokens - 1) / tokens
    if doubletons:
        return correction * singletons**2 / (2 * doubletons)
    return correction * singletons * (singletons - 1) / 2


def _variance(tokens: int, estimate: float, singletons: int, doubletons: int) -> float:
    a = (tokens - 1) / tokens
    f1 = float(singletons)
    if doubletons:
        ratio = f1 / doubletons
        return doubletons * (a * ratio**2 / 2 + a**2 * ratio**3 + a**2 * ratio**4 / 4)
    variance = a * f1 * (f1 - 1) / 2 + a**2 * f1 * (2 * f1 - 1) ** 2 / 4
    return float(max(variance - a**2 * f1**4 / (4 * estimate), 0))


def _high_without_unseen(counts: np.ndarray, tokens: int, used: int) -> float:
    """Return the upper limit if the estimate is the number of used codes."""
    values, codes = np.unique(counts[counts > 0], return_counts=True)
    missed = np.exp(-values.astype(np.float64))
    variance = (codes * (missed - missed**2)).sum() - (codes * values * missed).sum() ** 2 / tokens
    seen_share = 1 - np.exp(-tokens / used)
    return float((used + Z_95 * np.sqrt(max(variance, 0))) / seen_share)
