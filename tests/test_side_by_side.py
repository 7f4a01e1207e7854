"""Comparisons with public implementations: each runs, and both sides agree."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.side_by_side import analyses, generators, measure, quantizers, tokenizers
from benchmarks.side_by_side.measure import Comparison
from benchmarks.side_by_side.sizes import Size

TINY = Size(
    images=2,
    vit={"side": 8, "patch": 4, "num_tokens": 2, "width": 16, "depth": 1, "heads": 2},
    conv={"width": 32, "multipliers": (1, 1)},
    conv_images=2,
    latents=2,
    rows=2,
    generator={"width": 24, "depth": 1, "heads": 2},
    solver_steps=2,
    quantized=(4, 4),
    codebook_sizes=(1024,),
    nearest=(40, 32),
    kmeans=(200, 8, 2),
    two_level_kmeans=(400, 64, 2),
    mixture_points=200,
    max_modes=1,
    map_points=60,
)


COMPARISONS = [
    pytest.param(make, id=f"{family.__name__.split('.')[-1]}-{index}")
    for family in (tokenizers, quantizers, generators, analyses)
    for index, make in enumerate(family.comparisons(TINY, "cpu"))
    # umap-learn compiles for half a minute; tests/test_latent_map.py covers it.
    if make.func is not analyses.umap_map
]


@pytest.mark.slow
@pytest.mark.parametrize("make", COMPARISONS)
def test_both_sides_agree(make, monkeypatch):
    monkeypatch.setattr(measure, "MIN_TIMING_S", 0.0)
    torch.manual_seed(0)
    row = measure.measure(make(), "cpu", 1, 1e9)
    assert row.agrees, row.table_row()
    assert row.ratio > 0
    assert row.low <= row.high


def test_every_family_has_comparisons():
    families = {param.id.partition("-")[0] for param in COMPARISONS}
    assert families == {"tokenizers", "quantizers", "generators", "analyses"}


def test_measurement_has_time_ratio_and_memory():
    comparison = Comparison(
        work="fill",
        sizes="",
        reference="twice as much",
        ours=lambda: np.ones(10_000_000),
        theirs=lambda: np.ones(20_000_000),
        check=lambda ours, theirs: (False, "size"),
    )
    row = measure.measure(comparison, "cpu", 3, 1.0)
    assert row.ratio == pytest.approx(row.theirs / row.ours) and row.rounds == 3
    assert math.isnan(row.ours_mb) or row.ours_mb == pytest.approx(80, rel=0.1)
    assert row.matmul_share is None and "DIFFERENT: size" in row.table_row()
    assert replace(row, ours_mb=math.nan).to_dict()["ours_mb"] is None
