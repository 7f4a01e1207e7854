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


# Frechet distance


def test_the_frechet_distance_agrees_with_scipys_matrix_root():
    a, b = normal(200, 5) @ normal(5, 5, seed=1), normal(150, 5, seed=2) @ normal(5, 5, seed=3) + 1
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * np.real(sqrtm(s @ t)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_a_translation_costs_its_squared_length():
    a = normal(50, 4)
    assert frechet_distance(a, a + [1, 2, 0, 2]) == pytest.approx(9)


def test_a_set_is_at_no_distance_from_itself_also_with_fewer_rows_than_dimensions():
    for a in (normal(50, 4), normal(6, 40), np.ones((5, 3))):
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_both_ways_to_factor_a_covariance_give_one_distance():
    """Padding with dimensions that hold nothing changes which of the two is taken, and nothing else."""
    a, b = normal(20, 6), 2 * normal(20, 6, seed=1)
    padded = (np.pad(x, ((0, 0), (0, 30))) for x in (a, b))
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(a, b))


def test_scaling_by_two_costs_the_trace_of_the_covariance():
    a = normal(300, 3)
    a -= a.mean(axis=0)
    assert frechet_distance(a, 2 * a) == pytest.approx(np.trace(np.cov(a, rowvar=False)))


def test_rotating_both_sets_changes_nothing():
    a, b = normal(40, 6), normal(40, 6, seed=1) + 0.5
    q = np.linalg.qr(normal(6, 6, seed=2))[0]
    assert frechet_distance(a @ q, b @ q) == pytest.approx(frechet_distance(a, b))


# Kernel distance


def test_the_kernel_distance_agrees_with_a_double_loop():
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


def test_the_kernel_distance_of_one_source_is_within_its_error_of_zero_and_of_a_set_from_itself_is_zero():
    found = [
        kernel_distance(normal(200, 4, seed=i), normal(200, 4, seed=i + 50)) for i in range(20)
    ]
    inside = sum(
        abs(value) < 2.26 * error for value, error in found
    )  # Student's t with 9 degrees of freedom, 95 %
    assert inside >= 17
    assert kernel_distance(normal(40, 3), normal(40, 3)) == (0, 0)


# Precision, recall and the nearest


def test_precision_and_recall_agree_with_a_double_loop():
    real, evaluated = normal(30, 2), 0.5 * normal(25, 2, seed=1) + 1

    def covered(rows, centres):
        inside = 0
        for row in rows:
            for centre in centres:
                radius = np.sort(cdist([centre], centres)[0])[3]
                if np.linalg.norm(row - centre) <= radius:
                    inside += 1
                    break
        return inside / len(rows)

    assert precision_recall(real, evaluated) == (covered(evaluated, real), covered(real, evaluated))


def test_one_mode_of_two_has_full_precision_and_half_the_recall():
    one, other = normal(100, 2), normal(100, 2, seed=1) + 100
    precision, recall = precision_recall(np.concatenate([one, other]), one + 1e-6)
    assert precision == 1
    assert recall == 0.5


def test_the_nearest_row_and_the_distance_of_exact_copies():
    others = normal(50, 8).astype(np.float32) * 1000
    places, distances = nearest(others[[4, 9]], others)
    assert places.tolist() == [4, 9]
    assert distances.tolist() == [0, 0]


# Scatter


def test_half_samples_give_the_standard_error_of_a_mean():
    values = normal(400)
    error, mean = half_samples(lambda places: values[places].mean(), 400, splits=400)
    assert error == pytest.approx(values.std(ddof=1) / 20, rel=0.1)
    assert mean == pytest.approx(values.mean(), abs=0.01)


def test_the_interval_is_as_wide_as_the_distances_scatter_over_fresh_images():
    found = [
        fidelity(normal(200, 4, seed=i), None, 1.5 * normal(200, 4, seed=i + 50)) for i in range(20)
    ]
    values, widths = zip(
        *((r.distances[0].value, r.distances[0].high - r.distances[0].value) for r in found),
        strict=True,
    )
    assert np.mean(widths) / 1.96 == pytest.approx(np.std(values, ddof=1), rel=0.4)


def test_the_extrapolation_takes_out_most_of_the_bias_of_few_images():
    """True distance 16 * 0.09 + 16 * 0.3^2 = 2.88; the mean over 20 pairs of sets."""
    found = [
        fidelity(
            normal(100, 16, seed=i), None, None, None, 1.3 * normal(100, 16, seed=i + 50) + 0.3
        )
        for i in range(20)
    ]
    biased, corrected = (
        np.mean([getattr(r.distances[0], x) for r in found]) for x in ("value", "extrapolated")
    )
    assert biased > 2.88 + 1
    assert corrected == pytest.approx(2.88, abs=0.35)


# The analysis


def test_every_pair_has_a_row_and_a_named_distance():
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


def test_only_inception_makes_it_a_FID():
    of_inception, of_hog = (
        fidelity(normal(60, 3), None, normal(60, 3, seed=1), feature_extractor=x)
        for x in ("inception", "hog")
    )
    assert of_inception.summary().startswith("rFID ")
    assert "fid" in of_inception.table()
    assert "FID" not in of_hog.summary() + of_hog.figure().layout.title.text
    assert "fd_hog" in of_hog.summary()


def test_a_generators_run_and_a_tokenizers_need_not_have_what_the_other_has():
    assert [
        d.name for d in fidelity(None, normal(50, 3), None, normal(50, 3, seed=1)).distances
    ] == ["gFD"]
    assert [d.name for d in fidelity(normal(50, 3), None, normal(50, 3, seed=1)).distances] == [
        "rFD"
    ]


def test_all_sets_are_cut_to_the_smallest_and_that_is_said():
    result = fidelity(
        normal(80, 3), normal(200, 3, seed=1), normal(80, 3, seed=2), normal(40, 3, seed=3)
    )
    assert result.n == 40
    assert "All sets are cut to the 40 of samples, the smallest." in result.summary()


def test_cutting_keeps_an_image_beside_its_own_reconstruction():
    """Every block of the kernel distance is exactly zero only where row i meets row i."""
    features = normal(80, 3)
    result = fidelity(features, normal(40, 3, seed=1), features.copy())
    of_reconstructions = next(d for d in result.distances if d.name == "rFD")
    assert (of_reconstructions.kid, of_reconstructions.value) == (0, pytest.approx(0, abs=1e-9))


def test_few_images_for_the_dimensions_are_warned_of():
    assert (
        "fewer than two for each of 30 dimensions"
        in fidelity(normal(50, 30), normal(50, 30, seed=1)).summary()
    )
    assert "dimensions" not in fidelity(normal(60, 30), normal(60, 30, seed=1)).summary()


# Copies


def test_without_copying_about_one_sample_in_a_hundred_is_as_near_as_one_held_out_image_in_a_hundred():
    result = memorization(normal(2000, 3), normal(2000, 3, seed=1), normal(500, 3, seed=2))
    assert result.low <= 0.01 <= result.high
    assert result.share < 0.03


def test_copies_are_found_counted_and_shown_first():
    train, samples = normal(500, 8), normal(100, 8, seed=1)
    samples[:20] = train[30:50]
    images = np.zeros((500, 4, 4, 1), np.uint8)
    images[30] = 200
    result = fidelity(
        normal(500, 8, seed=2), train, None, samples, None, "hog", images[:100], images
    )
    assert 0.2 <= result.copying.share < 0.24
    assert result.copying.low > 0.1
    assert result.copying.places[:20].tolist() == list(range(30, 50))
    assert result.gallery[70 + 20, 20].tolist() == [200, 200, 200, 255]
    assert "% of the samples" in result.summary()


def test_samples_that_repeat_training_images_count_also_where_held_out_images_do():
    train = normal(100, 3)
    assert memorization(train[:50], train[:20], train).share == 1


# Refusals


def test_what_cannot_be_compared_is_refused_in_a_sentence():
    good = normal(40, 3)
    with pytest.raises(NotApplicable, match="features of two sets"):
        fidelity(good)
    with pytest.raises(
        NotApplicable, match="at least 10 images a set; of reconstructions there are 1"
    ):
        fidelity(good, None, good[:1])
    with pytest.raises(UserError, match="held-out 3, training 2.*one feature extractor.*"):
        fidelity(good, good[:, :2])
    with pytest.raises(UserError, match="40 images and 39 reconstructions"):
        fidelity(good, None, good[:39])
    broken = good.copy()
    broken[[1, 5], 0] = np.nan
    with pytest.raises(
        UserError, match=r"The features of 2 of 40 images hold NaN or infinity \(samples\)"
    ):
        fidelity(good, good, None, broken)


def test_features_that_never_change_are_at_a_known_distance():
    result = fidelity(np.zeros((20, 3)), None, np.ones((20, 3)))
    assert result.distances[0].value == pytest.approx(3)


# Loss by time


def test_the_loss_is_laid_out_in_the_order_of_time_with_its_ends():
    result = denoising_loss(np.array([0.75, 0.25]), np.array([1.0, 3.0]))
    assert result.table()["loss"].tolist() == [3, 1]
    assert result.summary() == (
        "The denoising loss is 2 over 2 times: highest at t = 0.25 (3), lowest at t = 0.75 (1); t = 0 is data."
    )


def test_losses_that_fit_no_times_are_refused():
    with pytest.raises(UserError, match="2 losses for 1 times"):
        denoising_loss(np.array([0.5]), np.array([1.0, 2.0]))
    with pytest.raises(UserError, match=r"Times lie in \[0, 1\]; these run from 1 to 500"):
        denoising_loss(np.array([1, 500]), np.array([1.0, 2.0]))
    with pytest.raises(UserError, match="NaN"):
        denoising_loss(np.array([0.5]), np.array([np.nan]))
    with pytest.raises(NotApplicable, match="at least one time"):
        denoising_loss(np.array([]), np.array([]))


@pytest.mark.parametrize("n", [200, 120])
def test_the_distance_alone_is_that_which_fidelity_finds_also_where_one_set_is_smaller(n):
    random = np.random.default_rng(0)
    features, evaluated = random.normal(size=(200, 6)), random.normal(size=(n, 6)) + 0.5
    told = (
        fidelity(features=features, midpoint_features=evaluated, splits=10, seed=3)
        .distances[0]
        .value
    )
    assert feature_distance(3, held_out=features, midpoints=evaluated) == told > 0
