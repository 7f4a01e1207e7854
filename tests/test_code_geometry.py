import numpy as np
import pytest
from scipy.stats import skew

from workbench.analysis.codebook.cascade import cascade_displacement
from workbench.analysis.codebook.distances import code_distances, nearest_other
from workbench.analysis.codebook.dropping import code_dropping
from workbench.analysis.codebook.hubness import hubness, in_degrees, skewness
from workbench.core.errors import NotApplicable, UserError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def skewed_codes(size: int, tokens: int = 4000) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1)
    return np.random.default_rng(0).choice(size, (tokens // 4, 4), p=weights / weights.sum())


# Distances


def test_nearest_other_matches_all_pairs():
    codewords = normal(80, 5)
    all_distances = np.linalg.norm(codewords[:, None] - codewords, axis=2)
    np.fill_diagonal(all_distances, np.inf)
    index, distance = nearest_other(codewords, np.arange(80))
    assert index.tolist() == all_distances.argmin(axis=1).tolist()
    np.testing.assert_allclose(distance, all_distances.min(axis=1), rtol=1e-5)


def test_copies_have_distance_zero_far_from_origin():
    codewords = normal(50, 8) + 1000
    codewords[[10, 20]] = codewords[3]
    index, distance = nearest_other(codewords, np.array([3, 10, 20]))
    assert (distance == 0).all()
    assert (index != [3, 10, 20]).all()


def test_each_dead_code_has_one_cause():
    """A line of used codes, a duplicate, a far code, one in between, and two far duplicates."""
    line = np.stack([np.arange(20.0), np.zeros(20)], axis=1)
    codewords = np.concatenate([line, line[:1], [[500, 0]], [[10.5, 0.1]], [[900, 0]] * 2]).astype(
        np.float32
    )[None]
    result = code_distances(np.tile(np.arange(20), (50, 1)), codewords)
    assert result.codebooks[0].dead == {"duplicate": 3, "far": 1, "rare": 0, "passed over": 1}
    assert result.codebooks[0].duplicates == 4


def test_bars_of_a_regular_codebook_have_a_width():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 3), axis=-1).reshape(1, -1, 3)
    codes = np.random.default_rng(0).integers(0, 125, (100, 16))
    used = code_distances(codes, grid.astype(np.float32)).figure().data[0]
    assert used.width > 0.01 and sum(used.y) == max(used.y) == 125
    assert used.x[np.argmax(used.y)] == pytest.approx(0.5, abs=used.width)


def test_reachable_dead_codes_are_rare():
    codes = np.random.default_rng(0).integers(0, 400, (100, 4))
    dead = code_distances(codes, normal(1, 400, 3)).codebooks[0].dead
    assert dead["rare"] > 0.7 * sum(dead.values())


def test_in_degrees_match_sorted_pairs():
    codewords = normal(60, 5)
    all_distances = np.linalg.norm(codewords[:, None].astype(float) - codewords, axis=2)
    np.fill_diagonal(all_distances, np.inf)
    times = np.bincount(np.argsort(all_distances, axis=1)[:, :10].ravel(), minlength=60)
    np.testing.assert_array_equal(in_degrees(codewords), times)
    assert skewness(times) == pytest.approx(skew(times))
    assert skewness(np.full(5, 10)) == 0


def test_hubness_of_sphere_center_and_high_dimensions():
    """The center of a sphere of codes is near all of them; a 2-dimensional Gaussian has no hubs."""
    shell = normal(300, 100)
    shell /= np.linalg.norm(shell, axis=1, keepdims=True)
    with_center, _, gaussian_max = hubness(
        np.concatenate([shell, np.zeros((1, 100), np.float32)]), np.random.default_rng(0)
    )
    assert with_center > gaussian_max + 2
    flat, high = (hubness(normal(1000, d), np.random.default_rng(0)) for d in (2, 30))
    assert abs(flat[0]) < 1 < high[0]
    assert high[0] == pytest.approx(high[1], rel=0.4)  # the codewords are Gaussian themselves
    assert np.isnan(hubness(normal(20, 4), np.random.default_rng(0))).all()


def test_hubness_is_invariant_to_translation():
    codewords = normal(200, 30).astype(np.float64)
    at_origin, shifted = (hubness(codewords + x, np.random.default_rng(0)) for x in (0, 100))
    assert at_origin == pytest.approx(shifted, abs=0.02)


def test_summary_compares_hubness_with_gaussians():
    result = code_distances(skewed_codes(60), normal(1, 60, 4))
    first = result.codebooks[0]
    assert f"{first.hubness:.2f}" in result.summary()
    assert f"{first.hubness_gaussian:.2f}" in result.summary()
    assert "skewness" not in code_distances(skewed_codes(12), normal(1, 12, 4)).summary()


def test_mean_cosine_matches_all_pairs():
    codewords = normal(40, 6) + 0.5
    units = codewords / np.linalg.norm(codewords, axis=1, keepdims=True)
    pairs = (units @ units.T)[~np.eye(40, dtype=bool)]
    assert code_distances(skewed_codes(40), codewords[None]).codebooks[0].cosine == pytest.approx(
        pairs.mean(), rel=1e-4
    )


def test_radius_ratio_needs_latents_unlike_codes():
    codewords, codes = np.eye(4, dtype=np.float32)[None], np.arange(4)[None].repeat(5, axis=0)
    latents = codewords[0][codes]
    assert np.isnan(code_distances(codes, codewords, latents).codebooks[0].radius_ratio)
    latents = latents + np.array([0.1, 0, 0, 0], np.float32)
    assert code_distances(codes, codewords, latents).codebooks[0].radius_ratio == pytest.approx(
        np.sqrt(2) / 0.1, rel=1e-4
    )


def test_nan_codebook_and_single_code_raise():
    with pytest.raises(UserError):
        code_distances(np.zeros((2, 2), int), np.full((1, 2, 2), np.nan, np.float32))
    with pytest.raises(NotApplicable):
        code_distances(np.zeros((2, 2), int), normal(1, 1, 2))


# Dropping


def test_dropping_error_is_zero_to_one():
    result = code_dropping(skewed_codes(64), normal(1, 64, 8))
    for error in result.errors.values():
        assert error[-1] == 0
        assert error[0] >= 1 - 1e-6
        assert (np.diff(error) <= 1e-9).all()


def test_dropping_error_matches_reassigned_tokens():
    codes, codewords = skewed_codes(30), normal(1, 30, 4)
    result = code_dropping(codes, codewords)
    order = np.argsort(-np.bincount(codes.ravel(), minlength=30), kind="stable")
    tokens = codewords[0][codes.ravel()].astype(np.float64)
    variance = np.square(tokens - tokens.mean(axis=0)).sum(axis=1).mean()
    for i, m in enumerate(result.sizes.tolist()):
        nearest = np.square(tokens[:, None] - codewords[0][order[:m]]).sum(axis=2).min(axis=1)
        assert result.errors["commonest"][i] == pytest.approx(
            nearest.mean() / variance, rel=1e-3, abs=1e-6
        )


def test_commonest_codes_give_lowest_dropping_error():
    errors = code_dropping(skewed_codes(64), normal(1, 64, 8)).errors
    assert (
        errors["commonest"][5:-1].mean()
        < errors["random"][5:-1].mean()
        < errors["rarest"][5:-1].mean()
    )


def test_needed_codes_of_duplicated_codebook():
    codewords = np.tile(normal(3, 4), (20, 1))[None]
    assert code_dropping(np.tile(np.arange(3), (50, 1)), codewords).needed == 3


def test_dropping_with_one_used_code_raises():
    with pytest.raises(NotApplicable):
        code_dropping(np.zeros((5, 2), int), normal(1, 4, 2))


# Cascade


def test_untrained_cascade_has_not_moved():
    codewords = normal(1, 50, 4)
    result = cascade_displacement(codewords, codewords.copy(), skewed_codes(50))
    assert (result.untouched, result.retrieved, result.cka) == (50, 1, pytest.approx(1))
    assert "50" in result.summary()


def test_displacement_is_relative_to_moved_rows():
    index = np.array([[[3, 4], [0, 2], [1, 0]]], np.float32)
    value = index + np.array([[[0, 0], [0, 1], [0, 0]]], np.float32)
    result = cascade_displacement(index, value, np.array([[0, 1]]))
    assert result.displacement.tolist() == [0, 0.5, 0]
    assert (result.untouched, result.untouched_used, result.median) == (2, 1, 0.5)


def test_swapped_values_are_not_retrieved():
    codewords = normal(1, 30, 4)
    assert cascade_displacement(codewords, codewords[:, ::-1], skewed_codes(30)).retrieved == 0


def test_scaling_preserves_cka_and_cosines():
    codewords = normal(1, 60, 4)
    result = cascade_displacement(codewords, 3 * codewords, skewed_codes(60))
    assert result.cka == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(result.cosines, 1, atol=1e-5)
    np.testing.assert_allclose(result.displacement, 2, rtol=1e-5)


def test_tables_of_different_shapes_raise():
    with pytest.raises(UserError, match="1 × 4 × 2"):
        cascade_displacement(normal(1, 4, 2), normal(1, 5, 2), skewed_codes(4))
