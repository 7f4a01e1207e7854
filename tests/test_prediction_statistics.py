"""Statistics of predictions, against closed forms, scipy and the table of detectable effects."""

import numpy as np
import pytest
from scipy.stats import linregress, rankdata, spearmanr, t

from workbench.analysis.stats.prediction import (
    LinearFit,
    best_left_out_q2,
    cluster_bootstrap,
    detectable_correlation,
    left_out_q2,
    partial_spearman,
    ranks_within,
)
from workbench.analysis.stats.rank_correlation import average_ranks


def test_ranks_equal_those_of_scipy():
    values = np.random.default_rng(0).integers(0, 5, (12, 4)).astype(float)
    values[3, 1] = np.nan
    np.testing.assert_array_equal(average_ranks(values), rankdata(values, axis=0))


def test_fit_and_intervals_match_the_closed_forms():
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 12))
    fit = LinearFit(x, 3 * x + noise)
    expected = linregress(x, fit.y)
    assert fit.slope == pytest.approx(expected.slope)
    assert fit.predict(0.0) == pytest.approx(expected.intercept)
    spread = np.square(x - x.mean()).sum()
    assert fit.deviation / np.sqrt(spread) == pytest.approx(expected.stderr)
    margin = t.ppf(0.975, 10) * fit.prediction_deviation(0.5)
    assert fit.probability_below(0.5, fit.predict(0.5) + margin) == pytest.approx(0.975)
    assert fit.probability_below_other(0.2, 0.2) == pytest.approx(0.5)
    assert fit.probability_below_other(-1, 1) > 0.9 > fit.probability_below_other(-0.1, 0.1)


def test_probabilities_of_new_points_are_calibrated():
    """The share of pairs that are ordered as predicted is the mean predicted probability."""
    random = np.random.default_rng(0)
    predicted, happened = [], []
    for _ in range(250):
        x, noise = random.normal(size=(2, 10))
        y = x + noise
        predicted.append(LinearFit(x[:8], y[:8]).probability_below_other(x[8], x[9]))
        happened.append(y[8] < y[9])
    assert np.mean(np.abs(np.array(predicted) - 0.5)) > 0.1
    confident = np.array(predicted) > 0.5
    share = np.mean(np.array(happened) == confident)
    assert share == pytest.approx(np.mean(np.maximum(predicted, 1 - np.array(predicted))), abs=0.06)


def test_left_out_error_matches_press_and_unrelated_factors_do_not_predict():
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 15))
    y = x + 0.5 * noise
    design = np.column_stack([np.ones(15), x])
    hat = design @ np.linalg.pinv(design)
    press = np.square((y - hat @ y) / (1 - np.diag(hat))).sum()
    total = np.square((y - y.mean()) * 15 / 14).sum()
    assert left_out_q2(x[:, None], y) == pytest.approx(1 - press / total)
    scores = [left_out_q2(random.normal(size=(12, 2)), random.normal(size=12)) for _ in range(200)]
    assert np.mean(scores) < 0 and np.quantile(scores, 0.95) < 0.35
    # A factor that only separates the families predicts nothing in a family that was left out.
    families = np.repeat(["a", "b", "c"], 5)
    offsets = np.repeat([0.0, 1.0, 5.0], 5)
    assert left_out_q2(offsets[:, None], offsets + 0.01 * noise) > 0.9
    within = ranks_within(np.column_stack([offsets, x]), families)
    assert np.all(within[:, 0] == 0)
    assert left_out_q2(within[:, 1:], within[:, 1], families) == pytest.approx(1)


def test_a_strong_ridge_predicts_the_mean():
    random = np.random.default_rng(0)
    x = random.normal(size=(9, 2))
    assert left_out_q2(x, x[:, 0], ridge=1e9) == pytest.approx(0, abs=1e-6)


def test_best_of_many_unrelated_factors_is_no_better_than_chance():
    random, families = np.random.default_rng(4), ["a"] * 8 + ["b"] * 8
    p_values = []
    for _ in range(40):
        target = random.normal(size=16)
        best, q2, p = best_left_out_q2(random.normal(size=(16, 9)), target, families)
        assert 0 <= best < 9 and q2 < 1
        p_values.append(p)
    # Uniform under the null: a mean of 1/2 and one in twenty below 0.05.
    assert abs(np.mean(p_values) - 0.5) < 4 * np.sqrt(1 / 12 / 40)
    assert np.mean(np.array(p_values) <= 0.05) < 0.2


def test_best_factor_is_that_of_left_out_families():
    random, families = np.random.default_rng(5), ["a"] * 8 + ["b"] * 8
    target = random.normal(size=16)
    values = np.column_stack([random.normal(size=(16, 3)), target + 0.01 * random.normal(size=16)])
    best, q2, p = best_left_out_q2(values, target, families)
    ranks = ranks_within(np.column_stack([values, target]), families)
    expected = [left_out_q2(ranks[:, [i]], ranks[:, 4], families) for i in range(4)]
    assert best == 3 and q2 == pytest.approx(max(expected)) and p < 0.001


def test_partial_correlation_removes_the_confounder():
    random = np.random.default_rng(0)
    size = random.normal(size=400)
    a, b = size + random.normal(size=(2, 400))
    assert spearmanr(a, b).statistic > 0.35
    assert abs(partial_spearman(a, b, size[:, None])) < 0.1
    # One confounder: the textbook formula on ranks.
    r = spearmanr(np.column_stack([a, b, size])).statistic
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_spearman(a, b, size[:, None]) == pytest.approx(expected)
    assert np.isnan(partial_spearman(size, a, size[:, None]))


def test_clusters_of_copies_are_as_uncertain_as_single_items():
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(2, 10))
    y = x + noise
    single = cluster_bootstrap(lambda rows: np.mean(y[rows]), np.arange(10))
    copies = np.repeat(y, 4)
    clustered = cluster_bootstrap(lambda rows: np.mean(copies[rows]), np.repeat(np.arange(10), 4))
    naive = cluster_bootstrap(lambda rows: np.mean(copies[rows]), np.arange(40))
    assert clustered == pytest.approx(single)
    assert naive[1] - naive[0] < 0.7 * (single[1] - single[0])
    assert np.isnan(cluster_bootstrap(lambda rows: 0.0, [0, 0, 1])).all()


def test_detectable_effects_have_the_stated_power():
    random = np.random.default_rng(0)
    for n, tests in ((12, 6), (16, 1)):
        rho = detectable_correlation(n, tests)
        x, noise = random.normal(size=(2, 4000, n))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        a, b = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
        r = (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
        p = 2 * t.sf(np.abs(r) * np.sqrt((n - 2) / (1 - r**2)), n - 2)
        assert np.mean(p < 0.05 / tests) == pytest.approx(0.8, abs=0.04)
