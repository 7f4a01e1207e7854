import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from workbench.analysis.modes import mixture_modes
from workbench.errors import NotApplicable, UserError

QUICK = {"components": 4, "most": 3}


def mixture(modes: int, seed: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Equal spherical modes in 16 dimensions, about eight standard deviations apart; and which mode each is from."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(modes, 16)) * 8 / np.sqrt(32)
    drawn = random.integers(0, modes, n)
    return (means[drawn] + random.normal(size=(n, 16))).reshape(n, 4, 4), drawn


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("modes", [1, 5, 12])
def test_the_range_covers_the_modes_of_a_known_mixture_and_the_null_answers_one(modes, seed):
    result = mixture_modes(mixture(modes, seed)[0], most=14, seed=seed)
    assert result.low <= modes <= result.high
    assert result.high - result.low <= 2
    assert result.null_best == 1


def test_images_are_given_back_to_the_modes_they_were_drawn_from():
    latents, drawn = mixture(5, seed=3, n=400)
    result = mixture_modes(latents, most=6)
    assert adjusted_rand_score(drawn, result.assignment) > 0.95
    assert np.all(np.diff(np.bincount(result.assignment)) <= 0)


@pytest.mark.parametrize("covariance", ["diag", "tied", "full"])
def test_one_mode_of_whitened_latents_has_the_standard_normals_likelihood(covariance):
    result = mixture_modes(
        np.random.default_rng(0).normal(size=(2000, 1, 4)) * [1, 5, 0.1, 3], covariance=covariance, **QUICK
    )
    assert result.loglikelihood[:, 0].mean() / 4 == pytest.approx(-1.4189, abs=0.01)


def test_the_gain_is_over_one_mode_in_nats_with_its_paired_error():
    result = mixture_modes(mixture(2, seed=0, n=200)[0], **QUICK)
    difference = result.loglikelihood[:, 1] - result.loglikelihood[:, 0]
    assert result.gain[0] == 0
    assert result.gain[1] == pytest.approx(difference.mean())
    assert result.gain_error[1] == pytest.approx(difference.std(ddof=1) / np.sqrt(200))


def test_the_scale_and_place_of_the_latents_do_not_matter():
    latents = mixture(2, seed=0, n=200)[0]
    a, b = mixture_modes(latents, **QUICK), mixture_modes(100 * latents + 7, **QUICK)
    np.testing.assert_allclose(a.loglikelihood, b.loglikelihood, rtol=1e-6)


def test_it_warns_at_the_edge_of_the_grid_and_of_few_images_and_of_little_variance():
    result = mixture_modes(mixture(5, seed=0, n=120)[0], components=2, most=3)
    text = result.summary()
    assert "The range touches 3, the most that was tried: there may be more." in text
    assert "% of the variance." in text
    assert "120 images are fewer than 10 for each mode" in mixture_modes(mixture(5, 0, 120)[0], most=6).summary()


def test_components_beyond_the_latents_rank_are_dropped_and_that_is_said():
    flat = np.zeros((100, 1, 8))
    flat[..., :3] = np.random.default_rng(0).normal(size=(100, 1, 3))
    result = mixture_modes(flat, components=8, most=2)
    assert result.components == 3
    assert "Only 3 of 8 components" in result.summary()


def test_few_images_lower_the_most_modes_that_are_tried():
    result = mixture_modes(np.random.default_rng(0).normal(size=(50, 1, 4)), components=2, most=24)
    assert result.modes[-1] == 5
    assert "No more than 5 modes were tried, with 50 images." in result.summary()


def test_what_cannot_be_counted_is_refused_in_a_sentence():
    good = np.random.default_rng(0).normal(size=(60, 2, 2))
    with pytest.raises(NotApplicable, match="needs at least 50 images; this evidence has 49"):
        mixture_modes(good[:49])
    with pytest.raises(NotApplicable, match="the same for all 60 images"):
        mixture_modes(np.ones_like(good))
    good[3] = np.nan
    with pytest.raises(UserError, match="The latents of 1 of 60 images hold NaN"):
        mixture_modes(good)
