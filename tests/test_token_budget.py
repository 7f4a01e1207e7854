import math

import numpy as np
import pytest

from workbench.analysis.budget import token_budget
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
    assert summary == "PSNR rises from 14.0 dB at 4 tokens to 28.1 dB at 16 tokens (6 held-out images)."
    error = token_budget([run("b", 16, 10), run("a", 4, 51)], metric="mse").summary()
    assert error.startswith("Mean squared error falls from 0.0400 at 4 tokens to 0.0015 at 16 tokens")
    assert token_budget([run("a", 1, 51)]).summary() == "PSNR is 14.0 dB at 1 token (6 held-out images)."


def test_prefixes_are_rows_of_their_own_and_can_be_left_away():
    mse = np.tile(np.array([0.1, 0.01], np.float32), (6, 1))
    one = run("a", 4, 10, prefixes=np.array([1, 2], np.int32), prefix_mse=mse)
    table = token_budget([one]).table()
    assert table["kind"].tolist() == ["trained", "prefix", "prefix"]
    assert table["psnr"].tolist() == pytest.approx([psnr(10), 10, 20])
    assert len(token_budget([one], prefixes=False).table()) == 1
    assert [trace.line.dash for trace in token_budget([one]).figure().data] == [None, "dash"]


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
    assert {trace.name: len(trace.x) for trace in figure.data} == {"KLVAE": 1, "SoftVQ": 2}


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
