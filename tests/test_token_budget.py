import math
from dataclasses import replace

import numpy as np
import pytest

from workbench.analysis.tokens.budget import token_budget
from workbench.analysis.tokens.cost import generator_gmacs
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence


def run(
    name: str, tokens: int, error: int, *, kind: str = "SoftVQ", fingerprint: str = "f", **arrays
) -> Evidence:
    """Return evidence of black images whose reconstructions are `error` levels too bright."""
    provenance = {
        "run": name,
        "step": 1,
        "fingerprint": fingerprint,
        "class": f"package.module:{kind}",
    }
    return Evidence(
        provenance | arrays.pop("provenance", {}),
        images=np.zeros((6, 4, 4, 1), np.uint8),
        reconstructions=np.full((6, 4, 4, 1), error, np.uint8),
        latents=np.zeros((6, tokens, 2), np.float32),
        **arrays,
    )


def psnr(error: int) -> float:
    return -20 * math.log10(error / 255)


def test_each_run_is_a_point_at_its_tokens():
    table = token_budget([run("a", 4, 51), run("b", 16, 10)]).table()
    assert table["tokens"].tolist() == [4, 16]
    assert table["psnr"].tolist() == pytest.approx([psnr(51), psnr(10)])


def test_summary_states_trend_and_frontier():
    runs = [run("b", 16, 10), run("a", 4, 51)]
    summary = token_budget(runs).summary()
    values = ("14.0 dB at 4 tokens in a", "28.1 dB at 16 tokens in b")
    for part in (*values, "a (4 tokens), b (16 tokens)"):
        assert part in summary
    error = token_budget(runs, metric="mse").summary()
    assert "0.0400 at 4 tokens" in error and "0.0015 at 16 tokens" in error
    assert "14.0 dB at 1 token " in token_budget([run("a", 1, 51)]).summary()


def test_prefixes_are_optional_points():
    mse = np.tile(np.array([0.1, 0.01], np.float32), (6, 1))
    evidence = run("a", 4, 10, prefixes=np.array([1, 2], np.int32), prefix_mse=mse)
    table = token_budget([evidence]).table()
    assert table["kind"].tolist() == ["all tokens", "prefix", "prefix"]
    assert table["psnr"].tolist() == pytest.approx([psnr(10), 10, 20])
    assert len(token_budget([evidence], prefixes=False).table()) == 1
    dashes = {trace.name: trace.line.dash for trace in token_budget([evidence]).figure().data}
    assert dashes == {"Pareto frontier": None, "a": None, "a, first tokens only": "dash"}


def test_frontier_is_pareto_optimal():
    points = token_budget(
        [run("a", 4, 50), run("b", 8, 60), run("c", 16, 10), run("d", 16, 20)]
    ).points
    assert {p.run for p in points if p.frontier} == {"a", "c"}
    points = token_budget([run("a", 4, 50), run("b", 8, 60)], metric="mse").points
    assert {p.run for p in points if p.frontier} == {"a"}


def test_runs_on_other_images_are_excluded():
    result = token_budget([run("a", 4, 50), run("b", 8, 20, fingerprint="other")])
    assert result.other_images == ("b",)
    assert result.table()["run"].tolist() == ["a"]
    assert result.summary().endswith(": b.")


def test_bits_of_discrete_tokens_only():
    coded = {"codes": np.zeros((6, 4), np.int32), "codebook": np.zeros((1, 64, 2), np.float32)}
    soft, hard = run("a", 4, 50, **coded), run("b", 4, 50, provenance={"discrete": True}, **coded)
    assert [p.bits for p in token_budget([soft, hard]).points] == pytest.approx(
        [math.nan, 24], nan_ok=True
    )


def test_runs_of_one_class_share_a_line():
    figure = token_budget(
        [run("a", 4, 50), run("b", 8, 40), run("c", 8, 20, kind="KLVAE")]
    ).figure()
    lines = {trace.name: len(trace.x) for trace in figure.data}
    assert lines == {"Pareto frontier": 2, "SoftVQ": 2, "a": 1, "b": 1, "c": 1}


def test_nan_prefixes_are_ignored():
    mse = np.full((6, 2), np.nan, np.float32)
    mse[:3, 0] = 0.1
    points = token_budget([run("a", 4, 10, prefixes=np.array([1, 2]), prefix_mse=mse)]).points
    assert points[1].value == pytest.approx(10)
    assert math.isnan(points[2].value)
    assert not points[2].frontier


def test_generators_are_ignored():
    generator = Evidence({"run": "g", "step": 1}, samples=np.zeros((2, 4, 4, 1), np.uint8))
    assert token_budget([generator, run("a", 4, 50)]).table()["run"].tolist() == ["a"]
    with pytest.raises(NotApplicable):
        token_budget([generator])


def test_generator_work_matches_sit_xl():
    """The published model has 28 layers of width 1,152; the cost sums its matrix products."""
    tokens, w = 64, 1152
    matrices = 3 * w * w + w * w + 2 * 4 * w * w  # to queries, keys and values; out; up and down
    layer = tokens * matrices + 2 * tokens * tokens * w + 6 * w * w
    assert generator_gmacs(tokens) == pytest.approx(28 * layer / 1e9)
    assert [round(float(generator_gmacs(n)), 1) for n in (32, 64, 128, 256, 1024)] == [
        14.6,
        29.0,
        58.4,
        118.6,
        524.5,
    ]


def test_continuous_tokens_are_excluded_from_bits():
    coded = {"codes": np.zeros((6, 4), np.int32), "codebook": np.zeros((1, 64, 2), np.float32)}
    runs = [run("a", 4, 50, **coded, provenance={"discrete": True}), run("b", 8, 20)]
    result = token_budget(runs, against="bits per pixel")
    assert [p.cost("bits per pixel") for p in result.points] == [24 / 16]
    assert result.without_cost == ("b",)
    assert result.summary().endswith(": b.")
    with pytest.raises(NotApplicable, match="bits"):
        token_budget(runs[1:], against="bits")


def test_l1_ssim_and_feature_metrics():
    features = {
        "features": np.zeros((6, 2), np.float32),
        "reconstruction_features": np.full((6, 2), 3, np.float32),
    }
    first, second = (
        run("a", 4, 51, **features, provenance={"feature_extractor": "hog"}),
        run("b", 8, 0),
    )
    assert token_budget([first], metric="l1").points[0].value == pytest.approx(0.2)
    assert token_budget([second], metric="ssim").points[0].value == pytest.approx(1)
    result = token_budget([first, second], metric="features")
    assert [p.value for p in result.points] == [pytest.approx(math.sqrt(18))]
    assert result.unmeasured == ("b",)


def test_adaptive_run_costs_its_mean_tokens():
    active = np.arange(8) < np.array([2, 2, 2, 6, 6, 6])[:, None]
    (point,) = token_budget([run("a", 8, 10, active=active)]).points
    assert (point.kind, point.tokens) == ("adaptive", 4)
    assert point.gmacs == pytest.approx((generator_gmacs(2) + generator_gmacs(6)) / 2)


def test_requested_errors_are_points_of_l1():
    requests = {
        "requested": np.array([0.1, 0.2]),
        "reached": np.full((2, 6), [[0.09], [0.18]]),
        "spent": np.full((2, 6), 3),
    }
    evidence = run("a", 8, 10, active=np.ones((6, 8), bool), **requests)
    assert [p.kind for p in token_budget([evidence], metric="l1").points] == ["adaptive"] * 3
    assert [p.value for p in token_budget([evidence], metric="l1").points] == pytest.approx(
        [0.09, 0.18, 10 / 255]
    )
    assert len(token_budget([evidence]).points) == 1
    fixed = {"budgets": np.array([2, 8]), "budget_l1": np.full((2, 6), [[0.15], [0.01]])}
    evidence = run("a", 8, 10, active=np.ones((6, 8), bool), **requests, **fixed)
    points = token_budget([evidence], metric="l1").points
    perfect = [(p.tokens, round(p.value, 6), p.frontier) for p in points if p.kind == "perfect"]
    assert perfect == [(2, 0.15, False), (8, 0.01, False)]  # a bound, not a tokenizer


def test_frontier_depends_on_cost():
    """Four tokens of a large codebook cost more bits than five of a small one."""

    def coded(size: int, tokens: int) -> dict:
        codes = {
            "codes": np.zeros((6, tokens), np.int32),
            "codebook": np.zeros((1, size, 2), np.float32),
        }
        return codes | {"provenance": {"discrete": True}}

    runs = [run("large", 4, 50, **coded(1024, 4)), run("small", 5, 50, **coded(4, 5))]
    assert [p.run for p in token_budget(runs).frontier] == ["large"]
    assert [p.run for p in token_budget(runs, against="bits").frontier] == ["small"]


# Metrics in features


def featured(name: str, tokens: int, offset: float, n: int = 40, **arrays) -> Evidence:
    """Return evidence whose reconstruction features are those of the images plus an offset."""
    random = np.random.default_rng(0)
    real = random.normal(size=(n, 2)).astype(np.float32)
    provenance = {
        "run": name,
        "step": 1,
        "fingerprint": "f",
        "class": "m:SoftVQ",
        "feature_extractor": "hog",
    }
    return Evidence(
        provenance | arrays.pop("provenance", {}),
        images=np.zeros((n, 4, 4, 1), np.uint8),
        reconstructions=np.zeros((n, 4, 4, 1), np.uint8),
        latents=np.zeros((n, tokens, 2), np.float32),
        features=real,
        reconstruction_features=real + np.float32(offset),
        **arrays,
    )


def test_rfd_of_constant_offset():
    """An offset of every row costs its squared length, for any half of the images."""
    (point,) = token_budget([featured("a", 4, 3)], metric="rfd").points
    assert (point.value, point.low, point.high) == pytest.approx((18, 18, 18), rel=1e-4)


def test_prefix_features_give_distances():
    evidence = featured("a", 4, 0)
    prefixes = {
        "prefixes": np.array([1, 2, 4]),
        "prefix_features": np.stack([evidence.features + 2, evidence.features + 1]),
    }
    result = token_budget([featured("a", 4, 0, **prefixes)], metric="rfd")
    assert [(p.kind, p.tokens) for p in result.points] == [
        ("all tokens", 4),
        ("prefix", 1),
        ("prefix", 2),
    ]
    assert [p.value for p in result.points] == pytest.approx([0, 8, 2], abs=1e-4)
    each = token_budget([featured("a", 4, 0, **prefixes)], metric="features").points
    assert [p.value for p in each] == pytest.approx([0, math.sqrt(8), math.sqrt(2)], rel=1e-5)


def test_distances_of_prefixes_and_all_tokens_have_as_many_images():
    evidence = featured("a", 4, 0)
    noise = np.random.default_rng(1).normal(size=evidence.features.shape).astype(np.float32)
    decoded = evidence.features + noise
    m = len(decoded) // 4
    arrays = {"prefixes": np.array([4]), "prefix_features": decoded[None, :m]}
    some = replace(featured("a", 4, 0, **arrays), reconstruction_features=decoded)
    result = token_budget([some], metric="rfd")
    assert result.n == m and len({point.value for point in result.points}) == 1


def test_prefix_ssim_is_read_from_evidence():
    ssim = np.tile(np.array([0.5, 0.75], np.float32), (6, 1))
    evidence = run("a", 4, 0, prefixes=np.array([1, 2]), prefix_ssim=ssim)
    assert [p.value for p in token_budget([evidence], metric="ssim").points] == pytest.approx(
        [1, 0.5, 0.75]
    )


def test_floor_is_distance_of_training_images():
    training = featured("a", 4, 0).features + np.float32(1)
    result = token_budget([featured("a", 4, 3, train_features=training)], metric="rfd")
    assert result.floor == pytest.approx(2, rel=1e-4)
    assert "rFD (HOG) is 18.0000 at 4 tokens" in result.summary()
    assert "2.0000" in result.summary()
    assert "two sets of real images" in [trace.name for trace in result.figure().data]
    assert (
        token_budget([featured("a", 4, 3, train_features=training[:39])], metric="rfd").floor
        is None
    )


def test_rfd_needs_equal_n_and_feature_extractor():
    runs = [
        featured("a", 4, 1),
        featured("few", 4, 1, n=20),
        featured("other", 4, 1, provenance={"feature_extractor": "resnet56"}),
    ]
    result = token_budget(runs, metric="rfd")
    assert result.unmeasured == ("few", "other")
    assert result.figure().layout.yaxis.title.text == "rFD (HOG)"
    assert (
        token_budget(
            [featured("a", 4, 1, provenance={"feature_extractor": "inception"})], metric="rfd"
        ).label
        == "rFID (Inception-v3)"
    )
    assert set(result.table()["feature_extractor"]) == {"hog"}


def test_cheapest_of_equal_distances_is_frontier():
    runs = [featured("a", 8, 1), featured("b", 4, 1)]
    for against in ("tokens", "GMACs"):
        assert [p.run for p in token_budget(runs, metric="rfd", against=against).frontier] == ["b"]


def test_rfd_of_few_images_or_nan_raises():
    with pytest.raises(NotApplicable, match="10 .*a .*9"):
        token_budget([featured("a", 4, 1, n=9)], metric="rfd")
    with pytest.raises(UserError, match=r"\ba\b"):
        token_budget([featured("a", 4, math.nan)], metric="rfd")
