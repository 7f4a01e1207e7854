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


def test_channels_that_are_constant_up_to_rounding_are_not_filled():
    """Divided by their deviation, the rounding errors of a constant would fill a direction."""
    random = np.random.default_rng(0)
    live = random.normal(size=(300, 8, 8))
    nearly_constant = 3 + 1e-7 * random.normal(size=(300, 8, 8))
    result = latent_geometry(np.concatenate([live, nearly_constant], axis=2), standardize=True)
    alone = latent_geometry(live, standardize=True)
    ratio = result["participation ratio"].value / alone["participation ratio"].value
    assert ratio == pytest.approx(1, abs=0.02)


def test_bounds_of_the_participation_ratio_and_effective_rank():
    ranks = (dispersion.participation_ratio, dispersion.effective_rank, dispersion.half_order_rank)
    for measure in ranks:
        assert measure(np.full(8, 1 / 8)) == pytest.approx(8)
        assert measure(np.eye(8)[0]) == pytest.approx(1)


def test_participation_ratio_of_known_eigenvalues():
    assert dispersion.participation_ratio(np.array([4, 1, 1]) / 6) == pytest.approx(36 / 18)
    assert dispersion.effective_rank(np.array([0.5, 0.25, 0.25])) == pytest.approx(2**1.5)


def test_spectrum_of_a_known_covariance():
    points = normal(20_000, 3) * [2, 1, 1] @ np.linalg.qr(normal(3, 3, seed=1))[0]
    np.testing.assert_allclose(dispersion.spectrum(points), [4 / 6, 1 / 6, 1 / 6], atol=0.01)


def test_exact_density_of_a_gaussian_in_the_plane():
    # The density at its own points is uniform in (0, 1), up to a factor.
    points = normal(200_000, 2)
    density = np.exp(-np.square(points).sum(axis=1) / 2)
    assert dispersion.coefficient_of_variation(density) == pytest.approx(1 / np.sqrt(3), abs=0.003)
    assert dispersion.gini(density) == pytest.approx(1 / 3, abs=0.002)


def test_kernel_density_of_a_gaussian_in_the_plane():
    cv, gini = np.mean(
        [dispersion.density_uniformity(normal(2000, 2, seed=i)) for i in range(3)], axis=0
    )
    assert cv == pytest.approx(0.535, abs=0.02)
    assert gini == pytest.approx(0.309, abs=0.015)


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).exponential(size=60)
    assert dispersion.gini(values) == pytest.approx(
        np.abs(values[:, None] - values).mean() / (2 * values.mean())
    )
    assert dispersion.gini(np.ones(5)) == pytest.approx(0)


def test_distance_to_the_tenth_neighbor():
    points = normal(50, 3)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(
        dispersion.neighbor_distances(points), np.sort(distances, axis=1)[:, 10]
    )


@pytest.mark.parametrize("num_selected", [2, 8, 200, 400])
def test_neighbors_in_a_subset_are_looked_up(num_selected):
    points = normal(400, 3)
    is_selected = np.zeros(400, bool)
    # The first points of 400 have too few neighbors in the table if only a few are selected.
    is_selected[:num_selected] = True
    np.testing.assert_allclose(
        dispersion.NeighborTable(points).distances(is_selected),
        dispersion.neighbor_distances(points[is_selected]),
    )


@pytest.mark.parametrize("d", [1, 4, 32])
def test_gaussian_norm_and_cosine_have_closed_forms(d):
    assert dispersion.gaussian_norm_variation(d) == pytest.approx(chi(d).std() / chi(d).mean())
    points = normal(40_000, d)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosines = np.abs((points[::2] * points[1::2]).sum(axis=1))
    assert dispersion.gaussian_cosine(d) == pytest.approx(cosines.mean(), rel=0.02)


@pytest.mark.parametrize("standardized", [False, True])
def test_gaussian_participation_ratio_of_few_points(standardized):
    samples = [normal(60, 16, seed=i) for i in range(40)]
    if standardized:
        samples = [(x - x.mean(0)) / x.std(0) for x in samples]
    mean = np.mean([dispersion.participation_ratio(dispersion.spectrum(x)) for x in samples])
    expected = dispersion.gaussian_participation_ratio(60, 16, standardized)
    assert expected == pytest.approx(mean, rel=0.01)


# The analysis


def test_gaussian_latents_have_the_gaussian_values():
    result = latent_geometry(normal(400, 16, 8), grid=(4, 4))
    assert len(result.measures) == 8
    for measure in result.measures:
        assert measure.value == pytest.approx(measure.gaussian, rel=0.06, abs=0.01), measure.name
    half, _, second, uniformity = result.perspectives()
    assert (half.value, second.value) == pytest.approx((8, 8), rel=0.02)
    assert uniformity.null == result["10-NN CV"].gaussian
    other = latent_geometry(normal(400, 16, 4)).perspectives()[3]
    assert other.incomparability(uniformity) == "channels: 4, not 8"


def correlated(seed: int) -> np.ndarray:
    """Draw latents with unequal directions and correlated tokens within an image."""
    rotation = np.linalg.qr(normal(8, 8, seed=99))[0]
    tokens = normal(60, 4, 8, seed=seed) + normal(60, 1, 8, seed=seed + 1000)
    return tokens * [3, 2, 1.5, 1, 1, 0.5, 0.3, 0.2] @ rotation


def interval_calibration(draw, name: str) -> float:
    """Return the mean standard error over the deviation among 25 independent sets of images."""
    measures = [latent_geometry(draw(seed))[name] for seed in range(25)]
    return (
        np.mean([m.high - m.value for m in measures])
        / 1.96
        / np.std([m.value for m in measures], ddof=1)
    )


@pytest.mark.parametrize("name", ["participation ratio", "top share", "norm CV", "10-NN CV"])
def test_intervals_match_the_scatter_over_images(name):
    assert 0.75 < interval_calibration(correlated, name) < 1.6


def test_interval_is_conservative_for_isotropic_latents():
    assert (
        1.2
        < interval_calibration(lambda seed: normal(60, 4, 8, seed=seed), "participation ratio")
        < 2.5
    )


def test_channels_are_standardized_by_default():
    latents = normal(500, 4, 3) * [2, 1, 1]
    assert latent_geometry(latents)["participation ratio"].value == pytest.approx(3, abs=0.05)
    raw = latent_geometry(latents, standardize=False)
    assert raw["participation ratio"].value == pytest.approx(2, abs=0.05)
    assert raw["top share"].value == pytest.approx(4 / 6, abs=0.02)


def test_latents_in_a_plane_fill_two_directions():
    latents = normal(300, 4, 2) @ normal(2, 6, seed=1)
    assert latent_geometry(latents)["participation ratio"].value <= 2
    assert latent_geometry(latents).dimensions == 6


def test_equal_tokens_have_cosine_one():
    latents = np.repeat(normal(50, 1, 4), 6, axis=1)
    result = latent_geometry(latents, grid=(2, 3))
    assert result["token |cosine|"].value == pytest.approx(1)
    assert result["neighbor cosine"].value == pytest.approx(1)


def test_cosines_equal_those_of_explicit_loops():
    latents = normal(12, 6, 3)
    result = latent_geometry(latents, grid=(2, 3), standardize=False)
    centered = latents - latents.mean(axis=(0, 1))
    pairs = [(i, j) for i in range(6) for j in range(6)]
    distance = {(i, j): abs(i // 3 - j // 3) + abs(i % 3 - j % 3) for i, j in pairs}
    all_cosines, neighbor_cosines = [], []
    for tokens in centered:
        cosine = cosine_similarity(tokens)
        all_cosines.append(np.mean([abs(cosine[p]) for p in pairs if distance[p] > 0]))
        neighbor_cosines.append(np.mean([cosine[p] for p in pairs if distance[p] == 1]))
    assert result["token |cosine|"].value == pytest.approx(np.mean(all_cosines))
    assert result["neighbor cosine"].value == pytest.approx(np.mean(neighbor_cosines))


def test_inactive_tokens_are_ignored():
    latents, active = normal(60, 4, 3), np.ones((60, 4), bool)
    active[:, 2:] = False
    latents[:, 2:] = 1e6
    masked, alone = latent_geometry(latents, active=active), latent_geometry(latents[:, :2])
    assert masked.table()["value"].tolist() == alone.table()["value"].tolist()


def test_neighbors_come_from_as_many_images_as_possible():
    # A second token of the same image would be a neighbor at distance 0.
    single = normal(100, 1, 4)
    equal = np.repeat(single, 16, axis=1)
    near = latent_geometry(equal, points=100)["10-NN CV"].value
    assert near == pytest.approx(latent_geometry(single, points=100)["10-NN CV"].value)


def test_one_token_per_image_has_no_cosines():
    names = [measure.name for measure in latent_geometry(normal(40, 1, 3), grid=(1, 1)).measures]
    assert names == [
        "participation ratio",
        "effective rank",
        "effective rank, order ½",
        "top share",
        "norm CV",
        "10-NN CV",
    ]


def test_tsne_measures_are_optional():
    result = latent_geometry(normal(100, 1, 4), tsne=True)
    for name in ("t-SNE density CV", "t-SNE density Gini"):
        assert 0 < result[name].value < 1
        assert result[name].value == pytest.approx(result[name].gaussian, rel=0.5)
    assert result.figure().data


def test_sample_of_many_images_is_measured(monkeypatch):
    monkeypatch.setattr("workbench.analysis.latents.geometry.MAX_LATENT_VALUES", 480)
    result = latent_geometry(normal(100, 4, 3))
    assert (result.images, result.of, result.tokens) == (40, 100, 160)
    assert "n = 40 of 100 images" in result.figure().layout.title.subtitle.text


def test_noise_is_reported_as_psnr_by_level():
    mse = np.full((40, 2), 0.1)
    mse[:, 1] = 0.01
    result = latent_geometry(normal(40, 2, 3), np.array([0.5, 0.1]), mse)
    assert [(x.level, x.psnr) for x in result.noise] == [
        (0.1, pytest.approx(20)),
        (0.5, pytest.approx(10)),
    ]
    assert "20.0 dB" in result.summary() and "10.0 dB" in result.summary()
    assert len(list(result.figure().select_xaxes())) == 3


def test_few_tokens_give_a_warning():
    assert "fewer than 10 each" in latent_geometry(normal(30, 2, 8)).summary()
    assert "fewer than" not in latent_geometry(normal(40, 2, 8)).summary()


def test_constant_channel_is_an_empty_direction():
    latents = normal(200, 4, 3)
    latents[..., 1] = 5
    result = latent_geometry(latents)
    assert result["participation ratio"].value == pytest.approx(2, abs=0.05)
    assert result.shares[-1] == pytest.approx(0, abs=1e-12)


def test_invalid_latents_are_rejected():
    latents = normal(20, 4, 3)
    with pytest.raises(NotApplicable, match="10 .* 1"):
        latent_geometry(latents[:1])
    with pytest.raises(NotApplicable):
        latent_geometry(np.ones_like(latents))
    with pytest.raises(UserError, match="3 × 2 .* 4"):
        latent_geometry(latents, grid=(3, 2))
    with pytest.raises(UserError, match="20 × 2 .* 20 × 3"):
        latent_geometry(latents, np.array([0.1, 0.2]), np.ones((20, 3)))
    active = np.ones((20, 4), bool)
    active[3] = False
    with pytest.raises(UserError, match="1 of 20"):
        latent_geometry(latents, active=active)
    latents[3] = np.nan
    with pytest.raises(UserError, match="1 of 20"):
        latent_geometry(latents)


def test_table_has_the_scale_of_the_latents():
    latents = np.random.default_rng(0).normal([1, -2, 0], [1, 2, 3], (40, 5, 3))
    table = latent_geometry(latents).table().set_index("measure")["value"]
    assert table["mean"] == pytest.approx(latents.mean())
    assert table["std"] == pytest.approx(latents.std())
    assert table["scaling_factor"] == pytest.approx(1 / latents.std())
    for channel in range(3):
        values = latents[..., channel]
        assert table[f"channel_mean, channel {channel}"] == pytest.approx(values.mean())
        assert table[f"channel_std, channel {channel}"] == pytest.approx(values.std())


def test_position_means_are_removed_before_scaling():
    latents = normal(200, 6, 3)
    shifted = latents + 5 * normal(1, 6, 3, seed=1)
    free = latent_geometry(shifted, center_positions=True)
    assert free["token |cosine|"].value == pytest.approx(
        latent_geometry(latents)["token |cosine|"].value, abs=0.01
    )
    assert latent_geometry(shifted)["token |cosine|"].value != pytest.approx(
        free["token |cosine|"].value, abs=0.01
    )
