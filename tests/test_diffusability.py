"""Measures of latent spaces against closed forms and plain numpy."""

import numpy as np
import pytest

from workbench.analysis.learnability.comparison import diffusability
from workbench.analysis.learnability.flow_loss import FlowLoss
from workbench.analysis.learnability.latent_pictures import component_colors, latent_pictures
from workbench.analysis.learnability.neighbor_consistency import neighbor_consistency
from workbench.analysis.learnability.scaled_latents import ScaledLatents
from workbench.analysis.learnability.spatial_structure import spatial_structure
from workbench.analysis.learnability.spectral_energy import spectral_energy
from workbench.analysis.learnability.velocity_spectra import (
    irreducible_variance,
    separable_spectrum,
)
from workbench.analysis.learnability.velocity_variance import VarianceEstimate, velocity_variance
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence


def white(n: int, tokens: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, tokens, channels))


# Scaling


def test_scaled_latents_have_mean_zero_and_variance_one_by_channel():
    latents = white(50, 6, 3) * [1, 20, 0.1] + [5, -3, 1000]
    latents[..., 2] = 7.0  # a constant channel
    scaled = ScaledLatents.create(latents, purpose="This", min_images=2)
    array = scaled.array()
    np.testing.assert_allclose(array.mean(axis=(0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(array.std(axis=(0, 1)), [1, 1, 0], atol=1e-12)
    free = scaled.centered_by_position().array()
    np.testing.assert_allclose(free.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(free.std(axis=(0, 1)), [1, 1, 0], atol=1e-12)


def test_blocks_are_the_array_and_active_tokens_give_a_shared_prefix(monkeypatch):
    from workbench.analysis.learnability import scaled_latents

    latents = white(30, 6, 2).astype(np.float32)
    active = np.tile(np.arange(6) < 4, (30, 1))
    active[:1] = False  # one image of 30 is short
    monkeypatch.setattr(scaled_latents, "MAX_BLOCK_VALUES", 50)
    scaled = ScaledLatents.create(latents, active, purpose="This", min_images=2)
    assert (len(scaled), scaled.tokens) == (29, 4)
    np.testing.assert_array_equal(np.concatenate(list(scaled.blocks())), scaled.array())
    with pytest.raises(NotApplicable):
        ScaledLatents.create(latents, np.arange(6) < np.ones((30, 1)), purpose="T", min_images=2)


# Neighbor consistency


def test_separated_classes_are_consistent_and_shuffled_labels_reach_the_null():
    labels = np.repeat(np.arange(4), 50)
    centers = 9 * np.eye(4)[labels][:, None]
    latents = white(200, 3, 4) + centers
    assert neighbor_consistency(latents, labels)["mean token"].value > 0.99
    shuffled = np.random.default_rng(0).permutation(labels)
    null = neighbor_consistency(white(200, 3, 4), shuffled)
    assert null.null == pytest.approx(49 / 199)
    assert null["all tokens"].value == pytest.approx(49 / 199, abs=0.05)


def test_neighbor_consistency_equals_a_full_search():
    labels = np.random.default_rng(1).integers(0, 3, 300)
    latents = white(300, 4, 3) + 0.5 * labels[:, None, None]
    rows = (latents - latents.mean(axis=(0, 1))) / latents.std(axis=(0, 1))
    for name, points in (("mean token", rows.mean(axis=1)), ("all tokens", rows.reshape(300, -1))):
        points = points - points.mean(axis=0)
        units = points / np.linalg.norm(points, axis=1, keepdims=True)
        cosine = units @ units.T
        np.fill_diagonal(cosine, -2)
        nearest = np.argsort(-cosine, axis=1)[:, :5]
        expected = (labels[nearest] == labels[:, None]).mean()
        assert neighbor_consistency(latents, labels)[name].value == pytest.approx(expected)


def test_neighbor_consistency_refuses_classes_without_neighbors():
    latents = white(30, 2, 2)
    with pytest.raises(NotApplicable):
        neighbor_consistency(latents, np.arange(30))
    with pytest.raises(NotApplicable):
        neighbor_consistency(latents, np.zeros(30, int))
    with pytest.raises(NotApplicable):
        neighbor_consistency(latents, None)
    latents[3] = np.nan
    with pytest.raises(UserError):
        neighbor_consistency(latents, np.arange(30) % 2)


# Velocity variance


def autoregressive(n: int, side: int, channels: int, r: float, seed: int = 0) -> np.ndarray:
    """Fields with the correlation r^(|dx| + |dy|), and independent channels."""
    distance = np.abs(np.subtract.outer(np.arange(side), np.arange(side)))
    root = np.linalg.cholesky(r**distance)
    noise = np.random.default_rng(seed).normal(size=(n, channels, side, side))
    field = root @ noise @ root.T
    return field.transpose(0, 2, 3, 1).reshape(n, side * side, channels)


def test_velocity_variance_of_white_noise_and_rank():
    result = velocity_variance(white(4000, 4, 4))
    assert result.control_limits() == {"max_images": 4000}
    assert result.label_free.value == pytest.approx(1.571, abs=0.02)
    basis = np.linalg.qr(white(1, 16, 16)[0])[0][:, :4]  # rank 4 in 16 numbers
    latents = (np.random.default_rng(0).normal(size=(4000, 4)) @ basis.T).reshape(-1, 4, 4)
    scaled = latents / latents.std(axis=(0, 1))
    roots = np.sqrt(np.linalg.eigvalsh(np.cov(scaled.reshape(4000, 16).T)).clip(0))
    estimate = velocity_variance(latents).get("label-free, full")
    assert estimate.value == pytest.approx(np.pi / 2 * roots.mean(), rel=1e-6)
    assert estimate.value == pytest.approx(np.pi / 2 * np.sqrt(4 / 16), rel=0.1)


def test_velocity_variance_of_an_autoregressive_field():
    # The notation r^|dx| r^|dy|: eigenvalues are products of those of the two directions.
    line = np.linalg.eigvalsh(0.7 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8))))
    expected = np.pi / 2 * np.sqrt(np.outer(line, line)).mean()
    result = velocity_variance(autoregressive(1500, 8, 2, 0.7))
    for estimate in result.estimates:
        assert estimate.value == pytest.approx(expected, rel=0.04)
    assert [estimate.covariance for estimate in result.estimates] == ["separable", "full"]


def test_separated_classes_and_their_shares():
    labels = np.random.default_rng(0).integers(0, 4, 4000)
    centers = white(4, 4, 4, seed=1)
    latents = white(4000, 4, 4) + centers[labels]
    result = velocity_variance(latents, labels)
    total = latents - latents.mean(axis=(0, 1))
    factor = 1 / total.std(axis=(0, 1))
    # Within classes the latents are white: l = factor^2.
    for name in ("by class", "pooled"):
        assert result.get(name).value == pytest.approx(np.pi / 2 * factor.mean(), rel=0.02)
    assert result.entanglement == pytest.approx(1, abs=0.02)
    scaled = total * factor
    position = scaled.mean(axis=0)
    means = np.array([scaled[labels == k].mean(axis=0) for k in range(4)])[labels]
    shares = result.shares
    assert shares.position == pytest.approx(np.square(position).mean())
    assert shares.class_ == pytest.approx(np.square(means - position).mean())
    assert shares.position + shares.class_ + shares.within == pytest.approx(1)
    shuffled = velocity_variance(latents, np.random.default_rng(1).permutation(labels)).shares
    assert shuffled.class_ == pytest.approx(shuffled.class_null, rel=0.5)
    assert shuffled.class_null == pytest.approx((1 - shuffled.position) * 3 / 3999)


def test_position_means_lower_the_variance_and_are_removed():
    latents = white(2000, 4, 3)
    shifted = latents + 2 * white(1, 4, 3, seed=5)
    kept, free = velocity_variance(shifted), velocity_variance(shifted, center_positions=True)
    assert kept.label_free.value < 0.8 * free.label_free.value
    assert free.label_free.value == pytest.approx(np.pi / 2, rel=0.03)
    assert free.shares.position == pytest.approx(0, abs=1e-12)


def test_separable_covariance_of_rotated_numbers_is_entangled():
    labels = np.arange(3000) % 2
    tokens = np.diag([3, 1, 0.3, 0.1])
    separable = np.einsum("st,ntc->nsc", tokens, white(3000, 4, 4))
    rotation = np.linalg.qr(white(1, 16, 16)[0])[0]
    rotated = (separable.reshape(-1, 16) @ rotation).reshape(separable.shape)
    assert velocity_variance(separable, labels).entanglement == pytest.approx(1, abs=0.02)
    assert velocity_variance(rotated, labels).entanglement > 1.2


def test_interval_is_the_scatter_between_samples():
    fields = [autoregressive(800, 4, 2, 0.7, seed) for seed in range(12)]
    results = [velocity_variance(field) for field in fields]
    for name in ("label-free", "label-free, full"):
        spectra = [result.get(name).spectrum for result in results]
        scatter = np.std([spectrum.variance_per_dimension for spectrum in spectra], ddof=1)
        errors = np.mean([np.pi / 2 * spectrum.error for spectrum in spectra])
        assert errors == pytest.approx(scatter, rel=0.6)


def test_irreducible_variance_integrates_to_the_root():
    times = (np.arange(20_000) + 0.5) / 20_000
    for value, integral in ((0.04, 0.3142), (0.25, 0.7854), (1, 1.5708), (4, 3.1416)):
        curve = irreducible_variance(np.array([value]), times)
        assert curve.mean() == pytest.approx(integral, abs=2e-4)
        assert times[curve.argmax()] == pytest.approx(value / (1 + value), abs=1e-3)


def test_loss_of_a_linear_flow_is_the_curve_at_its_own_scale():
    latents = (white(3000, 2, 2) * [1, 3] + 1).astype(np.float32)
    times = np.array([0.75, 0.25], np.float32)
    std = 2.0
    eigenvalues = np.array([1, 9, 1, 9]) / std**2
    expected = [np.mean(eigenvalues / (t**2 + (1 - t) ** 2 * eigenvalues)) for t in (0.25, 0.75)]
    tokenizer = Evidence({"run": "a", "step": 1}, latents=latents)
    flow = Evidence(
        {
            "run": "flow",
            "step": 1,
            "tokenizer": {"run": "../a", "step": 1},
            "settings": {"mean": 1.0, "std": std},
        },
        loss_times=times,
        loss_by_time=np.array([1.0, 2.0], np.float32),
    )
    result = velocity_variance(latents, evidences=[tokenizer, flow])
    np.testing.assert_allclose(result.flow.irreducible, expected, rtol=0.03)
    assert result.flow.loss.tolist() == [2.0, 1.0]
    other = Evidence({**flow.provenance, "tokenizer": {"run": "../b"}}, **flow.arrays())
    assert velocity_variance(latents, evidences=[tokenizer, other]).flow is None


def flow_of(latents: np.ndarray, labels: np.ndarray, loss: float) -> FlowLoss | None:
    """Return the comparison of a flow with the covariance of its latents, at their own scale."""
    tokenizer = Evidence({"run": "a", "step": 1}, latents=latents)
    flow = Evidence(
        {
            "run": "flow",
            "step": 1,
            "tokenizer": {"run": "../a", "step": 1},
            "settings": {"mean": 0.0, "std": 1.0},
        },
        loss_times=np.linspace(0, 1, 51, dtype=np.float32),
        loss_by_time=np.full(51, loss, np.float32),
    )
    return velocity_variance(latents, labels, evidences=[tokenizer, flow]).flow


def test_separable_covariance_is_no_bound_of_a_flow():
    """A rotation of all numbers of an image makes it far too high; nothing is concluded from it."""
    rotation = np.linalg.qr(white(1, 64, 64)[0])[0]
    eigenvalues = 1 / np.arange(1, 65) ** 2
    flat = white(600, 64, 1)[..., 0] * np.sqrt(eigenvalues) @ rotation
    entangled = flat.reshape(600, 8, 8) / flat.std()
    linear = np.pi / 2 * np.sqrt(eigenvalues / eigenvalues.mean()).mean()
    few = flow_of(entangled, np.zeros(600, int), loss=1.1 * linear)
    assert few.covariance == "separable" and few.bound > 1.2 * linear
    enough = flow_of(np.tile(entangled, (2, 1, 1)), np.zeros(1200, int), loss=1.1 * linear)
    assert enough.covariance == "full" and enough.bound < 1.05 * linear
    assert few.bound_name != enough.bound_name and few.sentence() != enough.sentence()


@pytest.mark.parametrize("num_classes", [1, 100])
def test_means_of_classes_take_degrees_of_freedom(num_classes):
    labels = np.sort(np.arange(400) % num_classes)
    flow = flow_of(white(400, 16, 8), labels, loss=np.pi / 2)
    assert flow.covariance == "separable"
    assert flow.bound == pytest.approx(np.pi / 2, rel=0.03)
    assert flow_of(white(400, 16, 8), np.arange(400), loss=1.0) is None


@pytest.mark.parametrize(
    ("tokens", "channels", "enough"),
    [(16, 16, 12), (64, 4, 192), (4, 16, 48), (8, 8, 12), (2, 4, 24)],
)
def test_estimate_by_class_needs_enough_images_for_its_shape(tokens, channels, enough):
    """White noise is then about 3 % too low, as a mean over draws."""

    def by_class(num_images: int, seed: int = 0) -> VarianceEstimate | None:
        labels = np.repeat(np.arange(8), num_images)
        return velocity_variance(white(8 * num_images, tokens, channels, seed), labels).get(
            "by class"
        )

    assert by_class(enough - 1) is None
    values = [by_class(enough, seed).value for seed in range(5)]
    assert 0.965 < np.mean(values) / (np.pi / 2) < 1


def test_estimate_by_class_counts_only_images_that_are_used():
    """One channel of 64 tokens needs 768 images of a class, of which only 500 are used."""
    result = velocity_variance(white(1300, 64, 1), np.arange(1300) % 2)
    assert result.get("by class") is None and not len(result.class_curve)


def test_separable_bias_of_white_noise_is_small():
    residuals = white(100, 64, 4)
    spectrum = separable_spectrum(residuals - residuals.mean(axis=0))
    assert spectrum.variance_per_dimension / (np.pi / 2) == pytest.approx(0.978, abs=0.01)


# Spatial structure


@pytest.mark.parametrize(
    ("r", "side", "lds", "cds"),
    [(0.5, 4, 0.354, 0.25), (0.7, 8, 0.344, 0.153), (0.9, 4, 0.173, 0.09), (0.9, 8, 0.277, 0.081)],
)
def test_structure_of_autoregressive_fields(r, side, lds, cds):
    # With many channels the cosine of two tokens is their correlation.
    structure = spatial_structure(autoregressive(40, side, 200, r), (side, side))["raw"]
    assert structure.lds.value == pytest.approx(lds, abs=0.01)
    assert structure.cds.value == pytest.approx(cds, abs=0.01)


def test_nulls_are_the_values_of_white_noise():
    table = spatial_structure(white(2000, 16, 8), (4, 4)).table().dropna(subset=["null"])
    assert len(table) == 9
    np.testing.assert_allclose(table["value"], table["null"], atol=5e-3)


def test_structure_equals_that_of_all_pairs():
    latents = autoregressive(20, 5, 3, 0.6) + white(1, 25, 3, seed=3)
    scaled = (latents - latents.mean(axis=(0, 1))) / latents.std(axis=(0, 1))
    free = latents - latents.mean(axis=0)
    variants = {
        "raw": scaled,
        "without position means": free / free.std(axis=(0, 1)),
        "without image means": scaled - scaled.mean(axis=1, keepdims=True),
    }
    cells = np.array([(row, column) for row in range(5) for column in range(5)])
    distance = np.abs(cells[:, None] - cells).sum(axis=2)
    result = spatial_structure(latents, (5, 5))
    for name, tokens in variants.items():
        units = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
        cosine = (units @ units.transpose(0, 2, 1)).mean(axis=0)
        near = (distance > 0) & (distance < 2.5)
        expected = cosine[near].mean() - cosine[distance >= 2.5].mean()
        assert result[name].lds.value == pytest.approx(expected)
        curve = [cosine[distance == d].mean() for d in result.distances]
        np.testing.assert_allclose(result[name].correlogram, curve)
        spread = np.sqrt(np.square(units - units.mean(axis=1, keepdims=True)).sum(2).mean(1))
        assert result[name].rmsc.value == pytest.approx(spread.mean())


def test_white_noise_has_no_spatial_structure():
    structure = spatial_structure(white(300, 64, 16), (8, 8))["raw"]
    assert structure.lds.value == pytest.approx(0, abs=0.003)
    assert structure.rmsc.value == pytest.approx(0.992, abs=0.001)


def test_structure_without_a_usable_grid_is_the_spread_alone():
    for grid in (None, (2, 8), (1, 16)):
        result = spatial_structure(white(30, 16, 3), grid)
        assert result.missing
        assert np.isnan(result["raw"].lds.value)
        assert result["raw"].rmsc.value == pytest.approx(0.968, abs=0.02)
    with pytest.raises(UserError):
        spatial_structure(white(30, 16, 3), (4, 5))
    with pytest.raises(NotApplicable):
        spatial_structure(white(30, 1, 3))


# Spectral energy


@pytest.mark.parametrize(
    ("r", "side", "quarter", "half"),
    [(0.5, 4, 0.477, 0.102), (0.5, 8, 0.498, 0.124), (0.9, 8, 0.082, 0.0053)],
)
def test_energy_of_autoregressive_fields(r, side, quarter, half):
    latents = autoregressive(400, side, 20, r)
    spectrum = spectral_energy(latents, grid=(side, side)).raw
    assert spectrum.high_shares[0, 0] == pytest.approx(quarter, rel=0.03)
    assert spectrum.high_shares[1, 0] == pytest.approx(half, rel=0.03)


def test_energy_of_white_noise_and_a_checkerboard():
    result = spectral_energy(white(500, 16, 8), grid=(4, 4))
    assert result.white_noise.tolist() == [13 / 16, 6 / 16]
    np.testing.assert_allclose(result.raw.high_shares[:, 0], result.white_noise, atol=0.02)
    assert result.raw.slope[0] == pytest.approx(0, abs=0.05)
    checkerboard = (-1) ** np.add.outer(np.arange(4), np.arange(4)).reshape(1, 16, 1)
    board = spectral_energy(checkerboard * white(50, 1, 1), grid=(4, 4)).raw
    # The cosine transform spreads a checkerboard over odd frequencies, all of them high or mixed.
    assert board.high_shares[1, 0] > 0.8


def test_images_that_are_the_latents_have_the_same_spectrum():
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    pooled = images.reshape(60, 4, 2, 4, 2, 3).mean(axis=(2, 4)).reshape(60, 16, 3)
    result = spectral_energy(pooled, images, (4, 4))
    np.testing.assert_allclose(result.spectra[2].energy, result.centered.energy)
    slope = next(p for p in result.perspectives() if p.name == "slope excess")
    assert slope.value == pytest.approx(0)
    assert spectral_energy(pooled, images[:, :6], (4, 4)).note


@pytest.mark.parametrize("grid", [None, (2, 8), (1, 16)])
def test_energy_needs_a_square_grid(grid):
    with pytest.raises(NotApplicable):
        spectral_energy(white(30, 16, 3), grid=grid)


# Pictures


def test_pictures_show_the_components_of_the_tokens():
    random = np.random.default_rng(0)
    latents = np.zeros((40, 16, 5))
    latents[..., :2] = random.normal(size=(40, 16, 2))  # two channels vary
    images = random.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    result = latent_pictures(latents, images, (4, 4), count=3)
    assert result.explained == pytest.approx(1)
    scaled = ScaledLatents.create(latents, purpose="This", min_images=2)
    colors, _ = component_colors(scaled, np.arange(40))
    assert not colors[..., 2].any()  # there is no third component
    values = scaled.array()[..., :2]
    axes = np.linalg.eigh(np.einsum("nsc,nsd->cd", values, values))[1]
    for i in range(2):
        correlation = np.corrcoef(colors[..., i].ravel(), (values @ axes[:, 1 - i]).ravel())[0, 1]
        assert abs(correlation) > 0.98
    with pytest.raises(NotApplicable):
        latent_pictures(latents, images)
    unlabeled = velocity_variance(latents)
    assert unlabeled.constant_channels == 3
    assert any("no labels" in note for note in unlabeled.notes)


# Comparison


def run(name: str, latents: np.ndarray, grid: tuple[int, int] | None, **details) -> Evidence:
    labels = np.arange(len(latents)) % 4
    provenance = {"run": name, "step": 1, "fingerprint": "f", "grid": grid} | details
    return Evidence(provenance, latents=latents.astype(np.float32), labels=labels)


def test_comparison_grays_what_is_not_comparable_and_marks_the_best():
    smooth = autoregressive(600, 4, 3, 0.9)
    evidences = [
        run("white", white(600, 16, 3), (4, 4)),
        run("smooth", smooth, (4, 4)),
        run("tokens", smooth, None),
        run("wide", white(600, 16, 4), (4, 4)),
        run("others", smooth, (4, 4), fingerprint="g"),
        Evidence({"run": "flow", "step": 1}, loss_by_time=np.ones(2, np.float32)),
    ]
    result = diffusability(evidences)
    assert result.runs == ("white", "smooth", "tokens", "wide", "others")
    columns = {column.name: column for column in result.columns}
    viv = columns["VIV"]
    assert [cell.is_comparable for cell in viv.cells] == [True, True, True, False, False]
    assert viv.better == "lower"
    assert viv.best == ""  # two runs have the same latents
    assert "dimensions per image: 64, not 48" in viv.cells[3].reason
    assert "images measured" in viv.cells[4].reason
    missing = [cell.is_missing for cell in columns["LDS"].cells]
    assert missing == [False, False, True, False, False]
    assert "1-D" in columns["LDS"].cells[2].reason
    first_two = {column.name: column for column in diffusability(evidences[:2]).columns}
    assert first_two["VIV"].best == "smooth"
    assert first_two["LDS"].best == ""  # without a direction there is no best run
    with pytest.raises(NotApplicable):
        diffusability(evidences[-1:])


def test_comparison_states_why_a_variance_is_missing():
    evidences = [run("square", white(200, 16, 16), (4, 4)), run("long", white(200, 64, 4), (8, 8))]
    columns = {column.name: column for column in diffusability(evidences).columns}
    square, long = columns["VIV"].cells
    assert not square.is_missing and long.is_missing
    assert "192" in long.reason  # images of a class


def test_variances_of_different_shapes_are_not_compared():
    """White noise has one variance, but the bias of its estimate depends on the shape."""
    evidences = [run("square", white(800, 16, 16), (4, 4)), run("long", white(800, 64, 4), (8, 8))]
    viv = {column.name: column for column in diffusability(evidences).columns}["VIV"]
    assert [cell.is_missing for cell in viv.cells] == [False, False]
    assert [cell.is_comparable for cell in viv.cells] == [True, False] and viv.best == ""


def test_comparison_states_the_difference_in_reconstruction():
    images = np.random.default_rng(0).integers(40, 200, (40, 8, 8, 1), dtype=np.uint8)
    evidences = []
    for name, error in (("good", 1), ("bad", 10)):  # the PSNR differs by 20 dB
        latents = white(40, 16, 2).astype(np.float32)
        provenance = {"run": name, "step": 1}
        changed = images + np.uint8(error)
        evidences.append(
            Evidence(provenance, images=images, reconstructions=changed, latents=latents)
        )
    result = diffusability(evidences)
    assert result.columns[0].name == "PSNR"
    assert result.psnr_difference == pytest.approx(20)
    assert diffusability(evidences[:1]).psnr_difference == 0
