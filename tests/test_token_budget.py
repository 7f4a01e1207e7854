import math

import numpy as np
import pytest

from workbench.analysis.tokens.budget import token_budget
from workbench.analysis.tokens.cost import generator_gmacs
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence


def run(
    name: str, tokens: int, error: int, *, kind: str = "SoftVQ", fingerprint: str = "f", **more
) -> Evidence:
    """Black images whose reconstructions are `error` too bright everywhere."""
    provenance = {
        "run": name,
        "step": 1,
        "fingerprint": fingerprint,
        "class": f"package.module:{kind}",
    }
    return Evidence(
        provenance | more.pop("provenance", {}),
        images=np.zeros((6, 4, 4, 1), np.uint8),
        reconstructions=np.full((6, 4, 4, 1), error, np.uint8),
        latents=np.zeros((6, tokens, 2), np.float32),
        **more,
    )


def psnr(error: int) -> float:
    return -20 * math.log10(error / 255)


def test_quality_is_read_off_each_run_at_its_own_number_of_tokens():
    table = token_budget([run("a", 4, 51), run("b", 16, 10)]).table()
    assert table["tokens"].tolist() == [4, 16]
    assert table["psnr"].tolist() == pytest.approx([psnr(51), psnr(10)])


def test_the_summary_is_a_sentence_one_can_paste():
    summary = token_budget([run("b", 16, 10), run("a", 4, 51)]).summary()
    assert summary.startswith(
        "PSNR rises from 14.0 dB at 4 tokens to 28.1 dB at 16 tokens (6 held-out images)."
    )
    assert summary.endswith(" Nothing as cheap beats a (4 tokens), b (16 tokens).")
    error = token_budget([run("b", 16, 10), run("a", 4, 51)], metric="mse").summary()
    assert error.startswith("Squared error falls from 0.0400 at 4 tokens to 0.0015 at 16 tokens")
    assert (
        token_budget([run("a", 1, 51)]).summary()
        == "PSNR is 14.0 dB at 1 token (6 held-out images)."
    )


def test_prefixes_are_rows_of_their_own_and_can_be_left_away():
    mse = np.tile(np.array([0.1, 0.01], np.float32), (6, 1))
    one = run("a", 4, 10, prefixes=np.array([1, 2], np.int32), prefix_mse=mse)
    table = token_budget([one]).table()
    assert table["kind"].tolist() == ["trained", "prefix", "prefix"]
    assert table["psnr"].tolist() == pytest.approx([psnr(10), 10, 20])
    assert len(token_budget([one], prefixes=False).table()) == 1
    dashes = {trace.name: trace.line.dash for trace in token_budget([one]).figure().data}
    assert dashes == {"frontier": None, "SoftVQ": None, "a, its first tokens": "dash"}


def test_the_frontier_holds_what_nothing_cheaper_beats():
    points = token_budget(
        [run("a", 4, 50), run("b", 8, 60), run("c", 16, 10), run("d", 16, 20)]
    ).points
    assert {p.run for p in points if p.frontier} == {"a", "c"}
    points = token_budget([run("a", 4, 50), run("b", 8, 60)], metric="mse").points
    assert {p.run for p in points if p.frontier} == {"a"}


def test_runs_on_other_images_are_left_out_by_name():
    result = token_budget([run("a", 4, 50), run("b", 8, 20, fingerprint="other")])
    assert result.left_out == ("b",)
    assert result.table()["run"].tolist() == ["a"]
    assert result.summary().endswith("Left out, being measured on other images: b.")


def test_bits_are_given_only_where_the_decoder_reads_codes():
    book = {"codes": np.zeros((6, 4), np.int32), "codebook": np.zeros((1, 64, 2), np.float32)}
    soft, hard = run("a", 4, 50, **book), run("b", 4, 50, provenance={"discrete": True}, **book)
    assert [p.bits for p in token_budget([soft, hard]).points] == pytest.approx(
        [math.nan, 24], nan_ok=True
    )


def test_runs_of_one_class_share_a_line_named_after_it():
    figure = token_budget(
        [run("a", 4, 50), run("b", 8, 40), run("c", 8, 20, kind="KLVAE")]
    ).figure()
    lines = {trace.name: len(trace.x) for trace in figure.data}
    assert lines == {"frontier": 2, "KLVAE": 1, "SoftVQ": 2}


def test_nan_among_prefixes_stays_out_of_mean_and_frontier():
    mse = np.full((6, 2), np.nan, np.float32)
    mse[:3, 0] = 0.1
    points = token_budget([run("a", 4, 10, prefixes=np.array([1, 2]), prefix_mse=mse)]).points
    assert points[1].value == pytest.approx(10)
    assert math.isnan(points[2].value)
    assert not points[2].frontier


def test_generators_are_passed_over_and_without_any_tokenizer_it_says_so():
    generator = Evidence({"run": "g", "step": 1}, samples=np.zeros((2, 4, 4, 1), np.uint8))
    assert token_budget([generator, run("a", 4, 50)]).table()["run"].tolist() == ["a"]
    with pytest.raises(NotApplicable, match="no selected run has all three"):
        token_budget([generator])


def test_the_work_of_a_generator_is_that_of_a_sit_xl():
    """Its published sizes: 28 layers of width 1,152; the sum over each matrix product of a layer."""
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


def test_against_bits_runs_of_continuous_tokens_are_left_out_by_name():
    book = {"codes": np.zeros((6, 4), np.int32), "codebook": np.zeros((1, 64, 2), np.float32)}
    runs = [run("a", 4, 50, **book, provenance={"discrete": True}), run("b", 8, 20)]
    result = token_budget(runs, against="bits per pixel")
    assert [p.cost("bits per pixel") for p in result.points] == [24 / 16]
    assert result.summary().endswith(
        "Left out, being of continuous tokens, which no number of bits tells: b."
    )
    with pytest.raises(NotApplicable, match="discrete tokens, for bits"):
        token_budget(runs[1:], against="bits")


def test_absolute_error_ssim_and_features_are_measured_too():
    features = {
        "features": np.zeros((6, 2), np.float32),
        "reconstruction_features": np.full((6, 2), 3, np.float32),
    }
    one, other = (
        run("a", 4, 51, **features, provenance={"feature_extractor": "hog"}),
        run("b", 8, 0),
    )
    assert token_budget([one], metric="l1").points[0].value == pytest.approx(0.2)
    assert token_budget([other], metric="ssim").points[0].value == pytest.approx(1)
    result = token_budget([one, other], metric="features")
    assert [p.value for p in result.points] == [pytest.approx(math.sqrt(18))]
    assert result.unmeasured == ("b",)


def test_an_adaptive_run_costs_what_it_spends_on_average():
    active = np.arange(8) < np.array([2, 2, 2, 6, 6, 6])[:, None]
    (point,) = token_budget([run("a", 8, 10, active=active)]).points
    assert (point.kind, point.tokens) == ("adaptive", 4)
    assert point.gmacs == pytest.approx((generator_gmacs(2) + generator_gmacs(6)) / 2)


def test_the_errors_it_was_asked_for_are_points_of_the_absolute_error():
    asked = {
        "requested": np.array([0.1, 0.2]),
        "reached": np.full((2, 6), [[0.09], [0.18]]),
        "spent": np.full((2, 6), 3),
    }
    one = run("a", 8, 10, active=np.ones((6, 8), bool), **asked)
    assert [p.kind for p in token_budget([one], metric="l1").points] == ["adaptive"] * 3
    assert [p.value for p in token_budget([one], metric="l1").points] == pytest.approx(
        [0.09, 0.18, 10 / 255]
    )
    assert len(token_budget([one]).points) == 1


def test_the_frontier_is_of_the_cost_that_is_asked_for():
    """Four tokens of a large book cost more bits than five of a small one."""

    def book(size: int, tokens: int) -> dict:
        codes = {
            "codes": np.zeros((6, tokens), np.int32),
            "codebook": np.zeros((1, size, 2), np.float32),
        }
        return codes | {"provenance": {"discrete": True}}

    runs = [run("large", 4, 50, **book(1024, 4)), run("small", 5, 50, **book(4, 5))]
    assert [p.run for p in token_budget(runs).frontier] == ["large"]
    assert [p.run for p in token_budget(runs, against="bits").frontier] == ["small"]


# By the feature extractor's features


def featured(name: str, tokens: int, moved: float, n: int = 40, **more) -> Evidence:
    """Reconstructions whose features are the images', moved by so much in each of two directions."""
    random = np.random.default_rng(0)
    real = random.normal(size=(n, 2)).astype(np.float32)
    told = {
        "run": name,
        "step": 1,
        "fingerprint": "f",
        "class": "m:SoftVQ",
        "feature_extractor": "hog",
    }
    return Evidence(
        told | more.pop("provenance", {}),
        images=np.zeros((n, 4, 4, 1), np.uint8),
        reconstructions=np.zeros((n, 4, 4, 1), np.uint8),
        latents=np.zeros((n, tokens, 2), np.float32),
        features=real,
        reconstruction_features=real + np.float32(moved),
        **more,
    )


def test_the_distance_of_all_reconstructions_is_that_of_the_two_sets_of_features():
    """Moving every row costs the squared length of the move, and no half of the images says otherwise."""
    (point,) = token_budget([featured("a", 4, 3)], metric="rfd").points
    assert (point.value, point.low, point.high) == pytest.approx((18, 18, 18), rel=1e-4)


def test_prefix_features_give_distances():
    one = featured("a", 4, 0)
    prefixes = {
        "prefixes": np.array([1, 2, 4]),
        "prefix_features": np.stack([one.features + 2, one.features + 1]),
    }
    result = token_budget([featured("a", 4, 0, **prefixes)], metric="rfd")
    assert [(p.kind, p.tokens) for p in result.points] == [
        ("trained", 4),
        ("prefix", 1),
        ("prefix", 2),
    ]
    assert [p.value for p in result.points] == pytest.approx([0, 8, 2], abs=1e-4)
    each = token_budget([featured("a", 4, 0, **prefixes)], metric="features").points
    assert [p.value for p in each] == pytest.approx([0, math.sqrt(8), math.sqrt(2)], rel=1e-5)


def test_the_structure_of_first_tokens_is_read_off_what_was_collected():
    ssim = np.tile(np.array([0.5, 0.75], np.float32), (6, 1))
    one = run("a", 4, 0, prefixes=np.array([1, 2]), prefix_ssim=ssim)
    assert [p.value for p in token_budget([one], metric="ssim").points] == pytest.approx(
        [1, 0.5, 0.75]
    )


def test_the_floor_is_how_far_as_many_training_images_lie():
    training = featured("a", 4, 0).features + np.float32(1)
    result = token_budget([featured("a", 4, 3, train_features=training)], metric="rfd")
    assert result.floor == pytest.approx(2, rel=1e-4)
    assert (
        "rFD (hog) is 18.0000 at 4 tokens (40 held-out images). Two sets of real images, as many, are 2.0000 apart."
        in (result.summary())
    )
    assert "two sets of real images" in [trace.name for trace in result.figure().data]
    assert (
        token_budget([featured("a", 4, 3, train_features=training[:39])], metric="rfd").floor
        is None
    )


def test_distances_need_equal_n_and_one_extractor():
    runs = [
        featured("a", 4, 1),
        featured("few", 4, 1, n=20),
        featured("other", 4, 1, provenance={"feature_extractor": "resnet56"}),
    ]
    result = token_budget(runs, metric="rfd")
    assert result.unmeasured == ("few", "other")
    assert result.figure().layout.yaxis.title.text == "rFD (hog)"
    assert (
        token_budget(
            [featured("a", 4, 1, provenance={"feature_extractor": "inception"})], metric="rfd"
        ).label
        == "rFID"
    )
    assert set(result.table()["feature_extractor"]) == {"hog"}


def test_the_cheapest_of_equal_distances_is_the_frontier_of_any_cost():
    runs = [featured("a", 8, 1), featured("b", 4, 1)]
    for against in ("tokens", "GMACs"):
        assert [p.run for p in token_budget(runs, metric="rfd", against=against).frontier] == ["b"]


def test_no_distance_is_taken_of_nine_images_or_of_nan():
    with pytest.raises(NotApplicable, match="A Frechet distance needs at least 10 images; a has 9"):
        token_budget([featured("a", 4, 1, n=9)], metric="rfd")
    with pytest.raises(UserError, match="The features of a hold NaN"):
        token_budget([featured("a", 4, math.nan)], metric="rfd")
