from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap
from skimage.metrics import structural_similarity

from workbench.analysis.images.reconstruction import reconstruction
from workbench.analysis.images.structure import ssim
from workbench.analysis.plotting.run_colors import RUN_COLORS, colors_of_runs
from workbench.analysis.runs.candidates import CANDIDATE_METRICS
from workbench.analysis.runs.metrics import METRICS, metric_comparison
from workbench.analysis.runs.setting_effects import setting_effects
from workbench.analysis.runs.settings import settings_comparison
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.workspace.run_table import setting_columns

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def run(name: str, error: float = 10, seed: int = 1, **arrays) -> Evidence:
    """Return evidence whose reconstructions have noise of `error` gray levels."""
    noise = np.random.default_rng(seed).normal(0, error, IMAGES.shape)
    blurred = np.clip(IMAGES + noise, 0, 255).astype(np.uint8)
    provenance = {
        "run": name,
        "step": 5,
        "fingerprint": "f",
        "settings": {"num_tokens": 4, "dim": 8},
        "feature_extractor": "hog",
    }
    return Evidence(provenance, **({"images": IMAGES, "reconstructions": blurred} | arrays))


def with_settings(evidence: Evidence, **settings) -> Evidence:
    return replace(evidence, provenance=evidence.provenance | {"settings": settings})


def values_by_name(result) -> dict:
    return {(s.part, s.name): s.values for s in result.settings}


# Structural similarity


@pytest.mark.parametrize("side", [8, 16, 17])
def test_ssim_matches_scikit_image(side):
    images, decoded = IMAGES[:5, :side, :side], run("a", 40).reconstructions[:5, :side, :side]
    expected = [
        structural_similarity(a, b, channel_axis=2) for a, b in zip(images, decoded, strict=True)
    ]
    assert ssim(images, decoded) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_small_images_uses_widest_window():
    images, decoded = IMAGES[:5, :6, :6], run("a", 40).reconstructions[:5, :6, :6]
    expected = [
        structural_similarity(a, b, channel_axis=2, win_size=5)
        for a, b in zip(images, decoded, strict=True)
    ]
    assert ssim(images, decoded) == pytest.approx(expected, abs=1e-9)


def test_indices_of_two_windows_have_two_names():
    measured = metric_comparison([run("a"), run("b", 20)], metric="ssim").name
    assert measured == METRICS["ssim"].label != CANDIDATE_METRICS["ssim"].label


def test_ssim_of_identical_images_is_one():
    assert ssim(IMAGES, IMAGES) == pytest.approx(np.ones(40))
    assert ssim(IMAGES[:2, :1, :1], IMAGES[:2, :1, :1]) == pytest.approx([1, 1])


# Metrics


def test_difference_of_means_and_image_counts():
    a, b = run("a", 10), run("b", 20)
    result = metric_comparison([a, b])
    psnr_a, psnr_b = (reconstruction(e.images, e.reconstructions).psnr for e in (a, b))
    difference = result.differences[0]
    assert difference.difference == pytest.approx(psnr_b.mean() - psnr_a.mean())
    assert (difference.better, difference.tied, difference.worse) == (0, 0, 40)
    assert difference.verdict == "worse"


def test_interval_matches_scipy_bootstrap():
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


def test_pairing_narrows_the_interval():
    """Images differ far more from each other than runs differ on one image."""
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
def test_larger_errors_are_worse_in_every_metric(metric, sign):
    features = {"features": np.zeros((40, 2)), "reconstruction_features": np.ones((40, 2))}
    distant = features | {"reconstruction_features": 2 * np.ones((40, 2))}
    result = metric_comparison(
        [run("a", 10, **features), run("b", 30, **distant)], metric=metric
    ).differences[0]
    assert np.sign(result.difference) == sign
    assert (result.verdict, result.better_share) == ("worse", 0)


def test_equal_runs_are_undecided():
    result = metric_comparison([run("a"), run("b")])
    difference = result.differences[0]
    assert (difference.better, difference.tied, difference.worse, difference.verdict) == (
        0,
        40,
        0,
        "undecided",
    )
    assert "+0.00 dB (+0.00 to +0.00)" in result.summary()


def test_undecided_rate_without_difference():
    undecided = sum(
        metric_comparison([run("a", 20, seed=2 * i), run("b", 20, seed=2 * i + 1)])
        .differences[0]
        .verdict
        == "undecided"
        for i in range(40)
    )
    assert undecided >= 34


def test_incomparable_runs_are_excluded_by_name():
    shuffled = run("other", images=IMAGES[::-1])
    generator = Evidence({"run": "flow", "step": 1})
    result = metric_comparison([run("a"), shuffled, generator, run("b", 12)])
    assert [d.run for d in result.differences] == ["b"]
    assert set(result.excluded) == {
        "other was measured on other images",
        "flow has no such measurement",
    }
    assert "flow" in result.summary() and "other" in result.summary()


@pytest.mark.parametrize(
    ("evidences", "count"),
    [
        ([run("a")], 1),
        ([run("a"), run("b", images=IMAGES[::-1])], 2),
        ([Evidence({"run": "flow", "step": 1})], 0),
    ],
)
def test_fewer_than_two_comparable_runs_raise(evidences, count):
    with pytest.raises(NotApplicable, match=f"{len(evidences)} .*{count} "):
        metric_comparison(evidences)


def test_nine_images_raise():
    nine_images = {"images": IMAGES[:9], "reconstructions": IMAGES[:9]}
    with pytest.raises(NotApplicable, match="10 images.* 9"):
        metric_comparison([run("a", **nine_images), run("b", **nine_images)])


def test_nan_features_raise():
    broken = {"features": np.zeros((40, 2)), "reconstruction_features": np.full((40, 2), np.nan)}
    with pytest.raises(UserError, match=r"\ba\b"):
        metric_comparison([run("a", **broken), run("b", **broken)], metric="features")


def test_figure_states_better_side():
    result = metric_comparison([run("a"), run("b", 20)], metric="l1")
    assert "left of the line is better" in result.figure().layout.title.subtitle.text
    row = result.table().iloc[0]
    assert f"{row['difference']:+.4g} ({row['low']:+.4g} to {row['high']:+.4g})" in result.summary()
    assert row["reference"] == "a" and row["n"] == 40


# Settings


def test_metric_against_the_settings_of_a_sweep():
    def trained(name: str, error: float, **settings) -> Evidence:
        base = run(name, error)
        return replace(base, provenance=base.provenance | {"training": settings})

    runs = [
        trained("a", 10, lr=1e-1, precision="no", seed=0),
        trained("b", 20, lr=1e-2, precision="bf16", seed=0),
        trained("c", 30, lr=1e-3, precision="bf16", seed=0),
        trained("d", 40, lr=1e-4, precision="no", seed=0),
    ]
    result = setting_effects(runs)
    by_name = {effect.name: effect for effect in result.effects}
    assert list(by_name) == ["lr", "precision"]  # all have the same seed
    assert by_name["lr"].correlation == pytest.approx(1.0)
    assert np.isnan(by_name["precision"].correlation)
    assert result.runs[result.best] == "a" and "lr = 0.1" in result.summary()
    coordinates = result.figure().data[0]
    assert [d.label for d in coordinates.dimensions] == ["lr", "precision", "PSNR"]
    assert list(coordinates.dimensions[0]["values"]) == pytest.approx([-1, -2, -3, -4])
    other = replace(runs[3], provenance=runs[3].provenance | {"run": "e", "fingerprint": "g"})
    mixed = setting_effects([*runs, other])
    assert mixed.runs == result.runs and mixed.other_images == ("e",)
    with pytest.raises(NotApplicable):
        setting_effects(runs[:2])


def test_differing_settings_or_all():
    runs = [run("a"), with_settings(run("b"), num_tokens=8, dim=8)]
    assert list(settings_comparison(runs).table()["setting"]) == ["num_tokens"]
    all_settings = settings_comparison(runs, show="all").table()
    assert {"num_tokens", "dim", "step", "fingerprint"} <= set(all_settings["setting"])
    assert list(all_settings["setting"][all_settings["differs"]]) == ["num_tokens"]
    assert "num_tokens" in settings_comparison(runs).summary()


def test_settings_of_other_kinds_and_derived_facts_do_not_differ():
    """A setting that one run lacks, or that follows from another, is no difference."""
    runs = [with_settings(run("a"), beta=0.1, dim=4), with_settings(run("b"), dim=8, levels=5)]
    runs[1].provenance["fingerprint"] = "another"
    assert list(settings_comparison(runs).table()["setting"]) == ["dim"]


def test_runs_have_the_colors_of_the_workspace_in_figures():
    tokenizers = [run("a"), run("b", 20), run("c", 30)]
    colors = {"c": RUN_COLORS[0], "b": RUN_COLORS[1]}
    figure = metric_comparison(tokenizers).with_run_colors(colors).figure()
    labels = figure.layout.yaxis.ticktext
    assert colors["c"] in labels[0] and colors["b"] in labels[1]
    assert colors_of_runs(["b @ 5", "a"], colors) == {"b @ 5": RUN_COLORS[1], "a": RUN_COLORS[0]}


def test_training_settings_are_compared():
    """Seed, steps and learning rate are not settings of the tokenizer."""
    runs = [
        Evidence({"run": name, "step": 1, "training": {"steps": 60, "seed": i}})
        for i, name in enumerate("ab")
    ]
    rows = settings_comparison(runs).table()
    assert rows[["part", "setting", "a", "b"]].to_numpy().tolist() == [
        ["training", "seed", "0", "1"]
    ]


def test_addresses_and_options_of_imported_runs_are_compared():
    folder = "a/rather/long/path/" * 5
    runs = [
        Evidence({"run": name, "step": 0, "imported": {"notes": [name], **imported}})
        for name, imported in (
            ("a", {"address": f"ldm:{folder}ema.ckpt", "options": {"posterior": "mean"}}),
            ("b", {"address": f"ldm:{folder}last.ckpt", "options": {"posterior": "sample"}}),
        )
    ]
    rows = settings_comparison(runs).table()
    assert list(rows["setting"]) == ["address", "options"]
    assert rows["a"][0] != rows["b"][0] and rows["b"][1] == "posterior=sample"


def test_missing_setting_is_a_dash():
    runs = [with_settings(run("a"), beta=0.1), with_settings(run("b"), levels=(8, 5))]
    assert values_by_name(settings_comparison(runs))["settings", "beta"] == ("0.1", "–")
    assert values_by_name(settings_comparison(runs))["settings", "levels"] == ("–", "8, 5")


def test_summary_names_ten_settings():
    runs = [with_settings(run(name), **{f"s{i}": name for i in range(12)}) for name in "ab"]
    assert settings_comparison(runs).summary().endswith("s8, s9, and 2 more.")


def test_equal_settings_are_all_displayed():
    result = settings_comparison([run("a"), run("b")])
    assert result.differing == ()
    assert len(result.table()) == 5


def test_settings_of_one_run():
    result = settings_comparison([run("a")])
    assert list(result.table()["a"][:2]) == ["4", "8"]
    assert "5 settings" in result.summary()


def test_run_list_omits_per_channel_moments(tmp_path):
    settings = {"dim": 2, "by_channel": True, "mean": [0.0, 1.0], "std": [1.0, 2.0]}
    for name, overrides in (
        ("each", {}),
        ("alike", {"by_channel": False, "mean": 0.5, "std": 1.5}),
    ):
        provenance = {
            "class": "x:X",
            "settings": settings | overrides,
            "training": {"lr": 0.1},
            "recipe": "sit-digits",
        }
        columns = setting_columns(Run.create(tmp_path / name, provenance))
        assert (
            columns["dim"] == 2 and columns["lr"] == 0.1 and ("std" in columns) == (name == "alike")
        )


def test_checkpoints_of_one_run_have_distinct_names():
    later = replace(run("a"), provenance=run("a").provenance | {"step": 9})
    assert settings_comparison([run("a"), later, later]).runs == ("a @ 5", "a @ 9 #1", "a @ 9 #2")


def test_settings_first_and_versions_last():
    provenance = run("a").provenance | {"versions": {"numpy": "2"}, "settings": {"num_tokens": 1}}
    parts = [s.part for s in settings_comparison([Evidence(provenance)]).settings]
    assert parts[0] == "settings" and parts[-1] == "versions"


def test_text_of_runs_is_escaped_in_figure():
    result = settings_comparison([run("a"), with_settings(run("b"), teacher="<b onclick=x>")])
    assert "&lt;b onclick=x&gt;" in str(result.figure().data[0].cells.values)
