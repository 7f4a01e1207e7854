import re

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score

from workbench.analysis.codebook.churn import adjusted_information, code_churn
from workbench.analysis.codebook.cooccurrence import code_cooccurrence
from workbench.analysis.codebook.gallery import code_gallery
from workbench.analysis.codebook.information import code_information
from workbench.analysis.codebook.mutual_information import (
    entropy,
    mutual_information,
    within_groups,
)
from workbench.analysis.codebook.prediction import code_prediction, held_out_bits
from workbench.core.errors import NotApplicable, UserError


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def random_codebook(size: int, count: int = 1) -> np.ndarray:
    return random().normal(size=(count, size, 3)).astype(np.float32)


# Information


def test_mutual_information_matches_scikit_learn():
    a = random().integers(0, 30, 5000)
    b = (a + random().integers(0, 3, 5000)) % 30
    expected = mutual_info_score(a, b) / np.log(2)
    assert mutual_information(a, b) == pytest.approx(expected)
    assert mutual_information(a * 10_000, b * 10_000) == pytest.approx(expected)
    assert entropy(np.array([1, 1, 2, 0])) == pytest.approx(1.5)


def test_within_groups_preserves_values_of_groups():
    groups, values = np.repeat(np.arange(100), 8), random().integers(0, 50, 800)
    shuffled = within_groups(values, groups, random())
    assert (shuffled != values).any()
    for group in range(100):
        assert sorted(shuffled[groups == group]) == sorted(values[groups == group])


def test_codes_equal_to_class_have_full_class_information():
    labels = random().integers(0, 4, 2000)
    result = code_information(labels[:, None].repeat(8, axis=1), random_codebook(4), labels)
    assert result.mean("class", "corrected") == pytest.approx(
        result.mean("class", "attribute_entropy"), abs=0.01
    )
    assert result.mean("position", "corrected") == pytest.approx(0, abs=0.01)
    assert (result.purity == 1).all()


def test_corrected_information_of_shuffled_labels_is_zero():
    """Tokens of one image are dependent, so only shuffling images gives the right chance value."""
    generator = random()
    codes = (generator.integers(0, 100, (6000, 1)) + generator.integers(0, 3, (6000, 8))) % 100
    result = code_information(codes, random_codebook(100), generator.integers(0, 10, 6000))
    assert result.mean("class", "plug_in") > 0.04
    assert result.mean("class", "corrected") == pytest.approx(0, abs=0.01)
    assert result.mean("position", "corrected") == pytest.approx(0, abs=0.01)


def test_fixed_position_codes_have_position_information():
    codes = np.tile(np.arange(8), (300, 1))
    result = code_information(codes, random_codebook(8))
    assert result.mean("position", "corrected") == pytest.approx(3, abs=0.05)
    assert "of 3.00 bits" in result.summary()


def test_information_is_invariant_to_renumbering():
    codes, labels = random().integers(0, 20, (200, 8)), random().integers(0, 3, 200)
    first, again = (
        code_information(x, random_codebook(20), labels).table()
        for x in (codes, random().permutation(20)[codes])
    )
    np.testing.assert_allclose(first["corrected"], again["corrected"])


def test_information_without_attributes_raises():
    with pytest.raises(NotApplicable):
        code_information(random().integers(0, 4, (20, 1)), random_codebook(4))


# Co-occurrence


def test_grid_neighbors_are_counted_in_either_order():
    codes = np.array([[0, 1, 1, 0]])  # rows 0 1 / 1 0
    result = code_cooccurrence(codes, random_codebook(2), (2, 2), min_count=1)
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.count) == ("0", "1", 4)
    assert result.n == 4
    assert result.same == 0


def test_pmi_of_independent_and_dependent_codes():
    codes = random().integers(0, 6, (4000, 16))
    flat = code_cooccurrence(codes, random_codebook(8), (4, 4))
    assert np.nanmax(np.abs(flat.pmi)) < 0.15
    codes[:, 1:16:2] = np.where(codes[:, 0:16:2] == 5, 7, codes[:, 1:16:2])  # 7 follows 5, always
    result = code_cooccurrence(codes, random_codebook(8), (4, 4))
    assert {result.attracted[0].first, result.attracted[0].second} == {"5", "7"}
    assert result.attracted[0].pmi > 0.5


def test_cooccurrence_in_images_without_grid():
    """Codes 0 and 1 share half of the images, so that 100 are observed and 50 expected."""
    codes = np.where(np.arange(200)[:, None] % 2, [[0, 1]], [[2, 2]])
    result = code_cooccurrence(codes, random_codebook(4))
    (pair,) = result.pairs
    assert (pair.count, pair.expected, pair.pmi) == (100, 50, 1)
    assert "100 times" in result.summary()


def test_inactive_tokens_have_no_neighbors():
    active = np.ones((50, 4), bool)
    active[:, 3] = False
    result = code_cooccurrence(np.tile([0, 1, 1, 0], (50, 1)), random_codebook(2), (2, 2), active)
    assert result.n == 100


def test_mismatched_grid_raises():
    with pytest.raises(UserError, match="2 × 3"):
        code_cooccurrence(np.zeros((5, 4), int), random_codebook(2), (2, 3))


# Gallery


def quarters() -> tuple[np.ndarray, np.ndarray]:
    """Return images of four constant quarters, and codes equal to their brightness."""
    codes = random().integers(0, 5, (40, 4))
    images = np.repeat(np.repeat(codes.reshape(40, 2, 2), 4, axis=1), 4, axis=2)
    return (50 * images[..., None]).astype(np.uint8), codes


def test_gallery_patches_match_their_code():
    images, codes = quarters()
    result = code_gallery(images, codes, random_codebook(5), grid=(2, 2), show=5, members=4)
    cell = result.mosaic.shape[0] // 5, result.mosaic.shape[1] // 4
    for i, row in enumerate(result.rows):
        for column in range(4):
            middle = result.mosaic[int((i + 0.46) * cell[0]), int((column + 0.46) * cell[1]), 0]
            assert middle == 50 * row.code


def test_gallery_shows_nearest_latent_of_each_image():
    images, codes = quarters()
    codewords = random_codebook(5)
    distance = np.abs(random().normal(size=codes.shape))
    latents = codewords[0][codes] + np.array([1, 0, 0]) * distance[..., None]
    result = code_gallery(
        images, codes, codewords, latents.astype(np.float32), grid=(2, 2), show=1, members=16
    )
    (row,) = result.rows
    best = np.sort(np.where(codes == row.code, distance, np.inf).min(axis=1))[:16]
    assert result.nearest
    assert row.distance == pytest.approx(best.mean(), rel=1e-4)


def test_gallery_of_rarest_codes_without_grid():
    images, codes = quarters()
    codes[0, 0] = 9
    result = code_gallery(
        images, codes, random_codebook(10), labels=np.arange(40), order="rarest", show=4
    )
    assert (result.rows[0].code, result.rows[0].count, result.rows[0].common_class) == (9, 1, "0")
    assert "full images" in result.summary()
    assert not result.nearest


# Churn


def test_identical_codes_have_no_churn():
    codes = random().integers(0, 20, (50, 4))
    result = code_churn(codes, codes, random_codebook(20))
    assert result.churn == 0
    assert result.table()["regrouped"].tolist() == [0]
    assert "50 images" in result.summary()


def test_renumbered_codes_churn_without_regrouping():
    codes = random().integers(0, 20, (200, 4))
    result = code_churn(codes, (codes + 1) % 20, random_codebook(20))
    assert result.churn == 1
    assert result.codebooks[0].regrouped == pytest.approx(0, abs=1e-9)


def test_unrelated_codes_lose_at_most_the_whole_grouping():
    before, after = random().integers(0, 20, (2, 200, 4))
    result = code_churn(before, after, random_codebook(20))
    assert result.codebooks[0].regrouped == pytest.approx(1, abs=0.02)
    lost = re.search(r"([\d.]+) % of the grouping", result.summary())
    assert lost is not None and float(lost[1]) <= 100


def test_churn_counts_births_and_deaths():
    result = code_churn(np.array([[0, 1], [2, 2]]), np.array([[0, 3], [2, 4]]), random_codebook(6))
    codebook = result.codebooks[0]
    assert (codebook.born, codebook.died, codebook.retained) == (2, 1, 2)
    assert result.churn == 0.5
    assert result.by_token.tolist() == [0, 1]


def test_adjusted_information_matches_scikit_learn():
    a = random().integers(0, 40, 3000)
    b = np.where(random().random(3000) < 0.5, a, random().permutation(a))
    assert adjusted_information(a, b, random()) == pytest.approx(
        adjusted_mutual_info_score(a, b), abs=0.005
    )
    assert adjusted_information(a, random().permutation(a), random()) == pytest.approx(0, abs=0.02)


def test_churn_of_different_shapes_raises():
    with pytest.raises(UserError, match="3 × 4"):
        code_churn(np.zeros((3, 4), int), np.zeros((5, 4), int), random_codebook(2))


# Prediction


def costs(codes: np.ndarray, size: int, **kwargs) -> dict[str, float]:
    result = code_prediction(codes, random_codebook(size), **kwargs)
    return {context: result.mean(context, "bits") for context in result.contexts}


def test_held_out_bits_match_double_loop():
    codes, contexts, folds = random().integers(0, [[6], [4], [3]], (3, 200))
    result = held_out_bits(codes, contexts, folds, size=7, constants=np.array([2.0]))[:, 0]
    for i in range(200):
        training = [j for j in range(200) if folds[j] != folds[i]]
        share = (sum(codes[j] == codes[i] for j in training) + 0.5) / (len(training) + 3.5)
        in_context = [j for j in training if contexts[j] == contexts[i]]
        pairs = sum(codes[j] == codes[i] for j in in_context)
        assert result[i] == pytest.approx(-np.log2((pairs + 2 * share) / (len(in_context) + 2)))


def test_code_probabilities_sum_to_one():
    """Codes and contexts without training tokens are included."""
    codes, contexts, folds = np.arange(9) % 5, np.zeros(9, int), np.array([0] * 5 + [1] * 4)
    bits = held_out_bits(codes, contexts, folds, size=5)
    np.testing.assert_allclose((2.0 ** -bits[:5]).sum(axis=0), 1)


def test_independent_codes_cost_all_bits_in_any_context():
    codes = random().integers(0, 8, (2000, 9))
    assert costs(codes, 8, grid=(3, 3)) == pytest.approx(
        dict.fromkeys(("nothing", "position", "left code"), 3), abs=0.02
    )


def test_fixed_position_codes_cost_nothing_given_position():
    codes = (np.arange(8) + np.zeros((400, 1), int)) % 8
    result = costs(codes, 8)
    assert result["nothing"] == pytest.approx(3, abs=0.01)
    assert result["position"] < 0.1


def test_order_of_codes_has_no_value_if_they_are_exchangeable_in_an_image():
    palettes = np.stack([np.random.default_rng(i).permutation(64)[:4] for i in range(600)])
    codes = np.take_along_axis(palettes, random().integers(0, 4, (600, 16)), axis=1)
    active = np.arange(16) < random().integers(2, 7, (600, 1))
    result = code_prediction(codes, random_codebook(64), active=active)
    assert result.mean("previous code", "shuffled") == pytest.approx(
        result.mean("previous code", "bits"), abs=0.15
    )


def test_counting_rows_cost_only_their_first_token():
    """The first token of each grid row has no left neighbor and costs 3 bits."""
    start = random().integers(0, 8, (2000, 4, 1))
    codes = ((start + np.arange(4)) % 8).reshape(2000, 16)
    result = code_prediction(codes, random_codebook(8), (4, 4))
    assert result.mean("left code", "bits") == pytest.approx(3 / 4, abs=0.05)
    assert result.mean("position", "bits") == pytest.approx(3, abs=0.02)
    assert result.mean("left code", "shuffled") > 2
    assert "3.00 bits" in result.summary()


def test_rare_contexts_do_not_bias_costs():
    codes = random().integers(0, 256, (100, 8))
    assert entropy(np.bincount(codes.ravel())) < 7.8
    result = costs(codes, 256)
    assert result == pytest.approx(dict.fromkeys(result, result["nothing"]), abs=0.1)
    assert result["nothing"] > 7.95


def test_costs_are_invariant_to_renumbering():
    codes = random().integers(0, 8, (200, 4)) // 2
    renamed = np.random.default_rng(5).permutation(8)[codes]
    assert costs(renamed, 8, grid=(2, 2)) == pytest.approx(costs(codes, 8, grid=(2, 2)))


def test_costs_ignore_inactive_tokens_and_other_codebooks():
    codes, active = random().integers(0, 8, (300, 4)), np.ones((300, 4), bool)
    active[:, 3] = False
    zeroed = codes.copy()
    zeroed[:, 3] = 0
    assert costs(codes, 8, active=active) == costs(zeroed, 8, active=active)
    copied = np.repeat(codes[:, :1], 4, axis=1)
    two = code_prediction(copied, random_codebook(8, count=2)).table()
    assert two[two["context"] == "previous code"]["bits"].tolist() == pytest.approx(
        [1.6, 1.6], abs=0.15
    )


def test_unpredictable_codes_raise():
    codes = random().integers(0, 8, (30, 4))
    with pytest.raises(NotApplicable, match="10 .* 9"):
        code_prediction(codes[:9], random_codebook(8))
    with pytest.raises(NotApplicable):
        code_prediction(codes[:, :1], random_codebook(8))
    with pytest.raises(UserError, match="3 × 3"):
        code_prediction(codes, random_codebook(8), (3, 3))
