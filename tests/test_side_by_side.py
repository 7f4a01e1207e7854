"""The comparisons with public implementations: each runs, and both sides come to the same."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.side_by_side import analyses, generators, measure, quantizers, tokenizers
from benchmarks.side_by_side.measure import Pair
from benchmarks.side_by_side.sizes import Size

TINY = Size(
    images=2,
    vit={"side": 8, "patch": 4, "num_tokens": 2, "width": 16, "depth": 1, "heads": 2},
    conv={"width": 32, "multipliers": (1, 1)},
    conv_images=2,
    latents=2,
    rows=2,
    generator={"width": 24, "depth": 1, "heads": 2},
    solver=2,
    tokens=(4, 4),
    codes=(1024,),
    looked_up=(40, 32),
    clustered=(200, 8, 2),
    two_level=(400, 64, 2),
    mixed=200,
    modes=1,
    mapped=60,
)


@pytest.mark.parametrize(
    "family",
    [tokenizers, quantizers, generators, analyses],
    ids=lambda f: f.__name__.split(".")[-1],
)
def test_each_comparison_runs_and_both_sides_agree(family, monkeypatch):
    monkeypatch.setattr(measure, "LEAST", 0.0)
    compared = 0
    for make in family.pairs(TINY, "cpu"):
        if make.func is analyses.mapping:
            continue  # umap-learn compiles for half a minute; tests/test_latent_map.py runs it
        torch.manual_seed(0)
        try:
            pair = make()
        except ModuleNotFoundError:
            continue
        row = measure.measure(pair, "cpu", 1, 1e9)
        assert row.agrees, row.cells()
        assert row.ratio > 0 and row.low <= row.high
        compared += 1
    if not compared:
        pytest.skip("the public package is not here")


def test_a_row_holds_the_ratio_of_medians_its_quartiles_and_the_memory_of_a_run():
    pair = Pair(
        "fill",
        "",
        "more",
        lambda: np.ones(10_000_000),
        lambda: np.ones(20_000_000),
        lambda a, b: (False, "size"),
    )
    row = measure.measure(pair, "cpu", 3, 1.0)
    assert row.ratio == pytest.approx(row.theirs / row.ours) and row.rounds == 3
    assert math.isnan(row.ours_mb) or row.ours_mb == pytest.approx(80, rel=0.1)
    assert row.of_matmul is None and "DIFFERENT: size" in row.cells()
    assert replace(row, ours_mb=math.nan).stored()["ours_mb"] is None
