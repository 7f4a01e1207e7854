"""What adaptive tokenizers promise: the error asked for, more tokens for more complex images, each token its worth."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from workbench.analysis.tokens.complexity import gradient_energy, png_bytes, token_complexity
from workbench.analysis.tokens.error_target import error_target
from workbench.analysis.tokens.marginal_value import marginal_token_value
from workbench.core.errors import NotApplicable, UserError


def random() -> np.random.Generator:
    return np.random.default_rng(0)


# Error on request


def test_images_above_the_request_are_counted_by_how_far_they_are():
    reached = np.array([[0.04, 0.049, 0.055, 0.075]])
    result = error_target(np.array([0.05]), reached, np.array([[1, 2, 3, 4]]))
    (request,) = result.requests
    assert request.over == (0.5, 0.25, 0.25, 0)
    assert request.violators == pytest.approx(0.065)
    assert request.tokens == 2.5
    assert result.table()["over +0.01"].tolist() == [0.25]


def test_images_that_had_no_more_tokens_to_spend_can_be_left_out():
    arguments = (
        np.array([0.05, 0.1]),
        np.array([[0.06, 0.04], [0.2, 0.2]]),
        np.array([[8, 4], [1, 2]]),
    )
    assert [r.over[0] for r in error_target(*arguments).requests] == [0.5, 1]
    halted = error_target(*arguments, halted=True)
    assert [(r.over[0], r.judged) for r in halted.requests] == [(0, 1), (1, 2)]


def test_the_summary_tells_the_tightest_the_loosest_and_the_worst_request():
    reached = np.array([[0.1, 0.1], [0.04, 0.05]])
    summary = error_target(np.array([0.1, 0.03]), reached, np.array([[2, 2], [8, 8]])).summary()
    assert summary.startswith(
        "Asked for an error of 0.03, it reached 0.045 with 8.0 tokens; asked for 0.1, 0.1 with 2.0"
    )
    assert summary.endswith(
        "At worst, asked for 0.03, 100 % of 2 images miss it, 50 % by more than 0.01."
    )


def test_errors_of_other_requests_are_refused():
    with pytest.raises(
        UserError, match="The reached errors are 1 × 3; 2 requests × images would be right"
    ):
        error_target(np.array([0.1, 0.2]), np.zeros((1, 3)), np.zeros((1, 3), int))


# Complexity


def noisy(n: int = 40) -> np.ndarray:
    """Images of ever more noise."""
    amplitude = np.arange(n)[:, None, None, None] * 3
    return (128 + random().uniform(-1, 1, (n, 8, 8, 3)) * amplitude).astype(np.uint8)


def test_a_pngs_size_is_that_of_the_file_pillow_writes():
    image, buffer = noisy()[7], io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    assert png_bytes(image[None]).tolist() == [len(buffer.getvalue())]
    assert png_bytes(np.zeros((1, 8, 8, 1), np.uint8)) < png_bytes(
        random().integers(0, 256, (1, 8, 8, 1), np.uint8)
    )


def test_gradient_energy_of_a_step_by_hand():
    image = np.zeros((1, 2, 3, 1), np.uint8)
    image[0, :, 2] = 255
    assert gradient_energy(image).tolist() == [
        0.5
    ]  # of two differences across one is 1; none is down


def test_tokens_that_follow_noise_are_found_to_and_agree_with_scipy():
    images, tokens = noisy(), np.arange(40) // 4 + 1
    result = token_complexity(
        images, active=np.arange(10) < tokens[:, None], complexity=-np.arange(40.0)
    )
    by_name = {c.measure: c for c in result.correlations}
    energy = by_name["gradient energy"]
    assert energy.spearman == pytest.approx(spearmanr(gradient_energy(images), tokens).statistic)
    assert 0.9 < energy.low <= energy.spearman <= energy.high
    assert by_name["known complexity"].spearman < -0.9


def test_tokens_without_regard_to_the_image_have_an_interval_around_zero():
    spent = random().integers(1, 10, (1, 40))
    result = token_complexity(noisy(), requested=np.array([0.1]), spent=spent)
    assert all(c.low < 0 < c.high for c in result.correlations)


def test_of_several_requests_the_one_that_spends_about_half_is_ranked():
    spent = np.stack([np.full(40, 10), np.arange(40) % 10 + 1, np.ones(40)]).astype(int)
    assert (
        token_complexity(noisy(), requested=np.array([0.01, 0.1, 0.5]), spent=spent).requested
        == 0.1
    )


def test_images_that_all_have_as_many_tokens_have_no_order():
    with pytest.raises(NotApplicable, match="images of different length; all 40 have 3 tokens"):
        token_complexity(noisy(), active=np.ones((40, 3), bool))
    with pytest.raises(NotApplicable, match="gives images different numbers of tokens"):
        token_complexity(noisy())


# Value


def test_a_tokens_worth_is_the_drop_in_error_over_the_tokens_it_took():
    errors = np.array([[0.5, 0.3, 0.1], [0.5, 0.3, 0.1]])
    result = marginal_token_value(np.array([1, 2, 4]), errors)
    assert [(s.start, s.end, s.value) for s in result.steps] == [
        (1, 2, pytest.approx(0.2)),
        (2, 4, pytest.approx(0.1)),
    ]
    assert result.mean[0] == pytest.approx(0.4)
    assert result.absolute


def test_delta_tells_noise_from_structure():
    """Noise keeps its error whatever the tokens; structure loses it; both begin alike."""
    noise, structure = np.tile([0.12, 0.12, 0.11], (30, 1)), np.tile([0.14, 0.06, 0.02], (30, 1))
    result = marginal_token_value(np.array([32, 64, 256]), np.concatenate([noise, structure]))
    assert result.delta[:30] == pytest.approx(0.01)
    assert result.delta[30:] == pytest.approx(0.12)
    assert result.share == 0.5


def test_squared_errors_stand_in_where_no_absolute_ones_were_collected():
    assert not marginal_token_value(np.array([1, 2]), None, np.array([[0.2, 0.1]])).absolute
    with pytest.raises(NotApplicable, match="this evidence has none"):
        marginal_token_value(np.array([1, 2]))
    with pytest.raises(NotApplicable, match="two numbers of tokens"):
        marginal_token_value(np.array([1]), np.array([[0.2]]))
