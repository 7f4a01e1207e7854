import numpy as np
import pytest
from scipy.stats import chi
from sklearn.metrics.pairwise import cosine_similarity

from workbench.analysis.latents.geometry import latent_geometry
from workbench.analysis.stats import dispersion
from workbench.core.errors import NotApplicable, UserError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# Closed forms


def test_equal_eigenvalues_fill_every_direction_and_a_single_one_fills_one():
    for measure in (dispersion.participation_ratio, dispersion.effective_rank):
        assert measure(np.full(8, 1 / 8)) == pytest.approx(8)
        assert measure(np.eye(8)[0]) == pytest.approx(1)


def test_the_participation_ratio_of_eigenvalues_4_1_1():
    assert dispersion.participation_ratio(np.array([4, 1, 1]) / 6) == pytest.approx(36 / 18)
    assert dispersion.effective_rank(np.array([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)


def test_the_spectrum_is_that_of_the_points_covariance():
    points = normal(20_000, 3) * [2, 1, 1] @ np.linalg.qr(normal(3, 3, seed=1))[0]
    np.testing.assert_allclose(dispersion.spectrum(points), [4 / 6, 1 / 6, 1 / 6], atol=0.01)


def test_the_exact_density_of_a_plane_gaussian_has_variation_one_over_root_three_and_gini_a_third():
    """Its density at its own points is uniform in (0, 1), up to a factor."""
    points = normal(200_000, 2)
    density = np.exp(-np.square(points).sum(axis=1) / 2)
    assert dispersion.coefficient_of_variation(density) == pytest.approx(1 / np.sqrt(3), abs=0.003)
    assert dispersion.gini(density) == pytest.approx(1 / 3, abs=0.002)


def test_a_kernel_estimate_of_it_has_a_little_less():
    cv, gini = np.mean(
        [dispersion.density_uniformity(normal(2000, 2, seed=i)) for i in range(3)], axis=0
    )
    assert cv == pytest.approx(0.535, abs=0.02)
    assert gini == pytest.approx(0.309, abs=0.015)


def test_ginis_coefficient_is_the_mean_difference_over_twice_the_mean():
    values = np.random.default_rng(0).exponential(size=60)
    assert dispersion.gini(values) == pytest.approx(
        np.abs(values[:, None] - values).mean() / (2 * values.mean())
    )
    assert dispersion.gini(np.ones(5)) == pytest.approx(0)


def test_the_distance_to_the_tenth_neighbour_agrees_with_sorting_all_of_them():
    points = normal(50, 3)
    every = np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(dispersion.neighbor_distances(points), np.sort(every, axis=1)[:, 10])


@pytest.mark.parametrize("d", [1, 4, 32])
def test_the_gaussians_norm_and_cosine_are_the_closed_forms(d):
    assert dispersion.gaussian_norm_variation(d) == pytest.approx(chi(d).std() / chi(d).mean())
    points = normal(40_000, d)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = np.abs((points[::2] * points[1::2]).sum(axis=1))
    assert dispersion.gaussian_cosine(d) == pytest.approx(cosines.mean(), rel=0.02)


@pytest.mark.parametrize("standardized", [False, True])
def test_the_gaussians_participation_ratio_is_what_few_points_show(standardized):
    drawn = [normal(60, 16, seed=i) for i in range(40)]
    drawn = [(x - x.mean(0)) / x.std(0) for x in drawn] if standardized else drawn
    found = np.mean([dispersion.participation_ratio(dispersion.spectrum(x)) for x in drawn])
    assert dispersion.gaussian_participation_ratio(60, 16, standardized) == pytest.approx(
        found, rel=0.01
    )


# The analysis


def test_a_gaussian_shows_the_gaussians_values():
    result = latent_geometry(normal(400, 16, 8), grid=(4, 4))
    assert len(result.measures) == 7
    for measure in result.measures:
        assert measure.value == pytest.approx(measure.gaussian, rel=0.06, abs=0.01), measure.name


def correlated(seed: int) -> np.ndarray:
    """Latents as real ones are: unequal directions, and tokens of an image that share something."""
    turn = np.linalg.qr(normal(8, 8, seed=99))[0]
    tokens = normal(60, 4, 8, seed=seed) + normal(60, 1, 8, seed=seed + 1000)
    return tokens * [3, 2, 1.5, 1, 1, 0.5, 0.3, 0.2] @ turn


def widths_over_scatter(draw, name: str) -> float:
    """The mean half width of the interval, in standard errors, over the deviation among 25 fresh sets of images."""
    found = [latent_geometry(draw(seed))[name] for seed in range(25)]
    return (
        np.mean([m.high - m.value for m in found]) / 1.96 / np.std([m.value for m in found], ddof=1)
    )


@pytest.mark.parametrize("name", ["participation ratio", "top share", "norm CV", "10-NN CV"])
def test_the_intervals_are_as_wide_as_the_scatter_over_fresh_images(name):
    assert 0.75 < widths_over_scatter(correlated, name) < 1.6


def test_of_isotropic_latents_whose_ratio_is_near_its_bound_the_interval_is_too_wide():
    assert (
        1.2
        < widths_over_scatter(lambda seed: normal(60, 4, 8, seed=seed), "participation ratio")
        < 2.5
    )


def test_channels_are_standardised_unless_told_otherwise():
    latents = normal(500, 4, 3) * [2, 1, 1]
    assert latent_geometry(latents)["participation ratio"].value == pytest.approx(3, abs=0.05)
    raw = latent_geometry(latents, standardize=False)
    assert raw["participation ratio"].value == pytest.approx(2, abs=0.05)
    assert raw["top share"].value == pytest.approx(4 / 6, abs=0.02)


def test_latents_in_a_plane_fill_two_directions():
    latents = normal(300, 4, 2) @ normal(2, 6, seed=1)
    assert latent_geometry(latents)["participation ratio"].value <= 2
    assert "of 6 directions" in latent_geometry(latents).summary()


def test_equal_tokens_are_wholly_redundant_and_neighbours_alike():
    latents = np.repeat(normal(50, 1, 4), 6, axis=1)
    result = latent_geometry(latents, grid=(2, 3))
    assert result["token |cosine|"].value == pytest.approx(1)
    assert result["neighbour cosine"].value == pytest.approx(1)


def test_redundancy_and_smoothness_agree_with_double_loops():
    latents = normal(12, 6, 3)
    result = latent_geometry(latents, grid=(2, 3), standardize=False)
    centred, alike, near = latents - latents.mean(axis=(0, 1)), [], []
    for tokens in centred:
        cosine = cosine_similarity(tokens)
        places = [(i, j) for i in range(6) for j in range(6)]
        apart = {(i, j): (abs(i // 3 - j // 3), abs(i % 3 - j % 3)) for i, j in places}
        alike.append(np.mean([abs(cosine[p]) for p in places if p[0] != p[1]]))
        near.append(np.mean([cosine[p] for p in places if sum(apart[p]) == 1]))
    assert result["token |cosine|"].value == pytest.approx(np.mean(alike))
    assert result["neighbour cosine"].value == pytest.approx(np.mean(near))


def test_tokens_the_decoder_does_not_look_at_do_not_count():
    latents, active = normal(60, 4, 3), np.ones((60, 4), bool)
    active[:, 2:] = False
    latents[:, 2:] = 1e6
    masked, alone = latent_geometry(latents, active=active), latent_geometry(latents[:, :2])
    assert masked.table()["value"].tolist() == alone.table()["value"].tolist()


def test_neighbours_are_looked_for_among_tokens_of_as_many_images_as_can_be():
    """Of 16 equal tokens an image, a second one would be a neighbour at no distance, and the first ten would be."""
    single = normal(100, 1, 4)
    equal = np.repeat(single, 16, axis=1)
    near = latent_geometry(equal, points=100)["10-NN CV"].value
    assert near == pytest.approx(latent_geometry(single, points=100)["10-NN CV"].value)


def test_one_token_an_image_has_no_redundancy_and_no_neighbours():
    names = latent_geometry(normal(40, 1, 3), grid=(1, 1)).table()["measure"].tolist()
    assert names == ["participation ratio", "effective rank", "top share", "norm CV", "10-NN CV"]


def test_tsne_is_drawn_on_request_and_beside_a_gaussian():
    result = latent_geometry(normal(100, 1, 4), tsne=True)
    for name in ("t-SNE density CV", "t-SNE density Gini"):
        assert 0 < result[name].value < 1
        assert result[name].value == pytest.approx(result[name].gaussian, rel=0.5)
    assert result.figure().data


def test_of_many_numbers_random_images_are_measured_and_that_is_said(monkeypatch):
    monkeypatch.setattr("workbench.analysis.latents.geometry.MOST_NUMBERS", 480)
    result = latent_geometry(normal(100, 4, 3))
    assert (result.images, result.of, result.tokens) == (40, 100, 160)
    assert "n = 40 of 100 images" in result.figure().layout.title.subtitle.text


def test_noise_is_laid_out_as_PSNR_by_level():
    mse = np.full((40, 2), 0.1)
    mse[:, 1] = 0.01
    result = latent_geometry(normal(40, 2, 3), np.array([0.5, 0.1]), mse)
    assert [(x.level, x.psnr) for x in result.noise] == [
        (0.1, pytest.approx(20)),
        (0.5, pytest.approx(10)),
    ]
    assert (
        "PSNR goes from 20.0 dB at noise of 0.1 deviations to 10.0 dB at 0.5." in result.summary()
    )
    assert len(list(result.figure().select_xaxes())) == 3


def test_few_tokens_for_the_dimensions_are_warned_of():
    assert "fewer than 10 for each of 8 dimensions" in latent_geometry(normal(30, 2, 8)).summary()
    assert "fewer" not in latent_geometry(normal(40, 2, 8)).summary()


def test_a_channel_that_never_changes_is_a_direction_not_filled():
    latents = normal(200, 4, 3)
    latents[..., 1] = 5
    result = latent_geometry(latents)
    assert result["participation ratio"].value == pytest.approx(2, abs=0.05)
    assert result.shares[-1] == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_measured_is_refused_in_a_sentence():
    good = normal(20, 4, 3)
    with pytest.raises(
        NotApplicable, match="Latent geometry needs at least 10 images; this evidence has 1"
    ):
        latent_geometry(good[:1])
    with pytest.raises(NotApplicable, match="the same for all 20 images"):
        latent_geometry(np.ones_like(good))
    with pytest.raises(UserError, match="A grid of 3 × 2 does not hold 4 tokens"):
        latent_geometry(good, grid=(3, 2))
    with pytest.raises(UserError, match="The noise errors are 20 × 3; 20 × 2 would be right"):
        latent_geometry(good, np.array([0.1, 0.2]), np.ones((20, 3)))
    idle = np.ones((20, 4), bool)
    idle[3] = False
    with pytest.raises(UserError, match="1 of 20 images have no active token"):
        latent_geometry(good, active=idle)
    good[3] = np.nan
    with pytest.raises(UserError, match="The latents of 1 of 20 images hold NaN"):
        latent_geometry(good)
