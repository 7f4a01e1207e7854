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
    """Draw from equal spherical modes, about eight deviations apart; return points and modes."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(modes, 16)) * 8 / np.sqrt(32)
    true_modes = random.integers(0, modes, n)
    points = means[true_modes] + random.normal(size=(n, 16))
    return points.reshape(n, 4, 4), true_modes


def evidence(run: str, latents: np.ndarray, fingerprint: str = "f") -> Evidence:
    return Evidence({"run": run, "step": 1, "fingerprint": fingerprint}, latents=latents)


@pytest.mark.parametrize("modes", [1, 5])  # benchmarks/modes.py: twenty seeds each of 1, 5 and 12
def test_range_covers_the_true_number_of_modes(modes):
    result = mixture_modes(mixture(modes, seed=0, n=400)[0], max_modes=7)
    assert result.low <= modes <= result.high
    assert result.high - result.low <= 2
    assert result.null_best == 1


def test_assignment_recovers_the_true_modes():
    latents, labels = mixture(5, seed=3, n=250)
    result = mixture_modes(latents, labels=labels, max_modes=6)
    rand = adjusted_rand_score(labels, result.assignment)
    assert rand > 0.95
    assert np.all(np.diff(np.bincount(result.assignment)) <= 0)
    is_best = result.modes == result.best
    assert result.classes.rand[is_best] == pytest.approx(rand)
    assert result.classes.nmi[is_best] > 0.95
    assert result.classes.shuffled_nmi[is_best] < 0.1
    assert result.stability[is_best] > 0.9


@pytest.mark.parametrize("covariance", ["diag", "tied", "full"])
def test_density_and_bic_equal_scikit_learn(covariance):
    points = np.random.default_rng(0).normal(size=(300, 3)) @ np.random.default_rng(1).normal(
        size=(3, 3)
    )
    points[:100] += 4
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    mixture = mixtures.fit_mixture(points, 2, covariance, np.random.default_rng(0))
    start = {
        "weights_init": np.exp(mixture.joint(points) - mixture.density(points)).mean(axis=1),
        "means_init": mixture.means,
    }
    reference = GaussianMixture(
        2,
        covariance_type=covariance,
        reg_covar=mixtures.VARIANCE_FLOOR,
        tol=1e-6,
        max_iter=500,
        **start,
    )
    reference.fit(points)
    assert mixture.density(points).mean() == pytest.approx(reference.score(points), abs=0.01)
    assert mixture.bic(points) == pytest.approx(reference.bic(points), abs=6)
    np.testing.assert_allclose(mixture.means, reference.means_, atol=0.1)


@pytest.mark.parametrize("covariance", get_args(mixtures.Covariance))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_em_never_lowers_the_likelihood(covariance, seed):
    # The scale makes the floor of the variances negligible.
    random = np.random.default_rng(seed)
    points = random.normal(size=(200, 3)) @ random.normal(size=(3, 3)) + 3 * random.integers(
        0, 2, (200, 1)
    )
    points *= 1e4
    statistics = mixtures._statistics(points, covariance)
    centers = points[random.integers(0, 200, (2, 4))]  # two starts of four Gaussians
    distance = np.linalg.norm(points[None, None] - centers[:, :, None], axis=3)
    posterior = (distance == distance.min(axis=1, keepdims=True)).astype(float)
    likelihoods = []
    for _ in range(30):
        natural, _ = mixtures._maximize(mixtures._sums(posterior, statistics), 3, covariance)
        posterior, likelihood = mixtures._posterior(natural, statistics)
        likelihoods.append(likelihood)
    assert (np.diff(likelihoods, axis=0) > -1e-9).all()
    assert (likelihoods[-1] > likelihoods[0] + 1e-3).all()


def test_density_of_a_mixture_integrates_to_one():
    points = np.random.default_rng(0).normal(size=(400, 1))
    mixture = mixtures.fit_mixture(points, 3, "diag", np.random.default_rng(0))
    line = np.linspace(-8, 8, 20_001)
    integral = np.exp(mixture.density(line[:, None])).sum() * (line[1] - line[0])
    assert integral == pytest.approx(1, abs=1e-4)


def test_one_gaussian_has_the_closed_form_density():
    points = np.random.default_rng(0).normal(size=(500, 3)) @ np.random.default_rng(1).normal(
        size=(3, 3)
    )
    mixture = mixtures.fit_mixture(points, 1, "full", np.random.default_rng(0))
    covariance = np.cov(points.T, bias=True) + mixtures.VARIANCE_FLOOR * np.eye(3)
    expected = multivariate_normal(points.mean(axis=0), covariance).logpdf(points)
    np.testing.assert_allclose(mixture.density(points), expected, rtol=1e-6)


@pytest.mark.parametrize("covariance", ["diag", "tied", "full"])
def test_one_mode_has_the_likelihood_of_a_standard_normal(covariance):
    latents = np.random.default_rng(0).normal(size=(1000, 1, 4)) * [1, 5, 0.1, 3]
    result = mixture_modes(latents, covariance=covariance, components=4, max_modes=2)
    assert result.loglikelihood[:, 0].mean() / 4 == pytest.approx(-1.4189, abs=0.02)


def test_likelihood_of_an_image_is_held_out():
    points = np.random.default_rng(0).normal(size=(60, 2))
    (sweep,), _ = cross_validate_mixtures([points], np.array([1]), "diag", seed=3)
    for train, test in KFold(5, shuffle=True, random_state=3).split(points):
        variance = points[train].var(axis=0) + mixtures.VARIANCE_FLOOR
        gaussian = multivariate_normal(points[train].mean(axis=0), np.diag(variance))
        np.testing.assert_allclose(sweep.likelihood[test, 0], gaussian.logpdf(points[test]))


def test_gain_has_a_paired_standard_error():
    result = mixture_modes(mixture(2, seed=0, n=200)[0], **QUICK)
    difference = result.loglikelihood[:, 1] - result.loglikelihood[:, 0]
    assert result.gain[0] == 0
    assert result.gain[1] == pytest.approx(difference.mean())
    assert result.gain_error[1] == pytest.approx(difference.std(ddof=1) / np.sqrt(200))


def test_scale_and_offset_of_latents_do_not_matter():
    latents = mixture(2, seed=0, n=200)[0]
    a, b = mixture_modes(latents, **QUICK), mixture_modes(100 * latents + 7, **QUICK)
    np.testing.assert_allclose(a.loglikelihood, b.loglikelihood, rtol=1e-4)


def test_surrogate_has_the_covariance_of_the_latents():
    rows = np.random.default_rng(0).exponential(size=(4000, 3)) @ [[1, 2, 0], [0, 1, 0], [0, 0, 3]]
    sample = gaussian_surrogate(rows, seed=1)
    np.testing.assert_allclose(np.cov(sample.T), np.cov(rows.T), atol=0.6)
    assert abs((sample / sample.std(axis=0)) ** 3).mean() == pytest.approx(
        np.sqrt(8 / np.pi), rel=0.05
    )


def test_untrained_encoder_is_drawn_and_compared():
    latents, other = mixture(3, 0, n=300)[0], np.random.default_rng(0).normal(size=(300, 4, 4))
    alike = mixture_modes(latents, untrained_latents=2 * latents, max_modes=5)
    assert alike.untrained_best == 3
    result = mixture_modes(latents, untrained_latents=other, max_modes=5)
    assert result.untrained_best == 1
    assert len(alike.warnings) == len(result.warnings) + 1
    assert len(result.figure().data) == len(mixture_modes(latents, max_modes=5).figure().data) + 1
    with pytest.raises(UserError) as error:
        mixture_modes(latents, untrained_latents=other[:299], max_modes=5)
    assert "299" in str(error.value)


def test_paper_preset_keeps_nine_tenths_of_the_variance():
    rows = np.random.default_rng(0).normal(size=(400, 10)) * [10, 9, 8, 1, 1, 1, 1, 1, 1, 1]
    points, explained = reduce_dimensions(rows, "paper text", 2, seed=0)
    assert points.shape == (400, 3)
    assert explained > 0.9
    np.testing.assert_allclose(points.std(axis=0), 1, rtol=0.01)
    result = mixture_modes(rows[:, None], preset="paper text", covariance="full", max_modes=2)
    assert result.basis == "3 principal components (97 % of the variance)"
    assert result.covariance == "diag"


def test_gallery_has_one_row_per_mode():
    latents, labels = mixture(2, seed=0, n=100)
    shade = (100 * labels + 50).astype(np.uint8)
    result = mixture_modes(
        latents, images=np.tile(shade[:, None, None, None], (1, 4, 4, 1)), **QUICK
    )
    assert result.best == 2
    first, second = np.split(result.gallery.nearest, 2)
    assert {len(np.unique(x[x[..., 3] > 0][:, 0])) for x in (first, second)} == {1}
    assert len([trace for trace in result.figure().data if trace.type == "image"]) == 2


def test_gallery_shows_the_densest_images_first():
    shade = np.arange(10, dtype=np.uint8)
    density = np.array([0, 5, 1, 9, 2, 8, 3, 7, 4, 6])
    images = np.tile(shade[:, None, None, None], (1, 64, 64, 1))
    gallery = mode_gallery(images, np.arange(10), np.zeros(10, int), density, seed=0)
    assert gallery.nearest[0, ::70, 0].tolist() == [3, 5, 7, 9, 1, 8]
    assert sorted(gallery.random[0, ::70, 0].tolist()) == [0, 2, 4, 6]


def test_warns_at_the_edge_of_the_grid():
    result = mixture_modes(mixture(5, seed=0, n=120)[0], components=2, max_modes=3)
    assert result.range_text == "3 or more modes"
    variance, edge = result.warnings[:2]
    assert f"{100 * result.explained:.0f} %" in variance
    assert " 3," in edge


def test_warns_if_half_of_the_images_show_fewer_modes():
    result = mixture_modes(mixture(5, 0, n=160)[0], max_modes=6)
    assert result.half_best < result.low
    assert any(f"give {result.half_best}" in warning for warning in result.warnings)


def test_warns_if_planted_modes_are_not_detected():
    few, enough = (
        mixture_modes(mixture(1, 0, n)[0], components=12, max_modes=6) for n in (60, 400)
    )
    assert few.planted_best < 6
    assert any(f"{few.planted_best} are" in warning for warning in few.warnings)
    assert enough.planted_best == 6
    assert not any("separated" in warning for warning in enough.warnings)


def test_components_are_limited_by_the_rank():
    flat = np.zeros((100, 1, 8))
    flat[..., :3] = np.random.default_rng(0).normal(size=(100, 1, 3))
    result = mixture_modes(flat, components=8, max_modes=2)
    assert result.components == 3
    assert any("3 of 8" in warning for warning in result.warnings)


def test_few_images_limit_the_number_of_modes():
    result = mixture_modes(
        np.random.default_rng(0).normal(size=(50, 1, 4)), components=2, max_modes=24
    )
    assert result.modes[-1] == 5
    assert any("5 modes" in warning for warning in result.warnings)


def test_invalid_latents_are_rejected():
    latents = np.random.default_rng(0).normal(size=(60, 2, 2))
    with pytest.raises(NotApplicable, match="50 .* 49"):
        mixture_modes(latents[:49])
    with pytest.raises(NotApplicable):
        mixture_modes(np.ones_like(latents))
    with pytest.raises(UserError, match="3 .* 60"):
        mixture_modes(latents, labels=np.zeros(3, int))
    latents[3] = np.nan
    with pytest.raises(UserError, match="1 of 60"):
        mixture_modes(latents)


def test_sweep_reports_progress_and_can_be_canceled(monkeypatch):
    points = np.random.default_rng(0).normal(size=(60, 2))
    reports: list[tuple[int, int]] = []
    with progress_listener(lambda done, total: reports.append((done, total))):
        cross_validate_mixtures([points], np.array([1, 2]), "diag", 0)
    assert reports == [(i, 6) for i in range(1, 7)]

    def stop(done: int, total: int) -> None:
        reports.append((done, total))
        raise Cancelled("Stopped.")

    reports.clear()
    started: list[int] = []
    fit_sweep = mixtures.fit_sweep

    def counting_sweep(*arguments):
        started.append(1)
        return fit_sweep(*arguments)

    monkeypatch.setattr(mixtures, "fit_sweep", counting_sweep)
    with pytest.raises(Cancelled), progress_listener(stop):
        cross_validate_mixtures([points] * 80, np.array([1, 2, 3]), "diag", 0)
    assert reports == [(1, 401)]
    assert len(started) < 401
    cross_validate_mixtures([points], np.array([1]), "diag", 0)  # without a listener
    assert len(reports) == 1


def test_latents_of_few_modes_need_fewer_gaussians():
    few, many = mixture(3, 0, n=300)[0], mixture(8, 0, n=300)[0]
    result = mode_comparison([evidence("few", few), evidence("many", many)], max_modes=8)
    worst = result.likelihood.mean(axis=1).min(axis=1).max()
    assert result.target == worst
    for run, needed in zip(result.likelihood.mean(axis=1), result.needed, strict=True):
        assert needed == next(k for k, nats in zip(result.modes, run, strict=True) if nats <= worst)
    assert result.needed[0] < result.needed[1]
    assert min(result.explained) > 0.9
    assert result.needed_by_split.shape == (2, 5)


def test_comparison_excludes_runs_of_other_images():
    x, y = mixture(2, 0, n=60)[0], mixture(2, 1, n=60)[0]
    result = mode_comparison(
        [evidence("a", x), evidence("b", y), evidence("c", y, "g")], max_modes=2
    )
    assert result.runs == ("a", "b")
    assert result.excluded == ("c",)
    with pytest.raises(NotApplicable):
        mode_comparison([Evidence({"run": "a", "step": 1})])
