"""FID, KID, IS, CMMD and their statistics, against closed forms and published formulas."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from workbench.analysis.generation.feature_distances import (
    frechet_distance,
    frechet_error,
    gaussian_distance,
    gaussian_kernel_distance,
    inception_score,
    kernel_distance,
)
from workbench.analysis.generation.fidelity import fidelity
from workbench.core.errors import UserError
from workbench.core.moments import Moments
from workbench.storage import adm


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def moments(rows: np.ndarray) -> Moments:
    return Moments.from_rows(rows)


# Moments


def test_moments_of_shards_merge_to_those_of_the_whole():
    rows = 1e4 + normal(5000, 6) @ normal(6, 6, seed=1)
    whole = moments(rows.astype(np.float32))
    shards = [moments(part) for part in np.split(rows.astype(np.float32), [1, 700, 4200])]
    merged = shards[0].merge(shards[1]).merge(shards[2].merge(shards[3]))
    assert merged.count == whole.count == 5000
    exact = rows.astype(np.float32).astype(np.float64)
    for result in (whole, merged):
        np.testing.assert_allclose(result.mean, exact.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(result.covariance, np.cov(exact, rowvar=False), rtol=1e-8)


def test_moments_that_cannot_be_merged_are_refused():
    with pytest.raises(UserError, match="3.*2"):
        moments(normal(9, 3)).merge(moments(normal(9, 2)))
    with pytest.raises(UserError):
        moments(normal(9, 3)).merge(Moments(np.zeros(3), np.eye(3), None))
    with pytest.raises(UserError):
        Moments.from_blocks([])


# Fréchet distance


def test_distance_of_gaussians_in_closed_form():
    """Covariances that commute: |m - n|^2 + sum (sqrt a - sqrt b)^2."""
    q = np.linalg.qr(normal(5, 5))[0]
    a, b = np.array([1.0, 4, 9, 0, 2]), np.array([4.0, 1, 16, 1, 0])
    first = Moments(np.zeros(5), (q * a) @ q.T, None)
    second = Moments(np.full(5, 2.0), (q * b) @ q.T, None)
    expected = 20 + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert gaussian_distance(first, second) == pytest.approx(expected)
    assert gaussian_distance(second, first) == pytest.approx(expected)


def test_distance_equals_the_formulas_of_torch_fidelity_and_pytorch_fid():
    a, b = normal(300, 8) @ normal(8, 8, seed=1), normal(200, 8, seed=2) + 0.3
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    mean_term = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    by_eigenvalues = np.sqrt(np.linalg.eigvals(s @ t).astype(complex)).real.sum()
    torch_fidelity = mean_term + np.trace(s) + np.trace(t) - 2 * by_eigenvalues
    pytorch_fid = mean_term + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real
    assert frechet_distance(a, b) == pytest.approx(torch_fidelity, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(pytorch_fid, rel=1e-9)


def test_statistics_of_another_dimension_are_refused():
    with pytest.raises(UserError, match="3.*2"):
        gaussian_distance(moments(normal(9, 3)), moments(normal(9, 2)))


@pytest.mark.parametrize("kind", ["fixed", "independent", "paired"])
def test_error_matches_variation_over_fresh_images(kind):
    fixed = Moments(np.zeros(4), np.eye(4), None)
    values, errors = [], []
    for seed in range(60):
        real = normal(400, 4, seed=seed)
        noise = normal(400, 4, seed=seed + 500)
        evaluated = 0.8 * real + 0.3 * noise + 0.5 if kind == "paired" else 1.5 * noise + 0.3
        a, b = moments(real), moments(evaluated)
        if kind == "fixed":
            values.append(gaussian_distance(fixed, b))
            errors.append(frechet_error(evaluated, fixed, b))
        else:
            values.append(gaussian_distance(a, b))
            errors.append(frechet_error(evaluated, a, b, real))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_error_without_variance_in_a_direction_is_finite():
    rows = np.pad(normal(50, 3), ((0, 0), (0, 2)))
    assert 0 < frechet_error(2 * rows, moments(rows), moments(2 * rows), rows) < 10


# Kernel distances


def test_kernel_distance_of_independent_sets_is_that_of_torch_fidelity():
    a, b = normal(40, 3), normal(40, 3, seed=1) + 0.5
    values = []
    for start in range(0, 40, 4):
        x, y = a[start : start + 4], b[start : start + 4]
        xx, yy, xy = ((p @ q.T / 3 + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        off_diagonal = xx.sum() + yy.sum() - np.trace(xx) - np.trace(yy)
        values.append(off_diagonal / 12 - 2 * xy.sum() / 16)
    assert kernel_distance(a, b, paired=False)[0] == pytest.approx(np.mean(values))


def test_gaussian_kernel_distance_is_the_published_cmmd():
    """CMMD: embeddings of norm 1, width 10, factor 1000, every pair including equal rows."""
    a, b = normal(1500, 6), normal(30, 6, seed=1) + 1
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))

    def kernel(p, q):
        return np.exp(-np.square(p[:, None] - q[None]).sum(axis=2) / (2 * 10**2)).mean()

    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert gaussian_kernel_distance(a, b)[0] == pytest.approx(expected, rel=1e-6)
    assert gaussian_kernel_distance(a, 3 * a) == pytest.approx((0, 0), abs=1e-9)


# Inception score


def test_inception_score_in_closed_form():
    """Certain and balanced: the number of classes. All images alike: 1."""
    certain = 200 * np.eye(5)[np.arange(1000) % 5]
    score, deviation = inception_score(certain, splits=1)
    assert (score, deviation) == (pytest.approx(5), 0)
    assert inception_score(np.ones((100, 7))) == (pytest.approx(1), pytest.approx(0))


def test_inception_score_equals_the_formula_of_torch_fidelity():
    logits = 3 * normal(203, 12)
    shuffled = logits[np.random.default_rng(4).permutation(203)]
    probabilities = np.exp(shuffled)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scores = []
    for i in range(10):
        part = probabilities[i * 203 // 10 : (i + 1) * 203 // 10]
        divergence = part * (np.log(part) - np.log(part.mean(axis=0)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    expected = (np.mean(scores), np.std(scores))
    assert inception_score(logits, seed=4) == pytest.approx(expected)


# Files of ADM


def test_statistics_survive_a_round_trip(tmp_path):
    statistics = adm.ReferenceStatistics(moments(normal(50, 4)), moments(normal(50, 6, seed=1)))
    adm.write_statistics(tmp_path / "reference.npz", statistics)
    archive = np.load(tmp_path / "reference.npz")
    assert archive["mu"].shape == (4,) and archive["sigma_s"].shape == (6, 6)
    opened = adm.read_statistics(tmp_path / "reference.npz")
    assert opened.features.count == 50
    np.testing.assert_array_equal(opened.features.covariance, statistics.features.covariance)
    np.testing.assert_array_equal(opened.spatial_features.mean, statistics.spatial_features.mean)


def test_statistics_of_other_programs_are_read(tmp_path):
    np.savez(
        tmp_path / "a.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3), activations=np.ones(2)
    )
    opened = adm.read_statistics(tmp_path / "a.npz")
    assert opened.spatial_features is None and opened.features.count is None
    assert opened.features.mean.dtype == np.float64


@pytest.mark.parametrize("compressed", [False, True])
def test_batches_of_images_are_read_in_blocks(tmp_path, compressed):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "batch.npz", pixels, np.arange(10))
    blocks = list(adm.read_images(tmp_path / "batch.npz", block=4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), pixels)


def test_batches_of_images_are_written_for_numpy(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), dtype=np.uint8)
    adm.write_images(tmp_path / "batch.npz", np.split(gray, [3]), gray.shape)
    np.testing.assert_array_equal(np.load(tmp_path / "batch.npz")["arr_0"], np.repeat(gray, 3, 3))


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": np.zeros((2, 4, 4, 3), np.uint8)},
        {"mu": np.zeros(3), "sigma": np.eye(4)},
        {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
        {"mu": np.zeros(3, object), "sigma": np.eye(3)},
    ],
    ids=["images only", "shapes", "nan", "objects"],
)
def test_bad_statistics_end_in_one_sentence(tmp_path, arrays):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=r"bad\.npz"):
        adm.read_statistics(tmp_path / "bad.npz")


def test_damaged_archives_end_in_one_sentence(tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez_compressed(path, normal(20, 4, 4, 3).astype(np.uint8))
    content = path.read_bytes()
    for damaged in (content[:200], content[:100] + b"x" * 50 + content[150:], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged\.npz"):
            list(adm.read_images(path))
    with pytest.raises(UserError, match="missing"):
        adm.read_statistics(tmp_path / "missing.npz")


# The analysis


def test_spatial_features_logits_and_reference_add_rows():
    held_out, decoded = normal(60, 3), normal(60, 3, seed=1) * 2
    logits = 200 * np.eye(4)[np.arange(60) % 4]
    result = fidelity(
        held_out,
        reconstruction_features=decoded,
        feature_extractor="inception",
        spatial_features=held_out[:, :2],
        reconstruction_spatial_features=decoded[:, :2],
        reconstruction_logits=logits,
        reference_mean=np.zeros(3),
        reference_covariance=np.eye(3),
        reference="ADM reference",
        protocol="Inception-v3, weights sha256 6726825d",
    )
    values = {(d.name, d.real): d.value for d in (*result.distances, *result.spatial_distances)}
    reference = Moments(np.zeros(3), np.eye(3), None)
    assert values["rFID", "held-out"] == pytest.approx(frechet_distance(held_out, decoded))
    assert values["rFID", "ADM reference"] == pytest.approx(
        gaussian_distance(reference, moments(decoded))
    )
    assert values["rsFID", "held-out"] == pytest.approx(
        frechet_distance(held_out[:, :2], decoded[:, :2])
    )
    assert result.scores[0].score == inception_score(logits)[0] > 2
    summary = result.summary()
    assert "rFID (Inception-v3, n = 60, ADM reference)" in summary
    assert summary.endswith("Protocol: Inception-v3, weights sha256 6726825d.")
    table = result.table()
    assert len(table) == 3 and set(table["protocol"]) == {result.protocol}


def test_reference_of_another_network_is_refused():
    with pytest.raises(UserError, match="3 and 5 dimensions"):
        fidelity(
            reconstruction_features=normal(60, 5),
            reference_mean=np.zeros(3),
            reference_covariance=np.eye(3),
        )


def test_wide_features_use_influence_functions_and_few_images_are_named(monkeypatch):
    a, b = normal(300, 8), 1.5 * normal(300, 8, seed=1)
    resampled = fidelity(a, reconstruction_features=b).distances[0]
    module = "workbench.analysis.generation.set_comparison"
    monkeypatch.setattr(f"{module}.MAX_RESAMPLED_FEATURES", 4)
    wide = fidelity(a, reconstruction_features=b).distances[0]
    assert wide.value == resampled.value
    assert wide.high - wide.value == pytest.approx(resampled.high - resampled.value, rel=0.4)
    assert wide.extrapolated == pytest.approx(resampled.extrapolated, rel=0.2)
    few = fidelity(normal(40, 60), reconstruction_features=normal(40, 60, seed=1))
    assert any("40" in warning and "60" in warning for warning in few.warnings)


def test_clip_features_have_a_cmmd():
    a, b = normal(50, 4), normal(50, 4, seed=1) + 1
    result = fidelity(a, reconstruction_features=b, feature_extractor="clip:openai/model")
    assert result.distances[0].cmmd == pytest.approx(gaussian_kernel_distance(a, b)[0])
    assert "cmmd" in result.table()
    assert "cmmd" not in fidelity(a, reconstruction_features=b, feature_extractor="hog").table()
