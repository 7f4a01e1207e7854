from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap
from skimage.metrics import structural_similarity

from workbench.analysis.images.reconstruction import reconstruction
from workbench.analysis.images.structure import ssim
from workbench.analysis.runs.metrics import metric_comparison
from workbench.analysis.runs.settings import settings_comparison
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.run_table import setting_columns

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def run(name: str, error: float = 10, seed: int = 1, **arrays) -> Evidence:
    """A run whose reconstructions are off by noise of `error` grey levels."""
    noise = np.random.default_rng(seed).normal(0, error, IMAGES.shape)
    blurred = np.clip(IMAGES + noise, 0, 255).astype(np.uint8)
    told = {
        "run": name,
        "step": 5,
        "fingerprint": "f",
        "settings": {"num_tokens": 4, "dim": 8},
        "feature_extractor": "hog",
    }
    return Evidence(told, **({"images": IMAGES, "reconstructions": blurred} | arrays))


def with_settings(evidence: Evidence, **settings) -> Evidence:
    return replace(evidence, provenance=evidence.provenance | {"settings": settings})


def named(result) -> dict:
    return {(s.part, s.name): s.values for s in result.settings}


# Structural similarity


@pytest.mark.parametrize("side", [8, 16, 17])
def test_structural_similarity_agrees_with_scikit_image(side):
    images, others = IMAGES[:5, :side, :side], run("a", 40).reconstructions[:5, :side, :side]
    expected = [
        structural_similarity(a, b, channel_axis=2) for a, b in zip(images, others, strict=True)
    ]
    assert ssim(images, others) == pytest.approx(expected, abs=1e-9)


def test_of_images_smaller_than_the_window_the_widest_that_fits_is_taken():
    images, others = IMAGES[:5, :6, :6], run("a", 40).reconstructions[:5, :6, :6]
    expected = [
        structural_similarity(a, b, channel_axis=2, win_size=5)
        for a, b in zip(images, others, strict=True)
    ]
    assert ssim(images, others) == pytest.approx(expected, abs=1e-9)


def test_an_image_is_wholly_similar_to_itself_and_one_pixel_is_enough():
    assert ssim(IMAGES, IMAGES) == pytest.approx(np.ones(40))
    assert ssim(IMAGES[:2, :1, :1], IMAGES[:2, :1, :1]) == pytest.approx([1, 1])


# Metrics


def test_the_difference_is_that_of_the_means_and_counts_are_of_images():
    a, b = run("a", 10), run("b", 20)
    result = metric_comparison([a, b])
    psnr_a, psnr_b = (reconstruction(e.images, e.reconstructions).psnr for e in (a, b))
    only = result.differences[0]
    assert only.difference == pytest.approx(psnr_b.mean() - psnr_a.mean())
    assert (only.better, only.tied, only.worse) == (0, 0, 40)
    assert only.verdict == "worse"


def test_the_interval_agrees_with_scipys_bootstrap_of_paired_differences():
    a, b = run("a", 20), run("b", 20, seed=2)
    result = metric_comparison([a, b], metric="mse").differences[0]
    errors = [
        np.square(e.images / 255 - e.reconstructions / 255).mean(axis=(1, 2, 3)) for e in (a, b)
    ]
    expected = bootstrap(
        (errors[1] - errors[0],), np.mean, method="percentile", rng=0
    ).confidence_interval
    width = expected.high - expected.low
    assert (result.low, result.high) == pytest.approx(
        (expected.low, expected.high), abs=0.1 * width
    )


def test_pairing_sees_what_the_spread_over_images_hides():
    """Images differ from each other by far more than the runs do on each of them."""
    strength = np.linspace(2, 60, 40)[:, None, None, None]
    noise = np.random.default_rng(3).normal(size=IMAGES.shape) * strength
    a, b = (
        replace(run("x"), reconstructions=np.clip(IMAGES + g * noise, 0, 255).astype(np.uint8))
        for g in (1, 0.9)
    )
    b.provenance["run"] = "b"
    result = metric_comparison([a, b]).differences[0]
    spread = reconstruction(a.images, a.reconstructions).psnr.std()
    assert result.verdict == "better"
    assert result.high - result.low < 0.1 * spread


@pytest.mark.parametrize(
    ("metric", "sign"), [("psnr", -1), ("ssim", -1), ("l1", 1), ("mse", 1), ("features", 1)]
)
def test_a_run_with_larger_errors_is_worse_by_every_metric(metric, sign):
    features = {"features": np.zeros((40, 2)), "reconstruction_features": np.ones((40, 2))}
    far = features | {"reconstruction_features": 2 * np.ones((40, 2))}
    result = metric_comparison(
        [run("a", 10, **features), run("b", 30, **far)], metric=metric
    ).differences[0]
    assert np.sign(result.difference) == sign
    assert (result.verdict, result.share) == ("worse", 0)


def test_equal_runs_tie_on_every_image_and_are_undecided():
    result = metric_comparison([run("a"), run("b")])
    only = result.differences[0]
    assert (only.better, only.tied, only.worse, only.verdict) == (0, 40, 0, "undecided")
    assert (
        "b is not told from a by +0 dB (+0 to +0), and better on 0 % of the images."
        in result.summary()
    )


def test_undecided_is_said_in_about_19_of_20_cases_without_a_difference():
    undecided = sum(
        metric_comparison([run("a", 20, seed=2 * i), run("b", 20, seed=2 * i + 1)])
        .differences[0]
        .verdict
        == "undecided"
        for i in range(40)
    )
    assert undecided >= 34


def test_runs_on_other_images_and_without_reconstructions_are_left_out_and_named():
    shuffled = run("other", images=IMAGES[::-1])
    generator = Evidence({"run": "flow", "step": 1})
    result = metric_comparison([run("a"), shuffled, generator, run("b", 12)])
    assert [d.run for d in result.differences] == ["b"]
    assert set(result.left_out) == {
        "other was measured on other images",
        "flow has nothing to measure",
    }
    assert (
        "Left out: flow has nothing to measure; other was measured on other images."
        in result.summary()
    )


@pytest.mark.parametrize(
    ("evidences", "sentence"),
    [
        ([run("a")], "needs two runs .*; of the 1 selected, 1 has reconstructions"),
        ([run("a"), run("b", images=IMAGES[::-1])], "of the 2 selected, 2 have reconstructions"),
        ([Evidence({"run": "flow", "step": 1})], "of the 1 selected, 0 have reconstructions"),
    ],
)
def test_nothing_to_compare_with_is_said_in_a_sentence(evidences, sentence):
    with pytest.raises(NotApplicable, match=sentence):
        metric_comparison(evidences)


def test_nine_images_are_too_few():
    few = {"images": IMAGES[:9], "reconstructions": IMAGES[:9]}
    with pytest.raises(NotApplicable, match="at least 10 images; these runs have 9"):
        metric_comparison([run("a", **few), run("b", **few)])


def test_features_that_hold_nan_are_refused():
    broken = {"features": np.zeros((40, 2)), "reconstruction_features": np.full((40, 2), np.nan)}
    with pytest.raises(UserError, match="features of a hold NaN"):
        metric_comparison([run("a", **broken), run("b", **broken)], metric="features")


def test_the_picture_says_which_side_is_better_and_the_table_has_its_numbers():
    result = metric_comparison([run("a"), run("b", 20)], metric="l1")
    assert "left of the line is better" in result.figure().layout.title.subtitle.text
    row = result.table().iloc[0]
    assert f"{row['difference']:+.4g} ({row['low']:+.4g} to {row['high']:+.4g})" in result.summary()
    assert row["reference"] == "a" and row["n"] == 40


# Settings


def test_only_settings_that_differ_are_shown_and_all_on_demand():
    runs = [run("a"), with_settings(run("b"), num_tokens=8, dim=8)]
    assert list(settings_comparison(runs).table()["setting"]) == ["num_tokens"]
    everything = settings_comparison(runs, show="all").table()
    assert {"num_tokens", "dim", "step", "fingerprint"} <= set(everything["setting"])
    assert list(everything["setting"][everything["differs"]]) == ["num_tokens"]
    assert settings_comparison(runs).summary() == "1 of 5 settings differ among 2 runs: tokens."


def test_what_training_was_told_is_compared_too():
    """Seed, steps and learning rate are no settings of the tokenizer; they stand in the training section."""
    runs = [
        Evidence({"run": name, "step": 1, "training": {"steps": 60, "seed": i}})
        for i, name in enumerate("ab")
    ]
    rows = settings_comparison(runs).table()
    assert rows[["part", "setting", "a", "b"]].to_numpy().tolist() == [["training", "seed", "0", "1"]]


def test_a_setting_that_a_run_does_not_have_is_a_dash():
    runs = [with_settings(run("a"), beta=0.1), with_settings(run("b"), levels=(8, 5))]
    assert named(settings_comparison(runs))["settings", "beta"] == ("0.1", "–")
    assert named(settings_comparison(runs))["settings", "levels"] == ("–", "8, 5")


def test_a_sentence_names_ten_settings_and_counts_the_rest():
    runs = [with_settings(run(name), **{f"s{i}": name for i in range(12)}) for name in "ab"]
    assert settings_comparison(runs).summary().endswith("s8, s9, and 2 more.")


def test_settings_that_are_all_the_same_are_shown_and_said_to_be():
    result = settings_comparison([run("a"), run("b")])
    assert result.summary() == "All 5 settings of 2 runs are the same."
    assert len(result.table()) == 5


def test_one_run_alone_shows_what_it_has():
    result = settings_comparison([run("a")])
    assert list(result.table()["a"][:2]) == ["4", "8"]
    assert result.summary().startswith("a alone has 5 settings")


def test_moments_of_every_channel_are_no_column_of_the_run_list(tmp_path):
    settings = {"dim": 2, "by_channel": True, "mean": [0.0, 1.0], "std": [1.0, 2.0]}
    for name, more in (("each", {}), ("alike", {"by_channel": False, "mean": 0.5, "std": 1.5})):
        told = {
            "class": "x:X",
            "settings": settings | more,
            "training": {"lr": 0.1},
            "recipe": "sit-digits",
        }
        found = setting_columns(Run.create(tmp_path / name, told))
        assert found["dim"] == 2 and found["lr"] == 0.1 and ("std" in found) == (name == "alike")


def test_checkpoints_of_one_run_have_columns_of_their_own():
    later = replace(run("a"), provenance=run("a").provenance | {"step": 9})
    assert settings_comparison([run("a"), later, later]).runs == ("a @ 5", "a @ 9 #1", "a @ 9 #2")


def test_settings_come_before_everything_else_and_versions_last():
    told = run("a").provenance | {"versions": {"numpy": "2"}, "settings": {"num_tokens": 1}}
    parts = [s.part for s in settings_comparison([Evidence(told)]).settings]
    assert parts[0] == "settings" and parts[-1] == "versions"


def test_text_from_a_run_cannot_become_markup_in_the_figure():
    result = settings_comparison([run("a"), with_settings(run("b"), teacher="<b onclick=x>")])
    assert "&lt;b onclick=x&gt;" in str(result.figure().data[0].cells.values)
