import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel

from workbench.analysis.generation.denoising import denoising_loss
from workbench.analysis.generation.feature_distances import (
    frechet_distance,
    kernel_distance,
    nearest,
    precision_recall,
)
from workbench.analysis.generation.fidelity import feature_distance, fidelity
from workbench.analysis.generation.half_sampling import half_samples
from workbench.analysis.generation.memorization import memorization
from workbench.core.errors import NotApplicable, UserError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# Fréchet distance


def test_frechet_distance_matches_scipy_matrix_root():
    a, b = normal(200, 5) @ normal(5, 5, seed=1), normal(150, 5, seed=2) @ normal(5, 5, seed=3) + 1
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * np.real(sqrtm(s @ t)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_translation():
    a = normal(50, 4)
    assert frechet_distance(a, a + [1, 2, 0, 2]) == pytest.approx(9)


def test_frechet_distance_to_itself_is_zero():
    for a in (normal(50, 4), normal(6, 40), np.ones((5, 3))):
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_both_covariance_factors_agree():
    """Padding with zeros switches to the other factorization of the covariance."""
    a, b = normal(20, 6), 2 * normal(20, 6, seed=1)
    padded = (np.pad(x, ((0, 0), (0, 30))) for x in (a, b))
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b))


def test_frechet_distance_of_scaling():
    a = normal(300, 3)
    a -= a.mean(axis=0)
    assert frechet_distance(a, 2 * a) == pytest.approx(np.trace(np.cov(a, rowvar=False)))


def test_frechet_distance_is_invariant_to_rotation():
    a, b = normal(40, 6), normal(40, 6, seed=1) + 0.5
    q = np.linalg.qr(normal(6, 6, seed=2))[0]
    assert frechet_distance(a @ q, b @ q) == pytest.approx(frechet_distance(a, b))


# Kernel distance


def test_kernel_distance_matches_double_loop():
    a, b = normal(40, 3), normal(40, 3, seed=1) + 0.5
    blocks = []
    for start in range(0, 40, 4):
        x, y, total = a[start : start + 4], b[start : start + 4], 0.0
        k = [
            polynomial_kernel(p, q, degree=3, gamma=1 / 3, coef0=1)
            for p, q in ((x, x), (y, y), (x, y))
        ]
        for i in range(4):
            for j in range(4):
                total += 0 if i == j else k[0][i, j] + k[1][i, j] - k[2][i, j] - k[2][j, i]
        blocks.append(total / 12)
    assert kernel_distance(a, b) == pytest.approx(
        (np.mean(blocks), np.std(blocks, ddof=1) / np.sqrt(10))
    )


def test_kernel_distance_of_one_source_is_near_zero():
    results = [
        kernel_distance(normal(200, 4, seed=i), normal(200, 4, seed=i + 50)) for i in range(20)
    ]
    # 2.26 is the 97.5 % quantile of Student's t distribution with 9 degrees of freedom.
    inside = sum(abs(value) < 2.26 * error for value, error in results)
    assert inside >= 17
    assert kernel_distance(normal(40, 3), normal(40, 3)) == (0, 0)


# Precision, recall and the nearest


def test_precision_recall_match_double_loop():
    real, evaluated = normal(30, 2), 0.5 * normal(25, 2, seed=1) + 1

    def covered(rows, centers):
        inside = 0
        for row in rows:
            for center in centers:
                radius = np.sort(cdist([center], centers)[0])[3]
                if np.linalg.norm(row - center) <= radius:
                    inside += 1
                    break
        return inside / len(rows)

    assert precision_recall(real, evaluated) == (covered(evaluated, real), covered(real, evaluated))


def test_precision_recall_of_one_mode_of_two():
    first, second = normal(100, 2), normal(100, 2, seed=1) + 100
    precision, recall = precision_recall(np.concatenate([first, second]), first + 1e-6)
    assert precision == 1
    assert recall == 0.5


def test_nearest_of_copies_has_distance_zero():
    references = normal(50, 8).astype(np.float32) * 1000
    indices, distances = nearest(references[[4, 9]], references)
    assert indices.tolist() == [4, 9]
    assert distances.tolist() == [0, 0]


# Intervals


def test_half_samples_give_standard_error_of_mean():
    values = normal(400)
    error, mean = half_samples(lambda half: values[half].mean(), 400, splits=400)
    assert error == pytest.approx(values.std(ddof=1) / 20, rel=0.1)
    assert mean == pytest.approx(values.mean(), abs=0.01)


def test_interval_matches_variation_over_fresh_images():
    results = [
        fidelity(normal(200, 4, seed=i), None, 1.5 * normal(200, 4, seed=i + 50)) for i in range(20)
    ]
    values, widths = zip(
        *((r.distances[0].value, r.distances[0].high - r.distances[0].value) for r in results),
        strict=True,
    )
    assert np.mean(widths) / 1.96 == pytest.approx(np.std(values, ddof=1), rel=0.4)


def test_extrapolation_removes_most_bias():
    """The true distance is 16 * 0.09 + 16 * 0.3^2 = 2.88."""
    results = [
        fidelity(
            normal(100, 16, seed=i), None, None, None, 1.3 * normal(100, 16, seed=i + 50) + 0.3
        )
        for i in range(20)
    ]
    biased, corrected = (
        np.mean([getattr(r.distances[0], x) for r in results]) for x in ("value", "extrapolated")
    )
    assert biased > 2.88 + 1
    assert corrected == pytest.approx(2.88, abs=0.35)


# The analysis


def test_every_pair_has_a_row():
    held_out, train, decoded, samples, midpoints = (
        normal(60, 3, seed=i) * (i + 1) for i in range(5)
    )
    table = (
        fidelity(held_out, train, decoded, samples, midpoints, "resnet56")
        .table()
        .set_index("distance")
    )
    expected = {
        "floor": (held_out, train),
        "rFD": (held_out, decoded),
        "iFD": (held_out, midpoints),
    }
    expected |= {"gFD": (train, samples), "gap": (decoded, samples)}
    assert table["fd_resnet56"].to_dict() == {
        k: pytest.approx(frechet_distance(*v)) for k, v in expected.items()
    }
    np.testing.assert_allclose(table["low"] + table["high"], 2 * table["fd_resnet56"])


def test_only_inception_is_named_fid():
    inception, hog = (
        fidelity(normal(60, 3), None, normal(60, 3, seed=1), feature_extractor=x)
        for x in ("inception", "hog")
    )
    assert inception.summary().startswith("rFID ")
    assert "fid" in inception.table()
    assert "FID" not in hog.summary() + hog.figure().layout.title.text
    assert "rFD (HOG, n = 60, held-out images)" in hog.summary()
    assert inception.full_name(inception.distances[0]).startswith("rFID (Inception-v3, n = 60,")


def test_missing_sets_are_left_out():
    assert [
        d.name for d in fidelity(None, normal(50, 3), None, normal(50, 3, seed=1)).distances
    ] == ["gFD"]
    assert [d.name for d in fidelity(normal(50, 3), None, normal(50, 3, seed=1)).distances] == [
        "rFD"
    ]


def test_sets_are_cut_to_the_smallest():
    result = fidelity(
        normal(80, 3), normal(200, 3, seed=1), normal(80, 3, seed=2), normal(40, 3, seed=3)
    )
    assert result.n == 40
    assert any("40" in warning and "samples" in warning for warning in result.warnings)


def test_cutting_keeps_images_and_reconstructions_paired():
    """The kernel distance is exactly zero only if row i is compared with row i."""
    features = normal(80, 3)
    result = fidelity(features, normal(40, 3, seed=1), features.copy())
    reconstruction = next(d for d in result.distances if d.name == "rFD")
    assert (reconstruction.kid, reconstruction.value) == (0, pytest.approx(0, abs=1e-9))


def test_warning_for_few_images_per_dimension():
    few = fidelity(normal(50, 30), normal(50, 30, seed=1))
    enough = fidelity(normal(60, 30), normal(60, 30, seed=1))
    assert len(few.warnings) == len(enough.warnings) + 1
    assert any("dimension (30)" in warning for warning in few.warnings)


# Memorization


def test_near_copies_without_memorization_are_one_percent():
    result = memorization(normal(2000, 3), normal(2000, 3, seed=1), normal(500, 3, seed=2))
    assert result.low <= 0.01 <= result.high
    assert result.share < 0.03


def test_copies_are_counted_and_shown_first():
    train, samples = normal(500, 8), normal(100, 8, seed=1)
    samples[:20] = train[30:50]
    images = np.zeros((500, 4, 4, 1), np.uint8)
    images[30] = 200
    result = fidelity(
        normal(500, 8, seed=2), train, None, samples, None, "hog", images[:100], images
    )
    assert 0.2 <= result.memorization.share < 0.24
    assert result.memorization.low > 0.1
    assert result.memorization.training_indices[:20].tolist() == list(range(30, 50))
    assert result.gallery[70 + 20, 20].tolist() == [200, 200, 200, 255]
    assert "% of the samples" in result.summary()


def test_images_that_a_generator_has_not_seen_are_not_its_training_images():
    sets = (normal(100, 4), normal(100, 4, seed=1), None, normal(100, 4, seed=2))
    result = fidelity(*sets, has_training_images=False)
    assert result.memorization is None and fidelity(*sets).memorization is not None
    assert "training images" not in result.summary()


def test_copies_count_if_held_out_images_repeat_training():
    train = normal(100, 3)
    assert memorization(train[:50], train[:20], train).share == 1


# Errors


def test_incomparable_sets_raise():
    good = normal(40, 3)
    with pytest.raises(NotApplicable):
        fidelity(good)
    with pytest.raises(NotApplicable, match="1 "):
        fidelity(good, None, good[:1])
    with pytest.raises(UserError, match="3, .* 2"):
        fidelity(good, good[:, :2])
    with pytest.raises(UserError, match="40 .* 39 "):
        fidelity(good, None, good[:39])
    broken = good.copy()
    broken[[1, 5], 0] = np.nan
    with pytest.raises(UserError, match=r"2 of 40 .*samples"):
        fidelity(good, good, None, broken)


def test_distance_of_constant_features():
    result = fidelity(np.zeros((20, 3)), None, np.ones((20, 3)))
    assert result.distances[0].value == pytest.approx(3)


# Loss by time


def test_denoising_loss_is_sorted_by_time():
    result = denoising_loss(np.array([0.75, 0.25]), np.array([1.0, 3.0]))
    assert result.table()["loss"].tolist() == [3, 1]
    assert (result.mean, result.hardest_time, result.max_loss) == (2, 0.25, 3)
    assert (result.easiest_time, result.min_loss) == (0.75, 1)


def test_invalid_losses_raise():
    with pytest.raises(UserError, match="2 .* 1 "):
        denoising_loss(np.array([0.5]), np.array([1.0, 2.0]))
    with pytest.raises(UserError, match="500"):
        denoising_loss(np.array([1, 500]), np.array([1.0, 2.0]))
    with pytest.raises(UserError):
        denoising_loss(np.array([0.5]), np.array([np.nan]))
    with pytest.raises(NotApplicable):
        denoising_loss(np.array([]), np.array([]))


@pytest.mark.parametrize("n", [200, 120])
def test_feature_distance_matches_fidelity(n):
    random = np.random.default_rng(0)
    features, evaluated = random.normal(size=(200, 6)), random.normal(size=(n, 6)) + 0.5
    distance = (
        fidelity(features=features, midpoint_features=evaluated, splits=10, seed=3)
        .distances[0]
        .value
    )
    assert feature_distance(3, held_out=features, midpoints=evaluated) == distance > 0
