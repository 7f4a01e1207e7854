"""How steeply codes fall off with their rank: Zipf's exponent, by maximum likelihood over a range of ranks."""

from dataclasses import dataclass

import numpy as np

FIRST, LEAST = 10, 10  # the rank where a fit begins, and how many ranks it needs
STEEPEST = 5.0


@dataclass(frozen=True)
class Zipf:
    """The exponent s of a share that falls as rank^-s between two ranks, both included."""

    exponent: (
        float  # 0: all codes equally often; words have about 1; NaN where there are too few ranks
    )
    low: int  # the first rank
    high: int  # the last: half of the used codes, as the rarest are mostly noise
    uniform: float  # the exponent that as many tokens of a uniform source show in the same ranks: noise sorts, too


def zipf(counts: np.ndarray) -> Zipf:
    """The exponent of how often codes were chosen, int (k,): ranks 10 to half the used ones."""
    high = int((counts > 0).sum()) // 2
    if high - FIRST + 1 < LEAST:
        return Zipf(float("nan"), FIRST, high, float("nan"))
    size = len(counts)
    even = np.random.default_rng(0).multinomial(counts.sum(), np.full(size, 1 / size))
    return Zipf(exponent(counts, FIRST, high), FIRST, high, exponent(even, FIRST, high))


def exponent(counts: np.ndarray, low: int, high: int) -> float:
    """The likeliest exponent of a Zipf law cut to ranks low to high, for counts (k,); NaN where nothing was counted."""
    rank = np.log(np.arange(low, high + 1))
    times = np.sort(counts)[::-1][low - 1 : high]
    total = times.sum()
    if not total:
        return float("nan")
    mean = (times * rank).sum() / total

    def loss(s: float) -> float:  # minus the mean log-likelihood, convex in s
        return s * mean + float(np.log(np.exp(-s * rank).sum()))

    from scipy.optimize import minimize_scalar

    return float(
        minimize_scalar(loss, bounds=(0, STEEPEST), method="bounded", options={"xatol": 1e-6}).x
    )
