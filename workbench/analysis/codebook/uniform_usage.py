"""The distribution of the tokens of a code if all codes were used equally often."""

import numpy as np


def uniform_counts(size: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of tokens per code that occur under uniform usage, and their probability.

    The number is binomial. `scipy.stats` would take half a second to import.

    Parameters
    ----------
    size : int
        Number of codes, at least 1.
    tokens : int
        Number of tokens of all codes.

    Returns
    -------
    counts : ndarray of int, shape (n,)
        Consecutive numbers within 12 standard deviations and 40 tokens of the mean.
    probability : ndarray of float, shape (n,)
        Their probabilities, which sum to 1.

    Examples
    --------
    >>> uniform_counts(2, 2)
    (array([0, 1, 2]), array([0.25, 0.5 , 0.25]))
    """
    if size == 1:
        return np.array([tokens]), np.ones(1)
    mean = tokens / size
    spread = 12 * np.sqrt(mean) + 40
    counts = np.arange(max(0, int(mean - spread)), min(tokens, int(mean + spread)) + 1)
    ratio_to_previous = (tokens - counts[:-1]) / (counts[1:] * (size - 1.0))
    log_probability = np.concatenate([[0.0], np.cumsum(np.log(ratio_to_previous))])
    probability = np.exp(log_probability - log_probability.max())
    return counts, probability / probability.sum()
