from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau, permutation_test, spearmanr

from workbench.analysis.runs.diagnostics import BY_NAME, diagnostics_of
from workbench.analysis.runs.generation_predictors import LEVEL, generation_predictors
from workbench.analysis.stats import rank_correlation
from workbench.core.errors import NotApplicable
from workbench.core.progress import Cancelled, progress_listener
from workbench.storage.evidence import Evidence

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
FEATURES = np.random.default_rng(1).normal(size=(60, 3))


def tokenizer(name: str, error: float = 0.05, step: int = 1, **more) -> Evidence:
    """A tokenizer whose reconstructions are off by `error`, and whose latents say nothing that differs."""
    noise = np.random.default_rng(2).normal(0, 255 * error, IMAGES.shape)
    blurred = np.clip(IMAGES + noise, 0, 255).astype(np.uint8)
    told = {
        "run": name,
        "step": step,
        "fingerprint": "f",
        "split": "test",
        "n": 60,
        "class": "m:AE",
    }
    latents = np.random.default_rng(3).normal(size=(60, 2, 2)).astype(np.float32)
    given = {"images": IMAGES, "reconstructions": blurred, "latents": latents} | more
    return Evidence(told, **given)


def generator(
    name: str, of: str, shift: float, step: int = 1, feature_extractor: str = "hog", **more
) -> Evidence:
    """A generator whose samples lie `shift` from the training images: its gFD is about that, squared."""
    told = {
        "run": name,
        "step": 9,
        "tokenizer": {"run": f"../{of}", "step": step},
        "feature_extractor": feature_extractor,
    }
    told |= {
        "settings": {"depth": 2, "num_tokens": sum(map(ord, of))},
        "sampling": {"guidance": 2.0, "seed": 0},
    }
    return Evidence(
        told, train_features=FEATURES, **({"sample_features": FEATURES + [shift, 0, 0]} | more)
    )


def runs(errors, shifts) -> list[Evidence]:
    pairs = enumerate(zip(errors, shifts, strict=True))
    made = [
        (tokenizer(f"t{i}", error), generator(f"g{i}", f"t{i}", shift))
        for i, (error, shift) in pairs
    ]
    return [evidence for pair in made for evidence in pair]


def by_name(result) -> dict:
    return {c.diagnostic: c for c in result.correlations}


# Rank correlations


def test_spearman_agrees_with_scipy_with_ties_too():
    random = np.random.default_rng(0)
    for n in (4, 7, 30):
        values, target = random.integers(0, 4, (n, 5)), random.integers(0, 4, n)
        expected = [spearmanr(column, target).statistic for column in values.T]
        assert rank_correlation.spearman(values, target) == pytest.approx(np.nan_to_num(expected))


def test_the_p_value_of_few_things_is_scipys_exact_one():
    random = np.random.default_rng(1)
    for n in (4, 5, 6):
        x, y = random.normal(size=n), random.normal(size=n)
        found = rank_correlation.spearman(x[:, None], y)
        alone, adjusted = rank_correlation.p_values(found, rank_correlation.permutation_null(x[:, None], y))
        statistic = lambda moved: spearmanr(moved, y).statistic  # noqa: B023, E731
        exact = permutation_test((x,), statistic, permutation_type="pairings", n_resamples=1000)
        both_sides = np.mean(np.abs(exact.null_distribution) >= abs(exact.statistic) - 1e-9)
        assert alone[0] == adjusted[0] == pytest.approx(both_sides)


def test_a_perfect_order_of_n_things_has_two_in_n_factorial():
    x = np.arange(5.0)[:, None]
    alone, _ = rank_correlation.p_values(np.array([1.0]), rank_correlation.permutation_null(x, x[:, 0]))
    assert alone[0] == pytest.approx(2 / 120)


def test_random_orders_of_many_things_come_near_the_normal_limit():
    x = np.random.default_rng(0).normal(size=(30, 1))
    null = rank_correlation.permutation_null(x, np.random.default_rng(1).normal(size=30))
    assert null.std() == pytest.approx(1 / np.sqrt(29), rel=0.03)


def test_within_families_chance_does_as_well_as_what_tells_only_the_families_apart():
    families = ["a"] * 6 + ["b"] * 6
    apart, target = np.repeat([0.0, 1.0], 6)[:, None], np.arange(12.0)
    found = rank_correlation.spearman(apart, target)
    assert rank_correlation.p_values(found, rank_correlation.permutation_null(apart, target))[0] < 0.01
    assert (
        rank_correlation.p_values(
            found, rank_correlation.permutation_null(apart, target, families=families)
        )[0]
        == 1
    )
    null = rank_correlation.permutation_null(target[:, None], target, families=families)
    assert null[0] == pytest.approx(1) and null.min() >= rank_correlation.spearman(
        np.array([5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6.0])[:, None], target
    )
    alone = rank_correlation.p_values(np.array([1.0]), null)[0]
    assert alone[0] == pytest.approx(1 / 20_001, abs=1e-4)


def test_copies_of_one_diagnostic_cost_nothing_and_unrelated_ones_do():
    random = np.random.default_rng(2)
    x, y = random.normal(size=(6, 1)), random.normal(size=6)
    copies, others = np.repeat(x, 10, axis=1), np.hstack([x, random.normal(size=(6, 9))])
    for values, same in ((copies, True), (others, False)):
        found = rank_correlation.spearman(values, y)
        alone, adjusted = rank_correlation.p_values(found, rank_correlation.permutation_null(values, y))
        assert bool(adjusted[0] == alone[0]) is same
        assert adjusted[0] >= alone[0]


def test_something_is_called_sure_of_unrelated_diagnostics_in_one_case_of_twenty_at_most():
    random, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        n = int(random.integers(4, 8))
        values, target = random.normal(size=(n, 12)), random.normal(size=n)
        found = rank_correlation.spearman(values, target)
        wrong += (
            rank_correlation.p_values(found, rank_correlation.permutation_null(values, target))[1].min()
            <= LEVEL
        )
    assert wrong <= 0.08 * 300


@pytest.mark.parametrize("n", [5, 8, 20])
def test_the_interval_holds_the_true_correlation(n):
    """Of a bivariate Gaussian, Spearman's is 6 / pi arcsin(r / 2)."""
    random, r, inside = np.random.default_rng(n), 0.9, 0
    for _ in range(200):
        x = random.normal(size=n)
        y = r * x + np.sqrt(1 - r**2) * random.normal(size=n)
        low, high = rank_correlation.confidence_interval(spearmanr(x, y).statistic, n)
        inside += low <= 6 / np.pi * np.arcsin(r / 2) <= high
    assert inside >= 0.9 * 200


def test_a_perfect_order_of_five_is_compatible_with_none_and_of_twenty_is_not():
    low, high = rank_correlation.confidence_interval(1.0, 5)
    assert low < 0 and high == 1
    assert rank_correlation.confidence_interval(-1.0, 20)[1] < -0.8
    assert rank_correlation.confidence_interval(-1.0, 5) == pytest.approx((-high, -low))


def test_more_diagnostics_need_more_tokenizers():
    assert [rank_correlation.min_sample_size(tried, 0.05) for tried in (1, 2, 20)] == [5, 5, 7]


# Diagnostics


def test_diagnostics_are_the_numbers_of_the_analyses():
    from workbench.analysis.images.reconstruction import reconstruction

    evidence = tokenizer("a", features=FEATURES, reconstruction_features=FEATURES + [2, 1, 0])
    found = diagnostics_of(evidence)
    assert found["PSNR"] == pytest.approx(
        reconstruction(evidence.images, evidence.reconstructions).mean
    )
    assert found["reconstruction distance"] == pytest.approx(5)
    assert found["numbers an image"] == 4
    assert 1 < found["participation ratio"] <= 2
    assert found["participation share"] == found["participation ratio"] / 2
    assert "perplexity share" not in found  # there are no codes
    assert set(found) <= set(BY_NAME)


def test_half_a_codebook_used_evenly_has_half_the_perplexity():
    codes = np.tile(np.arange(4), (60, 1))
    found = diagnostics_of(tokenizer("a", codes=codes, codebook=np.zeros((1, 8, 2), np.float32)))
    assert found["used share"] == 0.5
    assert found["perplexity share"] == pytest.approx(0.5, rel=0.01)


def test_of_a_generator_there_is_nothing_to_diagnose():
    with pytest.raises(
        NotApplicable, match="Diagnostics need a tokenizer's evidence; g has nothing"
    ):
        diagnostics_of(generator("g", "t", 1.0))


# Which diagnostics predict generation


def test_a_diagnostic_in_the_order_of_gfd_is_found_and_said_to_be_sure():
    errors = np.linspace(0.02, 0.2, 7)
    result = generation_predictors(runs(errors, np.linspace(1, 4, 7)))
    best = by_name(result)["L1"]
    assert best.spearman == pytest.approx(1)
    assert best.kendall == pytest.approx(kendalltau(errors, np.arange(7)).statistic)
    assert best.sure and best.better == "lower"
    assert by_name(result)["PSNR"].spearman == pytest.approx(-1)
    assert (
        "With n = 7 tokenizers and 3 diagnostics tried, choose by PSNR: higher goes with"
        in result.summary()
    )
    assert [g.value for g in result.generations] == pytest.approx(np.linspace(1, 4, 7) ** 2)


def test_of_four_tokenizers_not_even_a_perfect_order_is_called_sure():
    result = generation_predictors(runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4]))
    assert abs(result.correlations[0].spearman) == pytest.approx(1)
    assert not result.sure
    assert result.correlations[0].p == pytest.approx(2 / 24)
    assert "no diagnostic can be told from chance" in result.summary()
    assert f"takes at least {result.needed} tokenizers" in result.summary()


def test_without_a_relation_it_is_hardly_ever_sure():
    random, wrong = np.random.default_rng(5), 0
    for order in (random.permutation(5) for _ in range(4)):
        wrong += bool(generation_predictors(runs(np.linspace(0.02, 0.2, 5), 1 + order)).sure)
    assert wrong <= 1


def test_tokenizers_that_tie_share_a_rank():
    result = generation_predictors(runs([0.02, 0.02, 0.1, 0.1, 0.2], [1, 1, 2, 2, 3]))
    assert by_name(result)["L1"].spearman == pytest.approx(1)
    assert by_name(result)["L1"].kendall == pytest.approx(1)


def test_a_diagnostic_that_one_tokenizer_lacks_or_that_never_differs_is_not_tried():
    made = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    with_codes = {"codes": np.zeros((60, 2), np.int32), "codebook": np.zeros((1, 4, 2), np.float32)}
    result = generation_predictors([replace(made[0], **with_codes), *made[1:]])
    assert {"used share", "numbers an image"} <= set(result.lacking)
    assert result.tried == 3


def test_generators_of_one_tokenizer_count_once():
    made = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    result = generation_predictors([*made, generator("again", "t0", 3)])
    assert result.n == 4
    assert result.generations[0].value == pytest.approx((1 + 9) / 2)
    assert result.generations[0].generators == 2


def test_all_distances_are_of_as_many_images_as_the_fewest():
    made = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    made[1] = replace(made[1], sample_features=made[1].sample_features[:40])
    result = generation_predictors(made)
    assert result.images == 40
    # All 60 samples of the second are training images, moved by 2; 40 of each are no longer the same ones.
    assert result.generations[1].value != pytest.approx(4)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (generator("x", "t9", 1), "x: its tokenizer t9 is not selected"),
        (generator("x", "t0", 1, step=5), "x: it learned t0 at step 5, and the evidence is of 1"),
        (
            generator("x", "t0", 1, feature_extractor="inception"),
            "x: another feature extractor, inception",
        ),
        (generator("x", "t0", 1, sample_features=None), "x: there are no features of its samples"),
        (tokenizer("x"), "x: no generator of it can be compared"),
    ],
)
def test_what_cannot_be_paired_is_left_out_with_a_reason(odd, reason):
    result = generation_predictors([*runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4]), odd])
    assert result.left_out == (reason,)
    assert reason in result.summary()
    assert result.n == 4


def test_a_tokenizer_on_other_images_is_left_out():
    made = runs([0.02, 0.05, 0.1, 0.2, 0.3], [1, 2, 3, 4, 5])
    made[8] = replace(made[8], provenance=made[8].provenance | {"fingerprint": "g"})
    assert "g4: t4 was measured on other images" in generation_predictors(made).left_out


def test_generators_that_differ_in_more_than_their_tokenizers_are_warned_of():
    made = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    assert "The generators differ" not in generation_predictors(made).summary()
    made[1].provenance["settings"]["depth"] = 8
    assert "The generators differ in depth too" in generation_predictors(made).summary()


def test_of_three_tokenizers_nothing_is_said():
    with pytest.raises(
        NotApplicable, match="at least 4 tokenizers .*; of the 6 selected runs, 3 such pairs can be"
    ):
        generation_predictors(runs([0.02, 0.05, 0.1], [1, 2, 3]))


@pytest.mark.filterwarnings(
    "ignore:.*tasks have been successfully executed:UserWarning"
)  # stopped in the middle
def test_progress_is_told_tokenizer_by_tokenizer_and_a_listener_can_stop_the_work():
    heard, made = [], runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    with progress_listener(lambda *told: heard.append(told)):
        generation_predictors(made)
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done, total):
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled), progress_listener(stop):
        generation_predictors(made)
    with (
        pytest.raises(Cancelled),
        progress_listener(stop),
    ):  # also from within a diagnostic that takes long
        diagnostics_of(made[0], modes=True)


def test_numbers_of_the_summary_are_in_the_table():
    result = generation_predictors(runs(np.linspace(0.02, 0.2, 5), [2, 1, 3, 5, 4]))
    table = result.table()
    assert len(table) == result.tried == table["tried"][0]
    assert f"{table['spearman'][0]:+.2f}" in result.summary()
    assert list(table.columns[-5:]) == [f"t{i}" for i in range(5)]
    assert result.figure().layout.title.text
