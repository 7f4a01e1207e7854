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


def drawn(size: int, tokens: int = 4000) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1)
    return np.random.default_rng(0).choice(size, (tokens // 4, 4), p=weights / weights.sum())


# Distances


def test_the_nearest_other_code_agrees_with_looking_at_every_pair():
    words = normal(80, 5)
    every = np.linalg.norm(words[:, None] - words, axis=2)
    np.fill_diagonal(every, np.inf)
    place, distance = nearest_other(words, np.arange(80))
    assert place.tolist() == every.argmin(axis=1).tolist()
    np.testing.assert_allclose(distance, every.min(axis=1), rtol=1e-5)


def test_an_exact_copy_lies_at_distance_zero_however_far_from_the_origin():
    words = normal(50, 8) + 1000
    words[[10, 20]] = words[3]
    place, distance = nearest_other(words, np.array([3, 10, 20]))
    assert (distance == 0).all()
    assert (place != [3, 10, 20]).all()


def test_each_dead_code_has_one_cause():
    """A line of used codes, one apart; then a copy, a far one, one in between, and twins far away."""
    line = np.stack([np.arange(20.0), np.zeros(20)], axis=1)
    words = np.concatenate([line, line[:1], [[500, 0]], [[10.5, 0.1]], [[900, 0]] * 2]).astype(
        np.float32
    )[None]
    result = code_distances(np.tile(np.arange(20), (50, 1)), words)
    assert result.books[0].dead == {"duplicate": 3, "far": 1, "rare": 0, "passed over": 1}
    assert result.books[0].duplicates == 4
    assert (
        "5 are dead: 3 a copy of another, 1 far from all that is used, 1 near used ones"
        in result.summary()
    )


def test_codes_that_more_tokens_would_reach_are_rare_not_passed_over():
    codes = np.random.default_rng(0).integers(0, 400, (100, 4))
    found = code_distances(codes, normal(1, 400, 3)).books[0]
    assert found.dead["rare"] > 0.7 * sum(found.dead.values())


def test_the_neighbours_of_others_are_counted_as_by_sorting_every_pair():
    words = normal(60, 5)
    every = np.linalg.norm(words[:, None].astype(float) - words, axis=2) + np.diag(
        np.full(60, np.inf)
    )
    times = np.bincount(np.argsort(every, axis=1)[:, :10].ravel(), minlength=60)
    np.testing.assert_array_equal(in_degrees(words), times)
    assert skewness(times) == pytest.approx(skew(times))
    assert skewness(np.full(5, 10)) == 0


def test_codes_around_a_centre_make_it_a_hub_and_many_dimensions_make_hubs_of_their_own():
    """On a sphere with one code in its middle that code is near everybody; a Gaussian of 2 dimensions has no hubs."""
    shell = normal(300, 100)
    shell /= np.linalg.norm(shell, axis=1, keepdims=True)
    with_centre, _, most = hubness(
        np.concatenate([shell, np.zeros((1, 100), np.float32)]), np.random.default_rng(0)
    )
    assert with_centre > most + 2
    flat, high = (hubness(normal(1000, d), np.random.default_rng(0)) for d in (2, 30))
    assert abs(flat[0]) < 1 < high[0]
    assert high[0] == pytest.approx(high[1], rel=0.4)  # a Gaussian is as hubby as a Gaussian
    assert np.isnan(hubness(normal(20, 4), np.random.default_rng(0))).all()


def test_where_the_codes_lie_does_not_matter_to_hubness():
    words = normal(200, 30).astype(np.float64)
    here, there = (hubness(words + x, np.random.default_rng(0)) for x in (0, 100))
    assert here == pytest.approx(there, abs=0.02)


def test_hubness_is_told_beside_the_gaussians():
    found = code_distances(drawn(60), normal(1, 60, 4))
    first = found.books[0]
    assert (
        f"nearest of others: skewness {first.hubness:.2f}, Gaussians' {first.hubness_gaussian:.2f}"
        in found.summary()
    )
    assert "skewness" not in code_distances(drawn(12), normal(1, 12, 4)).summary()


def test_the_mean_cosine_is_that_of_all_pairs_of_codes():
    words = normal(40, 6) + 0.5
    units = words / np.linalg.norm(words, axis=1, keepdims=True)
    pairs = (units @ units.T)[~np.eye(40, dtype=bool)]
    assert code_distances(drawn(40), words[None]).books[0].cosine == pytest.approx(
        pairs.mean(), rel=1e-4
    )


def test_cells_are_measured_where_latents_are_not_the_codes_themselves():
    words, codes = np.eye(4, dtype=np.float32)[None], np.arange(4)[None].repeat(5, axis=0)
    latents = words[0][codes]
    assert np.isnan(code_distances(codes, words, latents).books[0].radius_ratio)
    latents = latents + np.array([0.1, 0, 0, 0], np.float32)
    assert code_distances(codes, words, latents).books[0].radius_ratio == pytest.approx(
        np.sqrt(2) / 0.1, rel=1e-4
    )


def test_two_codes_of_nan_are_refused_and_one_code_has_no_neighbour():
    with pytest.raises(UserError, match="The codebook holds NaN or infinity"):
        code_distances(np.zeros((2, 2), int), np.full((1, 2, 2), np.nan, np.float32))
    with pytest.raises(NotApplicable, match="at least two codes"):
        code_distances(np.zeros((2, 2), int), normal(1, 1, 2))


# Dropping


def test_dropping_no_code_is_no_change_and_keeping_one_loses_all_variance():
    result = code_dropping(drawn(64), normal(1, 64, 8))
    for error in result.errors.values():
        assert error[-1] == 0
        assert error[0] >= 1 - 1e-6
        assert (np.diff(error) <= 1e-9).all()


def test_the_error_agrees_with_moving_every_token_to_the_nearest_code_that_is_kept():
    codes, words = drawn(30), normal(1, 30, 4)
    result = code_dropping(codes, words)
    kept = np.argsort(-np.bincount(codes.ravel(), minlength=30), kind="stable")
    tokens = words[0][codes.ravel()].astype(np.float64)
    variance = np.square(tokens - tokens.mean(axis=0)).sum(axis=1).mean()
    for i, m in enumerate(result.kept.tolist()):
        nearest = np.square(tokens[:, None] - words[0][kept[:m]]).sum(axis=2).min(axis=1)
        assert result.errors["commonest"][i] == pytest.approx(
            nearest.mean() / variance, rel=1e-3, abs=1e-6
        )


def test_keeping_the_commonest_codes_costs_less_than_keeping_the_rarest():
    errors = code_dropping(drawn(64), normal(1, 64, 8)).errors
    assert (
        errors["commonest"][5:-1].mean()
        < errors["random"][5:-1].mean()
        < errors["rarest"][5:-1].mean()
    )


def test_a_book_of_copies_of_three_codes_needs_no_more_than_three():
    words = np.tile(normal(3, 4), (20, 1))[None]
    assert code_dropping(np.tile(np.arange(3), (50, 1)), words).needed == 3


def test_a_book_of_which_tokens_chose_one_code_has_nothing_to_drop():
    with pytest.raises(NotApplicable, match="every one of these chose the same code"):
        code_dropping(np.zeros((5, 2), int), normal(1, 4, 2))


# Cascade


def test_an_untrained_cascade_has_not_moved_at_all():
    words = normal(1, 50, 4)
    result = cascade_displacement(words, words.copy(), drawn(50))
    assert (result.untouched, result.retrieved, result.cka) == (50, 1, pytest.approx(1))
    assert (
        result.summary()
        == "None of the 50 codes has moved: the value table is the index table, bit for bit."
    )


def test_displacement_is_relative_and_only_rows_that_moved_count():
    index = np.array([[[3, 4], [0, 2], [1, 0]]], np.float32)
    value = index + np.array([[[0, 0], [0, 1], [0, 0]]], np.float32)
    result = cascade_displacement(index, value, np.array([[0, 1]]))
    assert result.moved.tolist() == [0, 0.5, 0]
    assert (result.untouched, result.untouched_used, result.median) == (2, 1, 0.5)
    assert (
        "2 of 3 codes were never updated, 1 of them chosen by some token here" in result.summary()
    )


def test_values_that_swapped_places_are_not_found_by_their_index():
    words = normal(1, 30, 4)
    assert cascade_displacement(words, words[:, ::-1], drawn(30)).retrieved == 0


def test_scaling_the_value_table_keeps_its_kernel_alignment_and_cosines():
    words = normal(1, 60, 4)
    result = cascade_displacement(words, 3 * words, drawn(60))
    assert result.cka == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(result.cosines, 1, atol=1e-5)
    np.testing.assert_allclose(result.moved, 2, rtol=1e-5)


def test_tables_of_two_shapes_are_refused():
    with pytest.raises(
        UserError, match="The index table is 1 × 4 × 2 and the value table 1 × 5 × 2"
    ):
        cascade_displacement(normal(1, 4, 2), normal(1, 5, 2), drawn(4))
