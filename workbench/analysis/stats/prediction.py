"""Prediction of one number of few items from others: errors out of sample, and their uncertainty.

In-sample fits of few items are good by chance: two unrelated factors reach a determination of .5
over twelve items. Therefore models are evaluated on items, or families of items, that were left
out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr

from workbench.analysis.stats.rank_correlation import ROUNDING, average_ranks, orders_within

NUM_RESAMPLES = 2000
MIN_ITEMS = 4  # of a linear fit with a residual standard deviation


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A line through few points, with the uncertainty of predictions.

    Attributes
    ----------
    x, y : ndarray of float, shape (n,)
        The points; at least 4, and x is not constant.

    Examples
    --------
    >>> fit = LinearFit(np.array([0.0, 1, 2, 3]), np.array([0.0, 2.2, 3.8, 6.0]))
    >>> round(fit.slope, 2), round(fit.probability_below(0.0, 3.0), 3)
    (1.96, 0.996)
    """

    x: np.ndarray
    y: np.ndarray

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.x)

    @property
    def slope(self) -> float:
        """Slope of the line."""
        centered = self.x - self.x.mean()
        return float(centered @ self.y / (centered @ centered))

    @property
    def deviation(self) -> float:
        """Standard deviation of the residuals, with n - 2 degrees of freedom."""
        residuals = self.y - self.predict(self.x)
        return math.sqrt(float(residuals @ residuals) / (self.n - 2))

    def predict(self, x: "float | np.ndarray") -> "float | np.ndarray":
        """Return the height of the line."""
        return self.y.mean() + self.slope * (x - self.x.mean())

    def prediction_deviation(self, x: "float | np.ndarray") -> "float | np.ndarray":
        """Return the standard deviation of a new point around the line."""
        return self.deviation * np.sqrt(1 + 1 / self.n + (x - self.x.mean()) ** 2 / self._spread)

    def probability_below(self, x: float, height: float) -> float:
        """Return the probability that a new point at x is below a height.

        By Student's t distribution with n - 2 degrees of freedom.
        """
        return self._probability(height - self.predict(x), self.prediction_deviation(x))

    def probability_below_other(self, x: float, other: float) -> float:
        """Return the probability that a new point at x is below a new point at another x."""
        deviation = self.deviation * math.sqrt(2 + (x - other) ** 2 / self._spread)
        return self._probability(self.predict(other) - self.predict(x), deviation)

    @property
    def _spread(self) -> float:
        return float(np.square(self.x - self.x.mean()).sum())

    def _probability(self, margin: "float | np.ndarray", deviation: "float | np.ndarray") -> float:
        if deviation == 0:
            return 0.5 if margin == 0 else float(margin > 0)
        return float(stdtr(self.n - 2, margin / deviation))


def left_out_q2(
    x: np.ndarray, y: np.ndarray, groups: Sequence[object] | None = None, *, ridge: float = 0.0
) -> float:
    """Compute the share of the squared error that a linear model saves for left-out items.

    Q² = 1 - Σ(y - ŷ)² / Σ(y - ȳ)², where the model ŷ and the mean ȳ of an item come from the items
    outside its group.

    Parameters
    ----------
    x : ndarray of float, shape (n, p)
        Factors. They are standardized by the items that are not left out.
    y : ndarray of float, shape (n,)
        Target.
    groups : sequence, length n, optional
        Items of one group are left out together; by default each item is its own group.
    ridge : float, default 0
        Penalty per item of the squared slopes of the standardized factors.

    Returns
    -------
    float
        1 for perfect predictions, 0 if the mean is as good, and negative if it is better.

    Examples
    --------
    >>> x = np.arange(5.0)[:, None]
    >>> left_out_q2(x, 2 * x[:, 0] + 1)
    1.0
    """
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    return float(_left_out_q2(x, y[:, None], names, ridge)[0])


def best_left_out_q2(
    values: np.ndarray, target: np.ndarray, families: Sequence[str], *, seed: int = 0
) -> tuple[int, float, float]:
    """Find the variable that predicts families that were left out best, and compare it with chance.

    The largest of many Q² is high by chance. It is compared with the largest one after permutations
    of the target within families.

    Parameters
    ----------
    values : ndarray of float, shape (n, m)
        One variable per column.
    target : ndarray of float, shape (n,)
        Target. It and the variables are ranked within families.
    families : sequence of str, length n
        At least two families.
    seed : int, default 0
        Seed of the permutations.

    Returns
    -------
    best : int
        Column of the best variable.
    q2 : float
        Its Q², as in `left_out_q2`.
    p : float
        Share of 20,001 orders in which any of the m variables has at least this Q².
    """
    names = np.asarray(families)
    ranks = ranks_within(np.column_stack([values, target]), families)
    targets = ranks[:, -1][orders_within(families, seed)].T
    q2 = np.array([_left_out_q2(x[:, None], targets, names, 0.0) for x in ranks[:, :-1].T])
    best = int(q2[:, 0].argmax())
    observed = q2[best, 0]
    return best, float(observed), float((q2.max(axis=0) >= observed - ROUNDING).mean())


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Compute the rank correlation of two variables given others.

    Parameters
    ----------
    x, y : ndarray of float, shape (n,)
        The two variables.
    given : ndarray of float, shape (n, p)
        Variables whose ranks are regressed out of the ranks of both.

    Returns
    -------
    float
        NaN if a variable is determined by the others.

    Examples
    --------
    >>> z = np.array([1.0, 2, 3, 4, 5, 6])
    >>> x = np.array([2.0, 1, 4, 3, 6, 5])
    >>> round(partial_spearman(x, x, z[:, None]), 6)
    1.0
    """
    basis = np.column_stack([np.ones(len(x)), average_ranks(given)])
    residuals = []
    for ranks in average_ranks(np.column_stack([x, y])).T:
        rest = ranks - basis @ np.linalg.lstsq(basis, ranks, rcond=None)[0]
        residuals.append(rest)
    lengths = [np.linalg.norm(rest) for rest in residuals]
    if min(lengths) < 1e-9 * len(x):
        return math.nan
    return float(residuals[0] @ residuals[1] / (lengths[0] * lengths[1]))


def ranks_within(values: np.ndarray, families: Sequence[str]) -> np.ndarray:
    """Return ranks within families, centered and scaled to unit variance in each.

    Parameters
    ----------
    values : ndarray of float, shape (n, m)
        One variable per column.
    families : sequence of str, length n
        Family of each item.

    Returns
    -------
    ndarray of float, shape (n, m)
        0 for a variable that is constant in a family.

    Examples
    --------
    >>> ranks_within(np.array([[1.0], [3.0], [20.0], [10.0]]), ["a", "a", "b", "b"])[:, 0].tolist()
    [-1.0, 1.0, 1.0, -1.0]
    """
    names = np.asarray(families)
    ranks = np.empty(values.shape)
    for family in np.unique(names):
        is_member = names == family
        within = average_ranks(values[is_member])
        within -= within.mean(axis=0)
        deviation = within.std(axis=0)
        ranks[is_member] = within / np.where(deviation > 0, deviation, 1)
    return ranks


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[object],
    *,
    seed: int = 0,
    resamples: int = NUM_RESAMPLES,
) -> tuple[float, float]:
    """Compute a 95 % percentile interval over resampled clusters.

    Parameters
    ----------
    statistic : callable
        From the indices of items, with repetitions, to a number. Undefined numbers are left out.
    clusters : sequence, length n
        Items of one cluster are drawn together, because they are not independent.
    seed : int, default 0
        Seed of all random draws.
    resamples : int, default 2000
        Number of bootstrap samples.

    Returns
    -------
    low, high : float
        NaN for fewer than three clusters.
    """
    names, members = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 3:
        return math.nan, math.nan
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(members == i) for i in range(len(names))]
    values = np.empty(resamples)
    for i in range(resamples):
        resampled = random.integers(len(names), size=len(names))
        values[i] = statistic(np.concatenate([rows[j] for j in resampled]))
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def detectable_correlation(
    n: int, tests: int = 1, *, power: float = 0.8, level: float = 0.05
) -> float:
    """Return the smallest correlation that is found with some probability, by Fisher's z.

    Parameters
    ----------
    n : int
        Number of items, at least 4.
    tests : int, default 1
        Number of two-sided tests, with Bonferroni's correction.
    power : float, default 0.8
        Probability that the correlation is significant.
    level : float, default 0.05
        Significance level of all tests together.

    Returns
    -------
    float

    Examples
    --------
    >>> round(detectable_correlation(16), 2), round(detectable_correlation(16, 6), 2)
    (0.65, 0.75)
    """
    total = ndtri(1 - level / (2 * tests)) + ndtri(power)
    return math.tanh(total / math.sqrt(n - 3))


def _left_out_q2(x: np.ndarray, targets: np.ndarray, names: np.ndarray, ridge: float) -> np.ndarray:
    """Return Q² (m,) of each column of the targets (n, m), by the same factors."""
    errors = np.empty(targets.shape)
    mean_errors = np.empty(targets.shape)
    for name in np.unique(names):
        out = names == name
        predictions = _ridge_prediction(x[~out], targets[~out], x[out], ridge)
        errors[out] = targets[out] - predictions
        mean_errors[out] = targets[out] - targets[~out].mean(axis=0)
    return 1 - np.square(errors).sum(axis=0) / np.square(mean_errors).sum(axis=0)


def _ridge_prediction(x: np.ndarray, y: np.ndarray, new: np.ndarray, ridge: float) -> np.ndarray:
    center = x.mean(axis=0)
    deviation = x.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)
    scaled = (x - center) / deviation
    gram = scaled.T @ scaled + ridge * len(x) * np.eye(x.shape[1])
    slopes = np.linalg.lstsq(gram, scaled.T @ (y - y.mean(axis=0)), rcond=None)[0]
    return y.mean(axis=0) + (new - center) / deviation @ slopes
