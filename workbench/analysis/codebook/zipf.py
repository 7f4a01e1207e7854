"""Zipf exponent of code frequencies, fitted by maximum likelihood over a range of ranks."""

from dataclasses import dataclass

import numpy as np

FIRST_RANK = 10
MIN_RANKS = 10
MAX_EXPONENT = 5.0


@dataclass(frozen=True)
class Zipf:
    """The exponent s of frequencies that fall as rank^-s between two ranks, both included."""

    # 0 if all codes are equally frequent; about 1 for words; NaN if there are too few ranks.
    exponent: float
    low: int  # first rank of the fit
    # Last rank of the fit: half of the used codes, because the rarest are mostly noise.
    high: int
    # Exponent of as many tokens of a uniform source over the same ranks. It is not 0, because
    # sorting noise by frequency gives a falling curve, too.
    uniform: float


def zipf(counts: np.ndarray) -> Zipf:
    """Fit the Zipf exponent over ranks 10 to half the number of used codes.

    Parameters
    ----------
    counts : ndarray of int, shape (codebook_size,)
        Number of tokens that selected each code.

    Returns
    -------
    Zipf
        The exponent, that of a uniform source, and the ranks of the fit.

    Examples
    --------
    >>> import numpy as np
    >>> fit = zipf((1e9 / np.arange(1, 101)).astype(int))
    >>> round(fit.exponent, 2), fit.low, fit.high
    (1.0, 10, 50)
    """
    high = int((counts > 0).sum()) // 2
    if high - FIRST_RANK + 1 < MIN_RANKS:
        nan = float("nan")
        return Zipf(exponent=nan, low=FIRST_RANK, high=high, uniform=nan)
    size = len(counts)
    uniform = np.random.default_rng(0).multinomial(counts.sum(), np.full(size, 1 / size))
    return Zipf(
        exponent=exponent(counts, FIRST_RANK, high),
        low=FIRST_RANK,
        high=high,
        uniform=exponent(uniform, FIRST_RANK, high),
    )


def exponent(counts: np.ndarray, low: int, high: int) -> float:
    """Compute the maximum-likelihood exponent of a Zipf law truncated to ranks `low` to `high`.

    Parameters
    ----------
    counts : ndarray of int, shape (codebook_size,)
        Number of tokens that selected each code.
    low, high : int
        First and last rank, counted from 1.

    Returns
    -------
    float
        The exponent, between 0 and 5; NaN if the ranks hold no tokens.
    """
    log_rank = np.log(np.arange(low, high + 1))
    frequencies = np.sort(counts)[::-1][low - 1 : high]
    total = frequencies.sum()
    if not total:
        return float("nan")
    mean_log_rank = (frequencies * log_rank).sum() / total

    def loss(s: float) -> float:
        """Return the negative mean log-likelihood, which is convex in s."""
        return s * mean_log_rank + float(np.log(np.exp(-s * log_rank).sum()))

    from scipy.optimize import minimize_scalar

    fit = minimize_scalar(loss, bounds=(0, MAX_EXPONENT), method="bounded", options={"xatol": 1e-6})
    return float(fit.x)
