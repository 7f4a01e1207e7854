from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau, permutation_test, spearmanr
from scipy.stats import t as t_distribution

import workbench as wb
from benchmarks.claims.calibration import calibration_text
from workbench.analysis.runs.diagnostics import BY_NAME, diagnostics_of
from workbench.analysis.runs.expectation import (
    MIN_PROBABILITY,
    published_fit,
    published_range,
    short_training,
    stored_prediction,
)
from workbench.analysis.runs.generation_prediction import generation_prediction
from workbench.analysis.runs.generation_predictors import SIGNIFICANCE_LEVEL, generation_predictors
from workbench.analysis.stats import rank_correlation
from workbench.core.errors import NotApplicable
from workbench.core.progress import Cancelled, progress_listener
from workbench.storage.calibration import (
    CLAIMS,
    calibration_tokenizers,
    measured_tokenizers,
    published_correlations,
)
from workbench.storage.evidence import Evidence

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
FEATURES = np.random.default_rng(1).normal(size=(60, 3))


def tokenizer(name: str, error: float = 0.05, step: int = 1, **arrays) -> Evidence:
    """Return evidence of a tokenizer with noise of `error` and random latents."""
    noise = np.random.default_rng(2).normal(0, 255 * error, IMAGES.shape)
    blurred = np.clip(IMAGES + noise, 0, 255).astype(np.uint8)
    provenance = {
        "run": name,
        "step": step,
        "fingerprint": "f",
        "split": "test",
        "n": 60,
        "class": "m:AE",
    }
    latents = np.random.default_rng(3).normal(size=(60, 2, 2)).astype(np.float32)
    defaults = {"images": IMAGES, "reconstructions": blurred, "latents": latents} | arrays
    return Evidence(provenance, **defaults)


def generator(
    name: str,
    tokenizer_name: str,
    shift: float,
    step: int = 1,
    feature_extractor: str = "hog",
    **arrays,
) -> Evidence:
    """Return evidence of a generator whose gFD is about `shift` squared."""
    provenance = {
        "run": name,
        "step": 9,
        "tokenizer": {"run": f"../{tokenizer_name}", "step": step},
        "feature_extractor": feature_extractor,
    }
    provenance |= {
        "settings": {"depth": 2, "num_tokens": sum(map(ord, tokenizer_name))},
        "sampling": {"guidance": 2.0, "seed": 0},
    }
    return Evidence(
        provenance,
        train_features=FEATURES,
        **({"sample_features": FEATURES + [shift, 0, 0]} | arrays),
    )


def runs(errors, shifts) -> list[Evidence]:
    pairs = enumerate(zip(errors, shifts, strict=True))
    evidences = [
        (tokenizer(f"t{i}", error), generator(f"g{i}", f"t{i}", shift))
        for i, (error, shift) in pairs
    ]
    return [evidence for pair in evidences for evidence in pair]


def in_family(evidences, name: str) -> list[Evidence]:
    """Return the runs with other names, and with tokenizers of another class."""
    moved = []
    for evidence in evidences:
        provenance = evidence.provenance | {"run": f"{name}-{evidence.run_name}"}
        if evidence.latents is None:
            source = provenance["tokenizer"]
            provenance["tokenizer"] = source | {"run": f"{name}-{source['run'].rpartition('/')[2]}"}
        else:
            provenance["class"] = f"m:{name}"
        moved.append(replace(evidence, provenance=provenance))
    return moved


def by_name(result) -> dict:
    return {c.diagnostic: c for c in result.correlations}


# Rank correlations


def test_spearman_matches_scipy_with_ties():
    random = np.random.default_rng(0)
    for n in (4, 7, 30):
        values, target = random.integers(0, 4, (n, 5)), random.integers(0, 4, n)
        expected = [spearmanr(column, target).statistic for column in values.T]
        assert rank_correlation.spearman(values, target) == pytest.approx(np.nan_to_num(expected))


def test_p_value_matches_scipy_exact_permutations():
    random = np.random.default_rng(1)
    for n in (4, 5, 6):
        x, y = random.normal(size=n), random.normal(size=n)
        correlations = rank_correlation.spearman(x[:, None], y)
        p, adjusted = rank_correlation.p_values(
            correlations, rank_correlation.permutation_null(x[:, None], y)
        )
        statistic = lambda permuted: spearmanr(permuted, y).statistic  # noqa: B023, E731
        exact = permutation_test((x,), statistic, permutation_type="pairings", n_resamples=1000)
        both_sides = np.mean(np.abs(exact.null_distribution) >= abs(exact.statistic) - 1e-9)
        assert p[0] == adjusted[0] == pytest.approx(both_sides)


def test_missing_variable_has_no_p_value_and_leaves_the_others():
    random = np.random.default_rng(2)
    x, y = random.normal(size=(7, 2)), random.normal(size=7)
    with_missing = np.column_stack([x, np.full(7, np.nan)])

    def both(values):
        null = rank_correlation.permutation_null(values, y)
        return rank_correlation.p_values(rank_correlation.spearman(values, y), null)

    for found, expected in zip(both(with_missing), both(x), strict=True):
        np.testing.assert_array_equal(found, [*expected, np.nan])


def test_p_value_of_perfect_order():
    x = np.arange(5.0)[:, None]
    p, _ = rank_correlation.p_values(np.array([1.0]), rank_correlation.permutation_null(x, x[:, 0]))
    assert p[0] == pytest.approx(2 / 120)


def test_null_of_many_items_is_near_normal_limit():
    x = np.random.default_rng(0).normal(size=(30, 1))
    null = rank_correlation.permutation_null(x, np.random.default_rng(1).normal(size=30))
    assert null.std() == pytest.approx(1 / np.sqrt(29), rel=0.03)


def test_permutations_within_families():
    families = ["a"] * 6 + ["b"] * 6
    family_indicator, target = np.repeat([0.0, 1.0], 6)[:, None], np.arange(12.0)
    correlations = rank_correlation.spearman(family_indicator, target)
    assert (
        rank_correlation.p_values(
            correlations, rank_correlation.permutation_null(family_indicator, target)
        )[0]
        < 0.01
    )
    assert (
        rank_correlation.p_values(
            correlations,
            rank_correlation.permutation_null(family_indicator, target, families=families),
        )[0]
        == 1
    )
    null = rank_correlation.permutation_null(target[:, None], target, families=families)
    assert null[0] == pytest.approx(1) and null.min() >= rank_correlation.spearman(
        np.array([5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6.0])[:, None], target
    )
    p = rank_correlation.p_values(np.array([1.0]), null)[0]
    assert p[0] == pytest.approx(1 / 20_001, abs=1e-4)


def test_families_of_the_same_names_are_permuted_alike():
    """What a target has in common in both families then cannot cancel out in a permutation."""
    families, names = ["a"] * 9 + ["b"] * 9, [*"abcdefghi", *"ihgfedcba"]
    target = np.concatenate([np.arange(9.0), np.arange(9.0)[::-1]])
    opposite = (np.where(np.arange(18) < 9, 1, -1) * (1 + target))[:, None]
    alike = rank_correlation.permutation_null(opposite, target, families=families, names=names)
    np.testing.assert_allclose(alike, 0, atol=1e-12)
    apart = rank_correlation.permutation_null(opposite, target, families=families)
    assert apart.std() > 0.1


def test_adjustment_ignores_copies_of_a_diagnostic():
    random = np.random.default_rng(2)
    x, y = random.normal(size=(6, 1)), random.normal(size=6)
    copies, unrelated = np.repeat(x, 10, axis=1), np.hstack([x, random.normal(size=(6, 9))])
    for values, same in ((copies, True), (unrelated, False)):
        correlations = rank_correlation.spearman(values, y)
        p, adjusted = rank_correlation.p_values(
            correlations, rank_correlation.permutation_null(values, y)
        )
        assert bool(adjusted[0] == p[0]) is same
        assert adjusted[0] >= p[0]


def test_false_positive_rate_of_unrelated_diagnostics():
    random, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        n = int(random.integers(4, 8))
        values, target = random.normal(size=(n, 12)), random.normal(size=n)
        correlations = rank_correlation.spearman(values, target)
        wrong += (
            rank_correlation.p_values(
                correlations, rank_correlation.permutation_null(values, target)
            )[1].min()
            <= SIGNIFICANCE_LEVEL
        )
    assert wrong <= 0.08 * 300


@pytest.mark.parametrize("n", [5, 8, 20])
def test_interval_covers_true_correlation(n):
    """Spearman's correlation of a bivariate Gaussian is 6 / pi arcsin(r / 2)."""
    random, r, inside = np.random.default_rng(n), 0.9, 0
    for _ in range(200):
        x = random.normal(size=n)
        y = r * x + np.sqrt(1 - r**2) * random.normal(size=n)
        low, high = rank_correlation.confidence_interval(spearmanr(x, y).statistic, n)
        inside += low <= 6 / np.pi * np.arcsin(r / 2) <= high
    assert inside >= 0.9 * 200


def test_interval_of_perfect_order():
    low, high = rank_correlation.confidence_interval(1.0, 5)
    assert low < 0 and high == 1
    assert rank_correlation.confidence_interval(-1.0, 20)[1] < -0.8
    assert rank_correlation.confidence_interval(-1.0, 5) == pytest.approx((-high, -low))


def test_more_diagnostics_need_more_tokenizers():
    assert [rank_correlation.min_sample_size(num_tests, 0.05) for num_tests in (1, 2, 20)] == [
        5,
        5,
        7,
    ]


# Diagnostics


def test_diagnostics_match_the_analyses():
    from workbench.analysis.images.reconstruction import reconstruction

    evidence = tokenizer("a", features=FEATURES, reconstruction_features=FEATURES + [2, 1, 0])
    diagnostics = diagnostics_of(evidence)
    assert diagnostics["PSNR"] == pytest.approx(
        reconstruction(evidence.images, evidence.reconstructions).mean
    )
    assert diagnostics["reconstruction distance"] == pytest.approx(5)
    assert diagnostics["numbers per image"] == 4
    assert 1 < diagnostics["participation ratio"] <= 2
    assert diagnostics["participation share"] == diagnostics["participation ratio"] / 2
    assert "perplexity share" not in diagnostics  # there are no codes
    assert set(diagnostics) <= set(BY_NAME)


def test_diagnostics_of_half_used_codebook():
    codes = np.tile(np.arange(4), (60, 1))
    diagnostics = diagnostics_of(
        tokenizer("a", codes=codes, codebook=np.zeros((1, 8, 2), np.float32))
    )
    assert diagnostics["used share"] == 0.5
    assert diagnostics["perplexity share"] == pytest.approx(0.5, rel=0.01)


def test_diagnostics_of_generator_raise():
    with pytest.raises(NotApplicable, match="g "):
        diagnostics_of(generator("g", "t", 1.0))


# Predictors of generation


def test_diagnostic_in_order_of_gfd_is_significant():
    errors = np.linspace(0.02, 0.2, 7)
    result = generation_predictors(runs(errors, np.linspace(1, 4, 7)))
    best = by_name(result)["L1"]
    assert best.spearman == pytest.approx(1)
    assert best.kendall == pytest.approx(kendalltau(errors, np.arange(7)).statistic)
    assert best.significant and best.better == "lower"
    assert by_name(result)["PSNR"].spearman == pytest.approx(-1)
    for part in ("n = 7 tokenizers, 3 diagnostics", "PSNR: higher"):
        assert part in result.summary()
    assert [g.value for g in result.distances] == pytest.approx(np.linspace(1, 4, 7) ** 2)


def two_families() -> list[Evidence]:
    """Return runs whose families differ in errors and distances, without an order within."""
    low = runs([0.02, 0.03, 0.04, 0.05], [2, 4, 1, 3])
    high = runs([0.12, 0.14, 0.16, 0.18], [7, 5, 8, 6])
    return [*in_family(low, "A"), *in_family(high, "B")]


def test_tokenizers_are_compared_within_families():
    result = generation_predictors(two_families())
    assert result.families == ("A with 2 × 2 latents",) * 4 + ("B with 2 × 2 latents",) * 4
    expected = [
        spearmanr(errors, distances).statistic
        for errors, distances in [(range(4), [2, 4, 1, 3]), (range(4), [7, 5, 8, 6])]
    ]
    assert by_name(result)["L1"].spearman == pytest.approx(np.mean(expected))
    assert by_name(result)["L1"].kendall == pytest.approx(0, abs=0.2)
    assert not result.significant
    # Over both families at once, the errors order the distances.
    assert generation_predictors(runs(np.linspace(0.02, 0.18, 8), range(1, 9))).significant
    assert len(set(result.figure().data[-2].marker.symbol)) == 2


def test_order_within_every_family_is_significant():
    first = runs([0.02, 0.03, 0.04, 0.05], [5, 6, 7, 8])
    second = runs([0.12, 0.14, 0.16, 0.18], [1, 2, 3, 4])
    result = generation_predictors([*in_family(first, "A"), *in_family(second, "B")])
    best = by_name(result)["L1"]
    assert best.spearman == pytest.approx(1) and best.kendall == pytest.approx(1)
    # 2 of the 24 x 24 orders within families.
    assert best.significant and best.p == pytest.approx(2 / 576, abs=0.0015)
    assert result.attainable == pytest.approx(best.p)


def test_shape_of_latents_separates_families_and_small_families_are_excluded():
    evidences = runs([0.02, 0.05, 0.1, 0.15, 0.2], [1, 2, 3, 4, 5])
    longer = np.random.default_rng(3).normal(size=(60, 3, 2)).astype(np.float32)
    evidences[8] = replace(evidences[8], latents=longer)
    result = generation_predictors(evidences)
    assert result.n == 4 and set(result.families) == {"AE with 2 × 2 latents"}
    assert len(result.excluded) == 1 and result.excluded[0].startswith("t4: ")
    assert "numbers per image" in result.omitted_diagnostics
    pairs = zip(evidences[::2], evidences[1::2], strict=True)
    alone = [run for i, pair in enumerate(pairs) for run in in_family(pair, f"F{i}")]
    with pytest.raises(NotApplicable):
        generation_predictors(alone)


def test_four_tokenizers_are_never_significant():
    result = generation_predictors(runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4]))
    assert abs(result.correlations[0].spearman) == pytest.approx(1)
    assert not result.significant
    assert result.correlations[0].p == pytest.approx(2 / 24)
    assert f"at least {result.min_tokenizers} tokenizers" in result.summary()


def test_random_order_is_rarely_significant():
    random, wrong = np.random.default_rng(5), 0
    for order in (random.permutation(5) for _ in range(4)):
        wrong += bool(generation_predictors(runs(np.linspace(0.02, 0.2, 5), 1 + order)).significant)
    assert wrong <= 1


def test_tied_tokenizers_share_a_rank():
    result = generation_predictors(runs([0.02, 0.02, 0.1, 0.1, 0.2], [1, 1, 2, 2, 3]))
    assert by_name(result)["L1"].spearman == pytest.approx(1)
    assert by_name(result)["L1"].kendall == pytest.approx(1)


def test_missing_or_constant_diagnostics_are_omitted():
    evidences = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    with_codes = {"codes": np.zeros((60, 2), np.int32), "codebook": np.zeros((1, 4, 2), np.float32)}
    result = generation_predictors([replace(evidences[0], **with_codes), *evidences[1:]])
    assert {"used share", "numbers per image"} <= set(result.omitted_diagnostics)
    assert result.num_diagnostics == 3


def test_generators_of_one_tokenizer_are_averaged():
    evidences = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    result = generation_predictors([*evidences, generator("again", "t0", 3)])
    assert result.n == 4
    assert result.distances[0].value == pytest.approx((1 + 9) / 2)
    assert result.distances[0].generators == 2


def test_distances_use_equal_numbers_of_images():
    evidences = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    evidences[1] = replace(evidences[1], sample_features=evidences[1].sample_features[:40])
    result = generation_predictors(evidences)
    assert result.images == 40
    # All 60 samples of the second are shifted training images; subsets of 40 do not correspond.
    assert result.distances[1].value != pytest.approx(4)


@pytest.mark.parametrize(
    ("extra_run", "reason"),
    [
        (generator("x", "t9", 1), "x: its tokenizer t9 is not selected"),
        (
            generator("x", "t0", 1, step=5),
            "x: it was trained on t0 at step 5, but the evidence is of step 1",
        ),
        (
            generator("x", "t0", 1, feature_extractor="inception"),
            "x: another feature extractor, inception",
        ),
        (generator("x", "t0", 1, sample_features=None), "x: there are no features of its samples"),
        (tokenizer("x"), "x: no generator of it can be compared"),
    ],
)
def test_unpaired_runs_are_excluded_with_a_reason(extra_run, reason):
    result = generation_predictors([*runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4]), extra_run])
    assert result.excluded == (reason,)
    assert reason in result.summary()
    assert result.n == 4


def test_tokenizer_on_other_images_is_excluded():
    evidences = runs([0.02, 0.05, 0.1, 0.2, 0.3], [1, 2, 3, 4, 5])
    evidences[8] = replace(evidences[8], provenance=evidences[8].provenance | {"fingerprint": "g"})
    assert "g4: t4 was measured on other images" in generation_predictors(evidences).excluded


def test_warning_for_other_differences_of_generators():
    evidences = runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    assert "depth" not in generation_predictors(evidences).summary()
    evidences[1].provenance["settings"]["depth"] = 8
    assert "depth" in generation_predictors(evidences).summary()


def test_three_tokenizers_raise():
    with pytest.raises(NotApplicable, match="4 .* 6 .* 3 "):
        generation_predictors(runs([0.02, 0.05, 0.1], [1, 2, 3]))


@pytest.mark.filterwarnings(
    "ignore:.*tasks have been successfully executed:UserWarning"
)  # stopped in the middle
def test_progress_per_tokenizer_and_cancellation():
    reports, evidences = [], runs([0.02, 0.05, 0.1, 0.2], [1, 2, 3, 4])
    with progress_listener(lambda *told: reports.append(told)):
        generation_predictors(evidences)
    assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done, total):
        raise Cancelled("Stopped.")

    with pytest.raises(Cancelled), progress_listener(stop):
        generation_predictors(evidences)
    with (
        pytest.raises(Cancelled),
        progress_listener(stop),
    ):  # also from within a diagnostic that takes long
        diagnostics_of(evidences[0], modes=True)


def test_summary_numbers_are_in_the_table():
    result = generation_predictors(runs(np.linspace(0.02, 0.2, 5), [2, 1, 3, 5, 4]))
    table = result.table()
    assert len(table) == result.num_diagnostics == table["num_diagnostics"][0]
    assert f"{table['spearman'][0]:+.2f}" in result.summary()
    assert list(table.columns[-5:]) == [f"t{i}" for i in range(5)]
    assert result.figure().layout.title.text


# Expected generation of a tokenizer without a generator


def test_published_table_is_consistent():
    tokenizers = calibration_tokenizers()
    assert len(tokenizers) == 14
    both = [t for t in tokenizers if np.isfinite(t.gfid_b)]
    ifid, xl, b = np.array([(t.ifid, t.gfid_xl, t.gfid_b) for t in both]).T
    # The correlations over the 13 tokenizers with both generators.
    assert np.corrcoef([ifid, xl, b])[0, 1:].round(3).tolist() == [0.877, 0.856]
    assert all(t.source for t in tokenizers)
    assert {t.name: t.rfid for t in tokenizers if np.isfinite(t.rfid)} == {
        "VA-VAE": 0.28,
        "MAETok": 0.48,
        "RAE": 0.49,
    }
    assert all(np.isnan(t.rfid) == (not t.quality_source) for t in tokenizers)
    assert all(c.source and 0 < c.abs_r < 1 and c.n >= 21 for c in published_correlations())
    known = {t.address for t in tokenizers if t.address}
    assert known and known <= set(wb.models()["address"])


def test_run_has_a_place_only_with_the_published_protocol():
    features = np.random.default_rng(0).normal(size=(60, 3))
    run = tokenizer("a", features=features, interpolation_features=features + 0.1)
    result = generation_prediction([run])
    (placement,) = result.placements
    assert not placement.has_place and len(placement.differences) == 3
    assert placement.ifid == pytest.approx(0.03, rel=0.01)
    assert not result.expectation.is_expected and result.expectation.measurement
    assert not generation_prediction([tokenizer("b")]).placements[0].has_place

    # At the center of the line, the interval of a new tokenizer is that of the residuals.
    fit = published_fit()
    ifid = float(np.exp(fit.x.mean()))
    result = generation_prediction([run], ifid=ifid)
    (placement,) = result.placements
    assert placement.expected == pytest.approx(np.exp(fit.y.mean()))
    margin = t_distribution.ppf(0.975, 12) * fit.deviation * np.sqrt(15 / 14)
    assert np.log(placement.high / placement.expected) == pytest.approx(margin)
    expected = result.expectation
    assert expected.probability >= MIN_PROBABILITY
    better = [t for t in calibration_tokenizers() if t.name == expected.reference]
    assert better[0].gfid_xl > placement.expected
    worst = generation_prediction([run], ifid=80).expectation
    assert not worst.is_expected and worst.probability < MIN_PROBABILITY
    assert len(result.table()) == 15 and len(result.figure().data) == 5


@pytest.mark.parametrize("ifid", [0.5, 6.3, 81, 400])
def test_no_expectation_is_extrapolated_from_the_published_table(ifid):
    low, high = published_range()
    # The table has iFIDs from 7.68 to 67.41.
    assert (low, high) == pytest.approx((7.68 / 1.2, 67.41 * 1.2))
    run = tokenizer("a")
    result = generation_prediction([run], ifid=ifid)
    assert not result.expectation.is_expected and np.isnan(result.expectation.probability)
    for number in (ifid, low, high):
        assert f"{number:.3g}" in result.expectation.reason
    (placement,) = result.placements
    assert placement.ifid == ifid and np.isnan(placement.expected) and not placement.has_place
    assert result.table()["ifid"][0] == ifid
    assert len(result.figure().data) == 4
    inside = generation_prediction([run], ifid=float(np.clip(ifid, low * 1.01, high / 1.01)))
    assert inside.placements[0].has_place and np.isfinite(inside.placements[0].expected)


def test_own_runs_predict_a_tokenizer_without_a_generator():
    errors = np.linspace(0.01, 0.2, 8)
    evidences = runs(errors, 1 + 10 * errors)
    good = tokenizer("new", 0.03)
    result = generation_prediction([*evidences, good]).expectation
    assert result.is_expected and result.run == "new" and result.n == 8
    assert result.metric in BY_NAME and result.probability >= MIN_PROBABILITY
    assert float(result.reference.removeprefix("t")) >= 1
    bad = generation_prediction([*evidences, tokenizer("new", 0.3)]).expectation
    assert not bad.is_expected

    assert generation_prediction(evidences).expectation.is_measured
    shuffled = runs(errors, (1 + 10 * errors)[[3, 0, 6, 1, 7, 2, 5, 4]])
    chance = generation_prediction([*shuffled, good]).expectation
    assert not chance.is_expected and np.isnan(chance.probability) and chance.measurement


def test_own_runs_predict_only_within_the_family():
    errors = np.linspace(0.01, 0.05, 5)
    low = in_family(runs(errors, 1 + 10 * errors), "A")
    high = in_family(runs(0.1 + errors, 10 + 10 * errors), "B")
    (new,) = in_family([tokenizer("new", 0.115)], "B")
    result = generation_prediction([*low, *high, new]).expectation
    # The line is that of the five tokenizers of the family.
    assert result.is_expected and result.reference.startswith("B-") and result.n == 5
    (unknown,) = in_family([tokenizer("new", 0.1)], "C")
    result = generation_prediction([*low, *high, unknown]).expectation
    assert not result.is_expected and result.reason and np.isnan(result.probability)
    # A diagnostic with opposite orders in two families does not predict a family that is left out.
    opposite = in_family(runs(0.1 + errors, 10 - 10 * errors), "B")
    result = generation_prediction([*low, *opposite, new]).expectation
    assert not result.is_expected and result.reason


def test_families_of_the_stored_claims_have_one_size():
    sizes: dict[tuple[str, str], set[float]] = {}
    for row in measured_tokenizers():
        sizes.setdefault((row.scale, row.family), set()).add(row.metrics["numbers per image"])
    assert all(len(values) == 1 for values in sizes.values())
    # The claim about VA-VAE has latents of several sizes.
    assert len({row.family for row in measured_tokenizers() if row.group == "VA-VAE"}) > 2


def test_stored_claims_state_if_metrics_and_short_trainings_predict():
    rows = measured_tokenizers()
    assert len(rows) > 80 and all(len(row.gfd) == 3 for row in rows)
    stored = stored_prediction()
    assert (stored.tokenizers, stored.families) == (23, 2) and stored.metric in BY_NAME
    assert stored.q2 < 1 and stored.num_metrics == 9
    # The best of nine metrics is no better than with shuffled distances.
    assert stored.p > 0.2 and not stored.predicts
    training = short_training()
    assert training.tokenizers == 6 and training.agreeing <= training.pairs <= 15
    assert training.trained_short <= training.trained_long and training.short < training.long
    assert training.short_seconds < training.long_seconds
    assert calibration_text() == CLAIMS.read_text(encoding="utf-8")
