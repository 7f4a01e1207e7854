import math

import numpy as np
import pytest

from workbench.analysis.tokens.budget import token_budget
from workbench.analysis.tokens.cost import generator_gmacs
from workbench.errors import NotApplicable
from workbench.evidence import Evidence


def run(name: str, tokens: int, error: int, *, kind: str = "SoftVQ", fingerprint: str = "f", **more) -> Evidence:
    """Black images whose reconstructions are `error` too bright everywhere."""
    provenance = {"run": name, "step": 1, "fingerprint": fingerprint, "class": f"package.module:{kind}"}
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
    assert summary.startswith("PSNR rises from 14.0 dB at 4 tokens to 28.1 dB at 16 tokens (6 held-out images).")
    assert summary.endswith(" Nothing as cheap beats a (4 tokens), b (16 tokens).")
    error = token_budget([run("b", 16, 10), run("a", 4, 51)], metric="mse").summary()
    assert error.startswith("Squared error falls from 0.0400 at 4 tokens to 0.0015 at 16 tokens")
    assert token_budget([run("a", 1, 51)]).summary() == "PSNR is 14.0 dB at 1 token (6 held-out images)."


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
    points = token_budget([run("a", 4, 50), run("b", 8, 60), run("c", 16, 10), run("d", 16, 20)]).points
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
    assert [p.bits for p in token_budget([soft, hard]).points] == pytest.approx([math.nan, 24], nan_ok=True)


def test_runs_of_one_class_share_a_line_named_after_it():
    figure = token_budget([run("a", 4, 50), run("b", 8, 40), run("c", 8, 20, kind="KLVAE")]).figure()
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
    assert [round(float(generator_gmacs(n)), 1) for n in (32, 64, 128, 256, 1024)] == [14.6, 29.0, 58.4, 118.6, 524.5]


def test_against_bits_runs_of_continuous_tokens_are_left_out_by_name():
    book = {"codes": np.zeros((6, 4), np.int32), "codebook": np.zeros((1, 64, 2), np.float32)}
    runs = [run("a", 4, 50, **book, provenance={"discrete": True}), run("b", 8, 20)]
    result = token_budget(runs, against="bits per pixel")
    assert [p.cost("bits per pixel") for p in result.points] == [24 / 16]
    assert result.summary().endswith("Left out, being of continuous tokens, which no number of bits tells: b.")
    with pytest.raises(NotApplicable, match="discrete tokens, for bits"):
        token_budget(runs[1:], against="bits")


def test_absolute_error_ssim_and_features_are_measured_too():
    features = {"features": np.zeros((6, 2), np.float32), "reconstruction_features": np.full((6, 2), 3, np.float32)}
    one, other = run("a", 4, 51, **features, provenance={"judge": "hog"}), run("b", 8, 0)
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
    assert [p.value for p in token_budget([one], metric="l1").points] == pytest.approx([0.09, 0.18, 10 / 255])
    assert len(token_budget([one]).points) == 1


def test_the_frontier_is_of_the_cost_that_is_asked_for():
    """Four tokens of a large book cost more bits than five of a small one."""

    def book(size: int, tokens: int) -> dict:
        codes = {"codes": np.zeros((6, tokens), np.int32), "codebook": np.zeros((1, size, 2), np.float32)}
        return codes | {"provenance": {"discrete": True}}

    runs = [run("large", 4, 50, **book(1024, 4)), run("small", 5, 50, **book(4, 5))]
    assert [p.run for p in token_budget(runs).frontier] == ["large"]
    assert [p.run for p in token_budget(runs, against="bits").frontier] == ["small"]
