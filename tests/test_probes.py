import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from workbench.analysis.latents.alignment import teacher_alignment
from workbench.analysis.latents.probes import linear_hits, probes, whole_image_accuracies
from workbench.analysis.stats.rank_correlation import spearman
from workbench.analysis.stats.similarity import (
    linear_cka,
    mapped_cosine,
    pair_cosines,
    pearson,
)
from workbench.core.errors import NotApplicable, UserError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def classes(n: int = 300, distance: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw latents of three classes whose means differ in every token; return them and labels."""
    labels = np.random.default_rng(seed).integers(0, 3, n)
    means = distance * np.eye(3)[labels]
    return means[:, None] + normal(n, 4, 3, seed=seed + 1), labels


def by_name(result) -> dict:
    return {probe.name: probe for probe in result.probes}


# Probes


def test_whole_image_accuracies_equal_those_of_probes():
    latents, labels = normal(120, 4, 3), np.arange(120) % 3
    latents[:, 0, 0] += labels
    accuracies = {probe.name: probe.accuracy for probe in probes(latents, labels, seed=2).probes}
    for method, accuracy in whole_image_accuracies(latents, labels, seed=2).items():
        assert accuracies[f"{method}, whole image"] == accuracy > 1 / 3


def test_separate_classes_are_predicted_by_every_probe():
    result = probes(*classes())
    methods = [probe.name.split(",")[0] for probe in result.probes]
    assert methods == ["nearest neighbors"] * 2 + ["linear"] * 2
    for probe in result.probes:
        assert probe.accuracy > 0.95
        assert probe.shuffled == pytest.approx(1 / 3, abs=0.15)
    assert np.trace(result.confusion) == round(result.probes[-1].accuracy * result.test)


def test_linear_probe_reaches_the_bayes_accuracy():
    # Two unit Gaussians at distance 2: the Bayes accuracy is Phi(1) = 0.841.
    labels = np.random.default_rng(0).integers(0, 2, 3000)
    latents = normal(3000, 1, 2) + 2 * labels[:, None, None] * np.array([1, 0])
    probe = by_name(probes(latents, labels))["linear, whole image"]
    assert probe.accuracy == pytest.approx(0.841, abs=0.025)
    assert probe.low < 0.841 < probe.high


def test_order_of_tokens_needs_whole_images():
    labels = np.random.default_rng(0).integers(0, 2, 300)
    sign = 2 * labels[:, None, None] - 1
    latents = np.concatenate([sign * 3, -sign * 3], axis=1) * np.ones(2) + normal(300, 2, 2)
    accuracy = by_name(probes(latents, labels))
    assert accuracy["linear, whole image"].accuracy > 0.95
    assert accuracy["linear, token mean"].accuracy < 0.7


def test_linear_probe_agrees_with_scikit_learn():
    latents, labels = classes(distance=1.0)
    order = np.random.default_rng(0).permutation(300)
    train, test = order[:210], order[210:]
    x = latents.reshape(300, -1)
    x = (x - x[train].mean(0)) / x[train].std(0)
    scores = [
        LogisticRegression(C=c).fit(x[train], labels[train]).score(x[test], labels[test])
        for c in (0.01, 0.1, 1)
    ]
    accuracy = by_name(probes(latents, labels))["linear, whole image"].accuracy
    assert min(scores) - 0.03 <= accuracy <= max(scores) + 0.03


def test_scale_and_offset_of_latents_do_not_matter():
    latents, labels = classes(distance=1.0)
    moved = latents * [1, 50, 0.1] + 7
    # The mean over tokens is taken before standardization, so it commutes with both.
    assert (
        probes(moved, labels).table()["accuracy"].tolist()
        == probes(latents, labels).table()["accuracy"].tolist()
    )


def test_chance_is_the_most_frequent_class():
    labels = np.array([0] * 80 + [1] * 20)
    result = probes(normal(100, 2, 3), labels)
    assert result.chance == pytest.approx(0.8, abs=0.1)
    assert f"{100 * result.chance:.1f} %" in result.summary()


def test_confusion_counts_every_test_image():
    latents, labels = classes()
    result = probes(latents, labels * 2, ("cat", "", "dog"))
    assert result.classes == ("cat", "dog", "4")
    assert result.confusion.sum() == result.test == 90


def test_invalid_probe_inputs_are_rejected():
    latents, labels = classes(30)
    with pytest.raises(NotApplicable, match="30 .* cat"):
        probes(latents, np.zeros(30, int), ("cat",))
    with pytest.raises(NotApplicable):
        probes(latents, np.arange(30) == np.random.default_rng(0).permutation(30)[-1])
    with pytest.raises(NotApplicable, match="20 .* 1"):
        probes(latents[:1], labels[:1])
    with pytest.raises(NotApplicable):
        probes(np.ones_like(latents), labels)
    with pytest.raises(UserError, match="29 .* 30"):
        probes(latents, labels[:29])
    latents[0] = np.inf
    with pytest.raises(UserError, match="1 of 30"):
        probes(latents, labels)


def wide(n: int = 300, dims: int = 960, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw latents of three classes of which every number has a part."""
    labels = np.random.default_rng(seed).integers(0, 3, n)
    means = normal(3, dims, seed=seed + 5) / 3
    return (means[labels] + normal(n, dims, seed=seed + 1)).reshape(n, 4, -1), labels


def test_probes_use_the_same_images_however_many_dimensions_there_are(monkeypatch):
    few, labels = classes()
    many, _ = wide()
    # A step of 300 images and 3 classes can have 120 dimensions.
    monkeypatch.setattr("workbench.analysis.latents.probes.MAX_STEP_OPERATIONS", 300 * 3 * 120)
    hits = [linear_hits(latents, labels, seed=1) for latents in (few, many)]
    assert [len(hit) for hit in hits] == [90, 90]
    result = probes(many, labels)
    assert (result.train, result.test) == (210, 90) and result.subset is None
    # Latents in as many dimensions as are used are not projected.
    direct = linear_hits(many[:, :, :30], labels)
    monkeypatch.undo()
    np.testing.assert_array_equal(direct, linear_hits(many[:, :, :30], labels))


def test_projected_latents_keep_the_classes_apart(monkeypatch):
    latents, labels = wide()
    whole = whole_image_accuracies(latents, labels)
    monkeypatch.setattr("workbench.analysis.latents.probes.MAX_STEP_OPERATIONS", 300 * 3 * 240)
    projected = whole_image_accuracies(latents, labels)
    # Distances between means of 960 dimensions are kept up to sqrt(2 / 240), about a tenth.
    for method, accuracy in projected.items():
        assert accuracy > 0.9 and abs(accuracy - whole[method]) < 0.1
    # Neither the scale of a dimension nor the size of a block matters.
    scale = np.exp(normal(4, 240, seed=9))
    monkeypatch.setattr("workbench.analysis.latents.probes.MAX_BLOCK_VALUES", 960)
    assert whole_image_accuracies(latents * scale, labels) == projected


def test_invalid_latents_that_would_be_projected_are_rejected(monkeypatch):
    latents, labels = wide()
    monkeypatch.setattr("workbench.analysis.latents.probes.MAX_STEP_OPERATIONS", 300 * 3 * 10)
    latents[[3, 200], 0, 0] = np.nan
    with pytest.raises(UserError, match="2 of 300"):
        probes(latents, labels)
    with pytest.raises(NotApplicable):
        probes(np.full_like(latents, 0.1), labels)


# Similarity


def test_cka_of_rotated_and_scaled_copies_is_one():
    x = normal(50, 4)
    q = np.linalg.qr(normal(4, 4, seed=1))[0]
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ q + 5) == pytest.approx(1)
    assert linear_cka(x, x + 1e8) == pytest.approx(1)


def test_cka_equals_its_formula():
    x, y = normal(60, 4), normal(60, 4) * [1, 1, 1, 9] + normal(60, 4, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(expected)
    assert expected < 0.9


def test_cka_of_independent_rows_is_d_over_n():
    assert linear_cka(normal(2000, 4), normal(2000, 4, seed=1)) == pytest.approx(
        4 / 2000, abs=0.002
    )


def test_cka_with_a_constant_is_zero():
    assert linear_cka(normal(10, 2), np.ones((10, 3))) == 0


def test_mapped_cosine_finds_any_linear_map():
    source = normal(40, 8, 3)
    assert mapped_cosine(source, source @ normal(3, 10, seed=1)).min() > 0.999
    assert abs(mapped_cosine(source, normal(40, 8, 10, seed=2)).mean()) < 0.1


def test_cosines_and_correlations_equal_scipy():
    a, b = pair_cosines(normal(3, 5, 4)), pair_cosines(normal(3, 5, 4, seed=1))
    np.testing.assert_allclose(a[1], cosine_similarity(normal(3, 5, 4)[1])[np.triu_indices(5, 1)])
    np.testing.assert_allclose(
        pearson(a, b), [pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)]
    )
    np.testing.assert_allclose(
        spearman(a.T, b.T), [spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    )


def test_tokens_that_are_not_decoded_have_no_part_in_a_prediction():
    labels = np.arange(400) % 4
    latents = normal(400, 8, 4)
    latents[:, 4:] += 5 * normal(4, 1, 4, seed=1)[labels]
    active = np.broadcast_to(np.arange(8) < 4, (400, 8))
    result = probes(latents, labels, active=active)
    kept = probes(latents[:, :4], labels)
    assert probes(latents, labels).best.accuracy > 0.95
    assert [p.accuracy for p in result.probes] == [p.accuracy for p in kept.probes]
    assert result.best.accuracy < 0.4


# Alignment


def test_alignment_with_equal_features_is_perfect():
    latents = normal(60, 9, 5)
    result = teacher_alignment(latents, latents, "hog", grid=(3, 3))
    expected = {
        "marginal cosine": 1,
        "pairwise difference": 0,
        "pairwise Pearson": 1,
        "pairwise Spearman": 1,
    }
    assert {m.name: round(m.value, 3) for m in result.measures[:4]} == expected
    assert result.by_token
    for name in ("marginal cosine", "pairwise Pearson", "pairwise Spearman"):
        assert abs(result[name].shuffled) < 0.1
    assert result["pairwise difference"].shuffled > 0.4
    assert "HOG" in result.summary() and "marginal cosine 1.000" in result.summary()


def test_constant_features_are_no_alignment():
    # Features that are nearly one vector agree with anything by the cosine without centering.
    features = 10 + normal(100, 9, 6, seed=1)
    result = teacher_alignment(normal(100, 9, 5), features, grid=(3, 3))
    for measure in result.measures[:4]:
        assert measure.value == pytest.approx(measure.shuffled, abs=0.05)
    assert abs(result["marginal cosine"].value) < 0.05


def test_features_of_positions_align_with_any_image():
    # Tokens and features depend on their position only, up to noise. With twelve dimensions for
    # nine positions, a linear map takes the token of each position to its feature.
    latents = normal(1, 9, 12) + 0.1 * normal(80, 9, 12, seed=1)
    features = normal(1, 9, 7, seed=2) + 0.1 * normal(80, 9, 7, seed=3)
    result = teacher_alignment(latents, features, grid=(3, 3))
    assert result["marginal cosine"].value > 0.8
    assert result["marginal cosine"].shuffled == pytest.approx(
        result["marginal cosine"].value, abs=0.02
    )


def test_teacher_of_another_grid_is_compared_by_image():
    latents = normal(100, 4, 5)
    features = np.repeat(latents.mean(axis=1, keepdims=True), 9, axis=1) @ normal(5, 5, seed=1)
    result = teacher_alignment(latents, features)
    assert not result.by_token
    assert result["marginal cosine"].value > 0.99
    assert abs(result["marginal cosine"].shuffled) < 0.3


def test_tokens_without_a_position_are_not_compared_with_patches_of_their_index():
    latents = normal(100, 9, 5)
    result = teacher_alignment(latents, latents[:, ::-1])
    assert not result.by_token and result["marginal cosine"].value > 0.99


def test_interval_of_cka_contains_its_value():
    latents = normal(300, 4, 2)
    result = teacher_alignment(latents, latents @ normal(2, 6, seed=1))
    cka = result["CKA"]
    assert cka.low < cka.value < cka.high
    assert cka.shuffled < 0.05


def test_invalid_alignment_inputs_are_rejected():
    latents, features = normal(30, 4, 3), normal(30, 4, 5, seed=1)
    with pytest.raises(UserError, match="30 .* 29"):
        teacher_alignment(latents, features[:29])
    with pytest.raises(NotApplicable, match="20 .* 1"):
        teacher_alignment(latents[:1], features[:1])
    with pytest.raises(NotApplicable, match="latents"):
        teacher_alignment(np.ones_like(latents), features)
    with pytest.raises(NotApplicable, match="teacher features"):
        teacher_alignment(latents, np.ones_like(features))
    features[2, 1] = np.nan
    with pytest.raises(UserError, match="1 of 30"):
        teacher_alignment(latents, features)


def test_classes_of_one_image_each_are_not_applicable():
    with pytest.raises(NotApplicable):
        probes(normal(150, 4, 8), np.arange(150))
    with pytest.raises(NotApplicable):
        whole_image_accuracies(normal(150, 4, 8), np.arange(150))


def test_large_sets_are_sampled_by_class(monkeypatch):
    monkeypatch.setattr("workbench.analysis.latents.probes.MAX_IMAGES", 60)
    latents, labels = classes(n=300)
    result = probes(latents, labels)
    assert (result.train + result.test, result.of) == (60, 300)
    assert "60 of 300" in result.summary()
    assert result.best.accuracy > 0.8
