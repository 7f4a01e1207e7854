from typing import get_args

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold

from workbench.analysis.latents.cross_validation import cross_validate_mixtures
from workbench.analysis.latents.mode_assignment import mode_gallery
from workbench.analysis.latents.mode_comparison import mode_comparison
from workbench.analysis.latents.modes import mixture_modes
from workbench.analysis.stats import mixtures
from workbench.analysis.stats.reductions import gaussian_surrogate, reduce_dimensions
from workbench.core.errors import NotApplicable, UserError
from workbench.core.progress import Cancelled, progress_listener
from workbench.storage.evidence import Evidence

QUICK = {"components": 4, "max_modes": 3}


def mixture(modes: int, seed: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Equal spherical modes in 16 dimensions, about eight standard deviations apart; and which mode each is from."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(modes, 16)) * 8 / np.sqrt(32)
    drawn = random.integers(0, modes, n)
    return (means[drawn] + random.normal(size=(n, 16))).reshape(n, 4, 4), drawn


def evidence(run: str, latents: np.ndarray, fingerprint: str = "f") -> Evidence:
    return Evidence({"run": run, "step": 1, "fingerprint": fingerprint}, latents=latents)


@pytest.mark.parametrize("modes", [1, 5])  # benchmarks/modes.py: twenty seeds each of 1, 5 and 12
def test_the_range_covers_the_modes_of_a_known_mixture_and_the_null_answers_one(modes):
    result = mixture_modes(mixture(modes, seed=0, n=400)[0], max_modes=7)
    assert result.low <= modes <= result.high
    assert result.high - result.low <= 2
    assert result.null_best == 1


def test_images_are_given_back_to_the_modes_they_were_drawn_from():
    latents, drawn = mixture(5, seed=3, n=250)
    result = mixture_modes(latents, labels=drawn, max_modes=6)
    assert adjusted_rand_score(drawn, result.assignment) > 0.95
    assert np.all(np.diff(np.bincount(result.assignment)) <= 0)
    at = result.modes == result.best
    assert result.classes.rand[at] == pytest.approx(adjusted_rand_score(drawn, result.assignment))
    assert result.classes.nmi[at] > 0.95
    assert result.classes.shuffled_nmi[at] < 0.1
    assert result.stability[at] > 0.9


@pytest.mark.parametrize("covariance", ["diag", "tied", "full"])
def test_a_mixtures_density_and_bic_are_scikit_learns_for_the_same_parameters(covariance):
    points = np.random.default_rng(0).normal(size=(300, 3)) @ np.random.default_rng(1).normal(
        size=(3, 3)
    )
    points[:100] += 4
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    ours = mixtures.fit_mixture(points, 2, covariance, np.random.default_rng(0))
    start = {
        "weights_init": np.exp(ours.joint(points) - ours.density(points)).mean(axis=1),
        "means_init": ours.means,
    }
    theirs = GaussianMixture(
        2,
        covariance_type=covariance,
        reg_covar=mixtures.VARIANCE_FLOOR,
        tol=1e-6,
        max_iter=500,
        **start,
    )
    theirs.fit(points)
    assert ours.density(points).mean() == pytest.approx(theirs.score(points), abs=0.01)
    assert ours.bic(points) == pytest.approx(theirs.bic(points), abs=6)
    np.testing.assert_allclose(ours.means, theirs.means_, atol=0.1)


@pytest.mark.parametrize("covariance", get_args(mixtures.Covariance))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_round_of_em_lowers_the_likelihood(covariance, seed):
    """Points lie so far apart that what is added to their variances is nothing."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(200, 3)) @ random.normal(size=(3, 3)) + 3 * random.integers(
        0, 2, (200, 1)
    )
    points *= 1e4
    statistics = mixtures._statistics(points, covariance)
    centres = points[random.integers(0, 200, (2, 4))]  # two starts of four Gaussians
    distance = np.linalg.norm(points[None, None] - centres[:, :, None], axis=3)
    posterior = (distance == distance.min(axis=1, keepdims=True)).astype(float)
    told = []
    for _ in range(30):
        natural, _ = mixtures._maximize(mixtures._sums(posterior, statistics), 3, covariance)
        posterior, likelihood = mixtures._posterior(natural, statistics)
        told.append(likelihood)
    assert (np.diff(told, axis=0) > -1e-9).all()
    assert (told[-1] > told[0] + 1e-3).all()


def test_a_mixture_is_a_density_its_weights_sum_to_one():
    points = np.random.default_rng(0).normal(size=(400, 1))
    found = mixtures.fit_mixture(points, 3, "diag", np.random.default_rng(0))
    line = np.linspace(-8, 8, 20_001)
    assert np.exp(found.density(line[:, None])).sum() * (line[1] - line[0]) == pytest.approx(
        1, abs=1e-4
    )


def test_one_gaussian_is_the_closed_form():
    points = np.random.default_rng(0).normal(size=(500, 3)) @ np.random.default_rng(1).normal(
        size=(3, 3)
    )
    found = mixtures.fit_mixture(points, 1, "full", np.random.default_rng(0))
    covariance = np.cov(points.T, bias=True) + mixtures.VARIANCE_FLOOR * np.eye(3)
    right = multivariate_normal(points.mean(axis=0), covariance).logpdf(points)
    np.testing.assert_allclose(found.density(points), right, rtol=1e-6)


@pytest.mark.parametrize("covariance", ["diag", "tied", "full"])
def test_one_mode_of_whitened_latents_has_the_standard_normals_likelihood(covariance):
    latents = np.random.default_rng(0).normal(size=(1000, 1, 4)) * [1, 5, 0.1, 3]
    result = mixture_modes(latents, covariance=covariance, components=4, max_modes=2)
    assert result.loglikelihood[:, 0].mean() / 4 == pytest.approx(-1.4189, abs=0.02)


def test_each_image_is_judged_by_a_gaussian_fitted_to_the_other_folds():
    points = np.random.default_rng(0).normal(size=(60, 2))
    (found,), _ = cross_validate_mixtures([points], np.array([1]), "diag", seed=3)
    for rest, out in KFold(5, shuffle=True, random_state=3).split(points):
        variance = points[rest].var(axis=0) + mixtures.VARIANCE_FLOOR
        right = multivariate_normal(points[rest].mean(axis=0), np.diag(variance)).logpdf(
            points[out]
        )
        np.testing.assert_allclose(found.likelihood[out, 0], right)


def test_the_gain_is_over_one_mode_in_nats_with_its_paired_error():
    result = mixture_modes(mixture(2, seed=0, n=200)[0], **QUICK)
    difference = result.loglikelihood[:, 1] - result.loglikelihood[:, 0]
    assert result.gain[0] == 0
    assert result.gain[1] == pytest.approx(difference.mean())
    assert result.gain_error[1] == pytest.approx(difference.std(ddof=1) / np.sqrt(200))


def test_the_scale_and_place_of_the_latents_do_not_matter():
    latents = mixture(2, seed=0, n=200)[0]
    a, b = mixture_modes(latents, **QUICK), mixture_modes(100 * latents + 7, **QUICK)
    np.testing.assert_allclose(a.loglikelihood, b.loglikelihood, rtol=1e-4)


def test_the_surrogate_is_a_gaussian_with_the_latents_covariance():
    rows = np.random.default_rng(0).exponential(size=(4000, 3)) @ [[1, 2, 0], [0, 1, 0], [0, 0, 3]]
    drawn = gaussian_surrogate(rows, seed=1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(rows.T), atol=0.6)
    assert abs((drawn / drawn.std(axis=0)) ** 3).mean() == pytest.approx(
        np.sqrt(8 / np.pi), rel=0.05
    )


def test_the_untrained_encoder_is_a_curve_of_its_own_and_a_warning_where_it_answers_alike():
    latents, other = mixture(3, 0, n=300)[0], np.random.default_rng(0).normal(size=(300, 4, 4))
    text = mixture_modes(latents, untrained_latents=2 * latents, max_modes=5).summary()
    assert "the encoder before training 3." in text
    assert "The encoder before training answers alike" in text
    result = mixture_modes(latents, untrained_latents=other, max_modes=5)
    assert result.untrained_best == 1
    assert "answers alike" not in result.summary()
    assert "before training" in [trace.name for trace in result.figure().data]
    with pytest.raises(UserError, match="There are 299 untrained latents for 300 images"):
        mixture_modes(latents, untrained_latents=other[:299], max_modes=5)


def test_the_papers_text_keeps_what_holds_nine_tenths_of_the_variance():
    rows = np.random.default_rng(0).normal(size=(400, 10)) * [10, 9, 8, 1, 1, 1, 1, 1, 1, 1]
    points, explained = reduce_dimensions(rows, "paper text", 2, seed=0)
    assert points.shape == (400, 3)
    assert explained > 0.9
    np.testing.assert_allclose(points.std(axis=0), 1, rtol=0.01)
    result = mixture_modes(rows[:, None], preset="paper text", covariance="full", max_modes=2)
    assert (
        "on 3 principal components (97 % of the variance) of 400 images, preset `paper text`"
        in result.summary()
    )
    assert result.covariance == "diag"


def test_each_mode_shows_the_images_nearest_its_mean():
    latents, drawn = mixture(2, seed=0, n=100)
    shade = (100 * drawn + 50).astype(np.uint8)
    result = mixture_modes(
        latents, images=np.tile(shade[:, None, None, None], (1, 4, 4, 1)), **QUICK
    )
    assert result.best == 2
    high = result.gallery.nearest.shape[0] // 2
    first, second = result.gallery.nearest[:high], result.gallery.nearest[high:]
    assert {len(np.unique(x[x[..., 3] > 0][:, 0])) for x in (first, second)} == {1}
    assert len([trace for trace in result.figure().data if trace.type == "image"]) == 2


def test_a_gallery_shows_the_densest_members_first_and_none_of_them_again():
    shade = np.arange(10, dtype=np.uint8)
    density = np.array([0, 5, 1, 9, 2, 8, 3, 7, 4, 6])
    found = mode_gallery(
        np.tile(shade[:, None, None, None], (1, 64, 64, 1)), np.zeros(10, int), density, seed=0
    )
    assert found.nearest[0, ::70, 0].tolist() == [3, 5, 7, 9, 1, 8]
    assert sorted(found.random[0, ::70, 0].tolist()) == [0, 2, 4, 6]


def test_it_warns_at_the_edge_of_the_grid_and_of_little_variance():
    text = mixture_modes(mixture(5, seed=0, n=120)[0], components=2, max_modes=3).summary()
    assert text.startswith("3 or more modes")
    assert "The range touches 3, the most that was tried: there may be more." in text
    assert "% of the variance." in text


def test_it_warns_where_more_images_would_show_more_modes():
    result = mixture_modes(mixture(5, 0, n=160)[0], max_modes=6)
    assert result.half_best < result.low
    assert (
        f"With half the images the answer is {result.half_best}: more images may show"
        in result.summary()
    )


def test_it_warns_where_even_modes_far_apart_would_go_unseen_and_not_where_images_are_enough():
    few, enough = (
        mixture_modes(mixture(1, 0, n)[0], components=12, max_modes=6) for n in (60, 400)
    )
    assert few.planted_best < 6
    assert (
        f"6 modes planted far apart in as many images are counted as {few.planted_best}"
        in few.summary()
    )
    assert enough.planted_best == 6
    assert "planted" not in enough.summary()


def test_components_beyond_the_latents_rank_are_dropped_and_that_is_said():
    flat = np.zeros((100, 1, 8))
    flat[..., :3] = np.random.default_rng(0).normal(size=(100, 1, 3))
    result = mixture_modes(flat, components=8, max_modes=2)
    assert result.components == 3
    assert "Only 3 of 8 components" in result.summary()


def test_few_images_lower_the_most_modes_that_are_tried():
    result = mixture_modes(
        np.random.default_rng(0).normal(size=(50, 1, 4)), components=2, max_modes=24
    )
    assert result.modes[-1] == 5
    assert "No more than 5 modes were tried, with 50 images." in result.summary()


def test_what_cannot_be_counted_is_refused_in_a_sentence():
    good = np.random.default_rng(0).normal(size=(60, 2, 2))
    with pytest.raises(NotApplicable, match="needs at least 50 images; this evidence has 49"):
        mixture_modes(good[:49])
    with pytest.raises(NotApplicable, match="the same for all 60 images"):
        mixture_modes(np.ones_like(good))
    with pytest.raises(UserError, match="There are 3 labels for 60 images"):
        mixture_modes(good, labels=np.zeros(3, int))
    good[3] = np.nan
    with pytest.raises(UserError, match="The latents of 1 of 60 images hold NaN"):
        mixture_modes(good)


def test_a_host_hears_how_far_a_sweep_is_and_can_stop_it(monkeypatch):
    points, heard = np.random.default_rng(0).normal(size=(60, 2)), []
    with progress_listener(lambda done, total: heard.append((done, total))):
        cross_validate_mixtures([points], np.array([1, 2]), "diag", 0)
    assert heard == [(i, 6) for i in range(1, 7)]

    def stop(done: int, total: int) -> None:
        heard.append((done, total))
        raise Cancelled("Stopped.")

    heard.clear()
    begun: list[int] = []
    sweep = mixtures.fit_sweep
    monkeypatch.setattr(mixtures, "sweep", lambda *given: begun.append(1) or sweep(*given))
    with pytest.raises(Cancelled), progress_listener(stop):
        cross_validate_mixtures([points] * 80, np.array([1, 2, 3]), "diag", 0)
    assert heard == [(1, 401)]
    assert len(begun) < 401
    cross_validate_mixtures([points], np.array([1]), "diag", 0)  # nobody listens any more
    assert len(heard) == 1


def test_latents_of_few_modes_reach_the_same_likelihood_with_fewer_gaussians_than_those_of_many():
    few, many = mixture(3, 0, n=300)[0], mixture(8, 0, n=300)[0]
    result = mode_comparison([evidence("few", few), evidence("many", many)], max_modes=8)
    worst = result.likelihood.mean(axis=1).min(axis=1).max()
    assert result.target == worst
    for run, needed in zip(result.likelihood.mean(axis=1), result.needed, strict=True):
        assert needed == next(k for k, nats in zip(result.modes, run, strict=True) if nats <= worst)
    assert result.needed[0] < result.needed[1]
    assert min(result.explained) > 0.9
    assert result.needed_by_split.shape == (2, 5)


def test_runs_on_other_images_are_left_out_of_the_comparison_and_named():
    one, two = mixture(2, 0, n=60)[0], mixture(2, 1, n=60)[0]
    result = mode_comparison(
        [evidence("a", one), evidence("b", two), evidence("c", two, "g")], max_modes=2
    )
    assert result.runs == ("a", "b")
    assert result.summary().endswith("Left out, being measured on other images: c.")
    with pytest.raises(NotApplicable, match="no selected run has any"):
        mode_comparison([Evidence({"run": "a", "step": 1})])
