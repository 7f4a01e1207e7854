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
from workbench.analysis.codebook.prediction import GIVEN, code_prediction, held_out_bits
from workbench.core.errors import NotApplicable, UserError


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def book(size: int, books: int = 1) -> np.ndarray:
    return random().normal(size=(books, size, 3)).astype(np.float32)


# Information


def test_mutual_information_agrees_with_scikit_learn_whether_pairs_are_tabled_or_sorted():
    a = random().integers(0, 30, 5000)
    b = (a + random().integers(0, 3, 5000)) % 30
    expected = mutual_info_score(a, b) / np.log(2)
    assert mutual_information(a, b) == pytest.approx(expected)
    assert mutual_information(a * 10_000, b * 10_000) == pytest.approx(expected)
    assert entropy(np.array([1, 1, 2, 0])) == pytest.approx(1.5)


def test_shuffling_within_groups_keeps_every_groups_values():
    groups, values = np.repeat(np.arange(100), 8), random().integers(0, 50, 800)
    shuffled = within_groups(values, groups, random())
    assert (shuffled != values).any()
    for group in range(100):
        assert sorted(shuffled[groups == group]) == sorted(values[groups == group])


def test_codes_that_name_the_class_tell_all_of_it_and_nothing_of_the_position():
    labels = random().integers(0, 4, 2000)
    result = code_information(labels[:, None].repeat(8, axis=1), book(4), labels)
    assert result.mean("class", "corrected") == pytest.approx(
        result.mean("class", "most"), abs=0.01
    )
    assert result.mean("position", "corrected") == pytest.approx(0, abs=0.01)
    assert (result.purity == 1).all()


def test_shuffled_labels_tell_nothing_beyond_chance_though_the_plug_in_says_they_do():
    """Tokens of one image are alike, so only shuffling whole images gives the right chance value."""
    draw = random()
    codes = (draw.integers(0, 100, (6000, 1)) + draw.integers(0, 3, (6000, 8))) % 100
    result = code_information(codes, book(100), draw.integers(0, 10, 6000))
    assert result.mean("class", "plug_in") > 0.04
    assert result.mean("class", "corrected") == pytest.approx(0, abs=0.01)
    assert result.mean("position", "corrected") == pytest.approx(0, abs=0.01)


def test_codes_of_fixed_positions_tell_the_position():
    codes = np.tile(np.arange(8), (300, 1))
    result = code_information(codes, book(8))
    assert result.mean("position", "corrected") == pytest.approx(3, abs=0.05)
    assert "of 3.00 bits of its position" in result.summary()


def test_other_numbers_for_the_codes_tell_the_same():
    codes, labels = random().integers(0, 20, (200, 8)), random().integers(0, 3, 200)
    first, again = (
        code_information(x, book(20), labels).table()
        for x in (codes, random().permutation(20)[codes])
    )
    np.testing.assert_allclose(first["corrected"], again["corrected"])


def test_one_token_an_image_without_classes_has_nothing_to_tell_of():
    with pytest.raises(NotApplicable, match="two tokens of a book, or images of two classes"):
        code_information(random().integers(0, 4, (20, 1)), book(4))


# Co-occurrence


def test_neighbours_on_a_grid_are_counted_right_and_below_in_either_order():
    codes = np.array([[0, 1, 1, 0]])  # rows 0 1 / 1 0
    result = code_cooccurrence(codes, book(2), (2, 2), least=1)
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.together) == ("0", "1", 4)
    assert result.n == 4
    assert result.same == 0


def test_independent_codes_are_no_surprise_and_bound_ones_are():
    codes = random().integers(0, 6, (4000, 16))
    flat = code_cooccurrence(codes, book(8), (4, 4))
    assert np.nanmax(np.abs(flat.pmi)) < 0.15
    codes[:, 1:16:2] = np.where(codes[:, 0:16:2] == 5, 7, codes[:, 1:16:2])  # 7 follows 5, always
    result = code_cooccurrence(codes, book(8), (4, 4))
    assert {result.together[0].first, result.together[0].second} == {"5", "7"}
    assert result.together[0].pmi > 0.5


def test_codes_without_a_place_come_together_in_images():
    """0 and 1 are in the same half of the images, 2 in the other: 100 times where 50 would be expected."""
    codes = np.where(np.arange(200)[:, None] % 2, [[0, 1]], [[2, 2]])
    result = code_cooccurrence(codes, book(4))
    (pair,) = result.pairs
    assert (pair.together, pair.expected, pair.pmi) == (100, 50, 1)
    assert (
        "0 and 1 come in one image most surprisingly: 100 times, where 50.0 would be expected"
        in result.summary()
    )


def test_inactive_tokens_are_nobodys_neighbours():
    active = np.ones((50, 4), bool)
    active[:, 3] = False
    result = code_cooccurrence(np.tile([0, 1, 1, 0], (50, 1)), book(2), (2, 2), active)
    assert result.n == 100


def test_a_grid_that_does_not_hold_the_tokens_is_refused():
    with pytest.raises(UserError, match="A grid of 2 × 3 does not hold 4 tokens"):
        code_cooccurrence(np.zeros((5, 4), int), book(2), (2, 3))


# Gallery


def quarters() -> tuple[np.ndarray, np.ndarray]:
    """Images of four flat quarters, and codes that are their brightness."""
    codes = random().integers(0, 5, (40, 4))
    images = np.repeat(np.repeat(codes.reshape(40, 2, 2), 4, axis=1), 4, axis=2)
    return (50 * images[..., None]).astype(np.uint8), codes


def test_every_patch_of_a_row_is_of_its_code():
    images, codes = quarters()
    result = code_gallery(images, codes, book(5), grid=(2, 2), show=5, members=4)
    cell = result.mosaic.shape[0] // 5, result.mosaic.shape[1] // 4
    for row, shown in enumerate(result.codes):
        for column in range(4):
            middle = result.mosaic[int((row + 0.46) * cell[0]), int((column + 0.46) * cell[1]), 0]
            assert middle == 50 * shown.code


def test_the_latents_nearest_to_the_code_come_first_and_each_is_of_another_image():
    images, codes = quarters()
    words = book(5)
    away = np.abs(random().normal(size=codes.shape))
    latents = words[0][codes] + np.array([1, 0, 0]) * away[..., None]
    result = code_gallery(
        images, codes, words, latents.astype(np.float32), grid=(2, 2), show=1, members=16
    )
    (shown,) = result.codes
    best = np.sort(np.where(codes == shown.code, away, np.inf).min(axis=1))[:16]
    assert result.nearest
    assert shown.distance == pytest.approx(best.mean(), rel=1e-4)


def test_tokens_without_a_place_show_whole_images_and_the_rarest_codes_can_be_asked_for():
    images, codes = quarters()
    codes[0, 0] = 9
    result = code_gallery(images, codes, book(10), labels=np.arange(40), order="rarest", show=4)
    assert (result.codes[0].code, result.codes[0].times, result.codes[0].common) == (9, 1, "0")
    assert "whole images, the tokens having no place, drawn at random (seed 0)" in result.summary()


# Churn


def test_the_same_codes_twice_are_no_churn_at_all():
    codes = random().integers(0, 20, (50, 4))
    result = code_churn(codes, codes, book(20))
    assert result.churn == 0
    assert result.table()["regrouped"].tolist() == [0]
    assert result.summary() == "No code changed since the checkpoint before, in any of 50 images."


def test_renamed_codes_churn_fully_and_regroup_nothing():
    codes = random().integers(0, 20, (200, 4))
    result = code_churn(codes, (codes + 1) % 20, book(20))
    assert result.churn == 1
    assert result.books[0].regrouped == pytest.approx(0, abs=1e-9)


def test_births_and_deaths_are_counted():
    result = code_churn(np.array([[0, 1], [2, 2]]), np.array([[0, 3], [2, 4]]), book(6))
    assert (result.books[0].born, result.books[0].died, result.books[0].kept) == (2, 1, 2)
    assert result.churn == 0.5
    assert result.by_token.tolist() == [0, 1]


def test_adjusted_information_agrees_with_scikit_learns_exact_expectation():
    a = random().integers(0, 40, 3000)
    b = np.where(random().random(3000) < 0.5, a, random().permutation(a))
    assert adjusted_information(a, b, random()) == pytest.approx(
        adjusted_mutual_info_score(a, b), abs=0.005
    )
    assert adjusted_information(a, random().permutation(a), random()) == pytest.approx(0, abs=0.02)


def test_codes_of_other_images_are_refused():
    with pytest.raises(
        UserError, match="The codes before are 3 × 4, now 5 × 4. Are both of the same images?"
    ):
        code_churn(np.zeros((3, 4), int), np.zeros((5, 4), int), book(2))


# Prediction


def costs(codes: np.ndarray, size: int, **named) -> dict[str, float]:
    found = code_prediction(codes, book(size), **named)
    return {given: found.mean(given, "bits") for given in found.given}


def test_the_cost_of_held_out_codes_agrees_with_a_double_loop():
    codes, contexts, folds = random().integers(0, [[6], [4], [3]], (3, 200))
    found = held_out_bits(codes, contexts, folds, size=7, constants=np.array([2.0]))[:, 0]
    for i in range(200):
        seen = [j for j in range(200) if folds[j] != folds[i]]
        share = (sum(codes[j] == codes[i] for j in seen) + 0.5) / (len(seen) + 3.5)
        there = [j for j in seen if contexts[j] == contexts[i]]
        pairs = sum(codes[j] == codes[i] for j in there)
        assert found[i] == pytest.approx(-np.log2((pairs + 2 * share) / (len(there) + 2)))


def test_probabilities_of_all_codes_in_a_context_sum_to_one():
    """Also of codes and contexts that were never seen."""
    codes, contexts, folds = np.arange(9) % 5, np.zeros(9, int), np.array([0] * 5 + [1] * 4)
    bits = held_out_bits(codes, contexts, folds, size=5)
    np.testing.assert_allclose((2.0 ** -bits[:5]).sum(axis=0), 1)


def test_even_and_independent_codes_cost_all_their_bits_whatever_is_given():
    codes = random().integers(0, 8, (2000, 9))
    assert costs(codes, 8, grid=(3, 3)) == pytest.approx(dict.fromkeys(GIVEN, 3), abs=0.02)


def test_codes_of_fixed_places_cost_nothing_given_the_place():
    codes = (np.arange(8) + np.zeros((400, 1), int)) % 8
    found = costs(codes, 8)
    assert found["nothing"] == pytest.approx(3, abs=0.01)
    assert found["its place"] < 0.1


def test_a_row_that_counts_upward_costs_nothing_but_its_beginning_given_the_code_to_its_left():
    """The first token of each row of the grid has no neighbour: its three bits are a quarter of the tokens'."""
    start = random().integers(0, 8, (2000, 4, 1))
    codes = ((start + np.arange(4)) % 8).reshape(2000, 16)
    found = code_prediction(codes, book(8), (4, 4))
    assert found.mean("the code to its left", "bits") == pytest.approx(3 / 4, abs=0.05)
    assert found.mean("its place", "bits") == pytest.approx(3, abs=0.02)
    assert found.mean("the code to its left", "shuffled") > 2
    assert found.summary().startswith(
        "A token's code costs 3.00 bits on held-out images, 3.00 given its place (3."
    )


def test_many_codes_and_few_tokens_seem_bound_to_the_plug_in_and_do_not_here():
    codes = random().integers(0, 256, (100, 8))
    assert entropy(np.bincount(codes.ravel())) < 7.8
    found = costs(codes, 256)
    assert found == pytest.approx(
        dict.fromkeys(found, found["nothing"]), abs=0.1
    )  # what is rarely seen does no harm
    assert found["nothing"] > 7.95


def test_other_numbers_for_the_codes_cost_the_same():
    codes = random().integers(0, 8, (200, 4)) // 2
    renamed = np.random.default_rng(5).permutation(8)[codes]
    assert costs(renamed, 8, grid=(2, 2)) == pytest.approx(costs(codes, 8, grid=(2, 2)))


def test_inactive_tokens_cost_nothing_and_predict_nothing_and_each_book_is_its_own():
    codes, active = random().integers(0, 8, (300, 4)), np.ones((300, 4), bool)
    active[:, 3] = False
    other = codes.copy()
    other[:, 3] = 0
    assert costs(codes, 8, active=active) == costs(other, 8, active=active)
    copied = np.repeat(
        codes[:, :1], 4, axis=1
    )  # two books of two tokens: the second book's first has no neighbour
    two = code_prediction(copied, book(8, 2)).table()
    assert two[two["given"] == "the code before it"]["bits"].tolist() == pytest.approx(
        [1.6, 1.6], abs=0.15
    )


def test_what_cannot_be_predicted_is_refused_in_a_sentence():
    codes = random().integers(0, 8, (30, 4))
    with pytest.raises(NotApplicable, match="needs at least 10 images; this evidence has 9"):
        code_prediction(codes[:9], book(8))
    with pytest.raises(NotApplicable, match="needs two tokens of a book"):
        code_prediction(codes[:, :1], book(8))
    with pytest.raises(UserError, match="A grid of 3 × 3 does not hold 4 tokens"):
        code_prediction(codes, book(8), (3, 3))
