"""Tests of the analyses of adaptive tokenizers."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from workbench.analysis.tokens.complexity import gradient_energy, png_bytes, token_complexity
from workbench.analysis.tokens.error_target import error_target
from workbench.analysis.tokens.halting import perfect_halting
from workbench.analysis.tokens.marginal_value import marginal_token_value
from workbench.core.errors import NotApplicable, UserError


def random() -> np.random.Generator:
    return np.random.default_rng(0)


# Error target


def test_images_above_request_by_margin():
    reached = np.array([[0.04, 0.049, 0.055, 0.075]])
    result = error_target(np.array([0.05]), reached, np.array([[1, 2, 3, 4]]))
    (request,) = result.requests
    assert request.over == (0.5, 0.25, 0.25, 0)
    assert request.violators == pytest.approx(0.065)
    assert request.tokens == 2.5
    assert result.table()["over +0.01"].tolist() == [0.25]


def test_halted_counts_only_halted_images():
    arguments = (
        np.array([0.05, 0.1]),
        np.array([[0.06, 0.04], [0.2, 0.2]]),
        np.array([[8, 4], [1, 2]]),
    )
    assert [r.over[0] for r in error_target(*arguments).requests] == [0.5, 1]
    halted = error_target(*arguments, halted=True)
    assert [(r.over[0], r.images) for r in halted.requests] == [(0, 1), (1, 2)]


def test_summary_states_extreme_and_worst_requests():
    reached = np.array([[0.1, 0.1], [0.04, 0.05]])
    result = error_target(np.array([0.1, 0.03]), reached, np.array([[2, 2], [8, 8]]))
    assert [(r.requested, r.reached, r.tokens) for r in result.requests] == [
        (0.03, pytest.approx(0.045), 8),
        (0.1, pytest.approx(0.1), 2),
    ]
    for number in ("0.03", "0.045", "8.0", "0.1", "2.0", "100 % of 2 images", "50 %"):
        assert number in result.summary()


def test_errors_of_other_shape_raise():
    with pytest.raises(UserError, match="1 × 3"):
        error_target(np.array([0.1, 0.2]), np.zeros((1, 3)), np.zeros((1, 3), int))


def test_perfect_halting_is_the_fewest_tokens_that_meet_a_request():
    """Against a loop, with errors that are not monotone."""
    errors, budgets = random().uniform(0.0, 0.3, (5, 30)), np.array([1, 2, 3, 5, 8])
    requested = np.array([0.05, 0.2])
    result = perfect_halting(requested, budgets, errors)
    for r, error in enumerate(requested):
        for image in range(30):
            met = [b for b, e in zip(budgets, errors[:, image], strict=True) if e <= error]
            assert result.needed[r, image] == (met[0] if met else 8)
            assert result.reachable[r, image] == bool(met)
    assert 0 < result.reachable[0].mean() < 1
    assert (result.errors[result.reachable] <= 0.2).all()
    with pytest.raises(UserError):
        perfect_halting(requested, budgets[::-1], errors)
    with pytest.raises(UserError):
        perfect_halting(requested, budgets[:3], errors)


def test_error_target_is_compared_with_a_perfect_halting():
    reached = np.array([[0.04, 0.06, 0.06, 0.05]])
    spent, budget_l1 = np.array([[1, 2, 4, 4]]), np.array([[0.05, 0.2, 0.3, 0.2], [0.01] * 4])
    budget_l1[1, 2] = 0.06
    result = error_target(np.array([0.05]), reached, spent, np.array([1, 4]), budget_l1)
    (request,) = result.requests
    assert request.needed == (1 + 4 + 4 + 4) / 4
    assert request.avoidable == 0.25  # the third image is out of reach
    expected = spearmanr(spent[0], [1, 4, 4, 4]).statistic
    assert request.need_correlation == pytest.approx(expected)
    assert (
        len(result.figure().data)
        == len(error_target(np.array([0.05]), reached, spent).figure().data) + 2
    )
    assert "needed" not in error_target(np.array([0.05]), reached, spent).table()


def test_correlation_of_a_perfect_halting_is_given_next_to_each_measure():
    images, spent = noisy(), (np.arange(40) // 10 + 1)[None]
    budget_l1 = np.stack([np.linspace(0, 0.2, 40), np.linspace(0, 0.1, 40), np.zeros(40)])
    result = token_complexity(
        images, None, np.array([0.05]), spent, None, np.array([1, 2, 4]), budget_l1
    )
    needed = perfect_halting(np.array([0.05]), np.array([1, 2, 4]), budget_l1).needed[0]
    by_name = {c.measure: c for c in result.correlations}
    assert by_name["PNG size"].perfect == pytest.approx(
        spearmanr(png_bytes(images), needed).statistic
    )
    assert by_name["tokens needed"].spearman == pytest.approx(spearmanr(spent[0], needed).statistic)


# Complexity


def noisy(n: int = 40) -> np.ndarray:
    """Return images of increasing noise."""
    amplitude = np.arange(n)[:, None, None, None] * 3
    return (128 + random().uniform(-1, 1, (n, 8, 8, 3)) * amplitude).astype(np.uint8)


def test_png_bytes_match_pillow():
    image, buffer = noisy()[7], io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    assert png_bytes(image[None]).tolist() == [len(buffer.getvalue())]
    assert png_bytes(np.zeros((1, 8, 8, 1), np.uint8)) < png_bytes(
        random().integers(0, 256, (1, 8, 8, 1), np.uint8)
    )


def test_gradient_energy_of_step():
    image = np.zeros((1, 2, 3, 1), np.uint8)
    image[0, :, 2] = 255
    # One of the two horizontal differences is 1, and the vertical ones are 0.
    assert gradient_energy(image).tolist() == [0.5]


def test_complexity_correlation_matches_scipy():
    images, tokens = noisy(), np.arange(40) // 4 + 1
    result = token_complexity(
        images, active=np.arange(10) < tokens[:, None], complexity=-np.arange(40.0)
    )
    by_name = {c.measure: c for c in result.correlations}
    energy = by_name["gradient energy"]
    assert energy.spearman == pytest.approx(spearmanr(gradient_energy(images), tokens).statistic)
    assert 0.9 < energy.low <= energy.spearman <= energy.high
    assert by_name["known complexity"].spearman < -0.9


def test_independent_tokens_have_interval_around_zero():
    spent = random().integers(1, 10, (1, 40))
    result = token_complexity(noisy(), requested=np.array([0.1]), spent=spent)
    assert all(c.low < 0 < c.high for c in result.correlations)


def test_request_with_half_the_tokens_is_ranked():
    spent = np.stack([np.full(40, 10), np.arange(40) % 10 + 1, np.ones(40)]).astype(int)
    assert (
        token_complexity(noisy(), requested=np.array([0.01, 0.1, 0.5]), spent=spent).requested
        == 0.1
    )


def test_equal_numbers_of_tokens_raise():
    with pytest.raises(NotApplicable, match="40 .* 3"):
        token_complexity(noisy(), active=np.ones((40, 3), bool))
    with pytest.raises(NotApplicable):
        token_complexity(noisy())


# Marginal value


def test_value_is_drop_in_error_per_token():
    errors = np.array([[0.5, 0.3, 0.1], [0.5, 0.3, 0.1]])
    result = marginal_token_value(np.array([1, 2, 4]), errors)
    assert [(s.start, s.end, s.value) for s in result.steps] == [
        (1, 2, pytest.approx(0.2)),
        (2, 4, pytest.approx(0.1)),
    ]
    assert result.mean_delta == pytest.approx(0.4)
    assert result.absolute


def test_delta_distinguishes_noise_and_structure():
    """More tokens reduce the error of structure but not that of noise."""
    noise, structure = np.tile([0.12, 0.12, 0.11], (30, 1)), np.tile([0.14, 0.06, 0.02], (30, 1))
    result = marginal_token_value(np.array([32, 64, 256]), np.concatenate([noise, structure]))
    assert result.delta[:30] == pytest.approx(0.01)
    assert result.delta[30:] == pytest.approx(0.12)
    assert result.unhelped_share == 0.5


def test_squared_errors_replace_missing_absolute_errors():
    assert not marginal_token_value(np.array([1, 2]), None, np.array([[0.2, 0.1]])).absolute
    with pytest.raises(NotApplicable):
        marginal_token_value(np.array([1, 2]))
    with pytest.raises(NotApplicable):
        marginal_token_value(np.array([1]), np.array([[0.2]]))
