"""The table of published checkpoints, and published next to measured figures."""

from dataclasses import replace

import numpy as np
import pytest

import workbench as wb
from workbench.core.errors import NotApplicable
from workbench.generators.pretrained import FAMILIES as GENERATORS
from workbench.storage.evidence import Evidence
from workbench.storage.published_models import FIGURES, find_published
from workbench.tokenizers.pretrained import FAMILIES as TOKENIZERS

VERIFIABLE = ("license", *FIGURES)
IMAGES = np.zeros((20, 8, 8, 3), np.uint8)
SOFTVQ = Evidence(
    {
        "run": "a",
        "step": 0,
        "data": "/data/val",
        "resize": "adm",
        "imported": {"address": "softvq:/models/softvq-l-64"},
        "feature_extractor": "hog",
    },
    images=IMAGES,
    reconstructions=IMAGES + np.uint8(51),
)


def test_table_is_consistent():
    table = wb.models()
    assert table["address"].is_unique and len(table) > 40
    families = table["address"].str.partition(":")[0]
    assert set(families) <= {*TOKENIZERS, *GENERATORS}
    has_figures = table[list(FIGURES)].notna().any(axis=1)
    assert (table.loc[has_figures, "source"] != "").all()
    assert (table.loc[has_figures, "num_images"] > 0).all()
    for name, low, high in (("ssim", 0, 1), ("usage", 0, 1), ("psnr", 15, 40), ("rfid", 0, 10)):
        assert table[name].dropna().between(low, high).all()


def test_every_value_of_the_table_was_compared_with_its_source():
    table = wb.models().replace("", None)
    for row in table.to_dict("records"):
        values = {name for name in VERIFIABLE if row[name] == row[name] and row[name] is not None}
        if "arXiv" in row["source"]:
            values.add("arxiv")
        assert values <= set(str(row["verified"]).split(", ")), row["address"]


def test_checkpoints_are_found_by_name_and_family():
    assert find_published("ldm:/x/vavae-imagenet256-f16d32-dinov2.pt").figures["rfid"] == 0.28
    assert find_published("llamagen:FoundationVision/vq_ds16_c2i.pt").figures["usage"] == 0.97
    assert find_published("titok:yucornetto/tokenizer_titok_l32_imagenet").name == "TiTok L32"
    assert find_published("maetok:softvq-l-64") is None
    assert find_published("python:my_module:make") is None and find_published("") is None


def test_measured_figures_and_differences_in_protocol():
    result = wb.analysis.published_figures((SOFTVQ,))
    figures = {figure.metric: figure for figure in result.figures}
    assert list(figures) == ["psnr", "ssim", "rfid"]
    assert figures["psnr"].published == 22.97
    assert figures["psnr"].measured == pytest.approx(-20 * np.log10(51 / 255))
    assert np.isnan(figures["rfid"].measured) and "hog" in figures["rfid"].protocol
    assert "20 images of /data/val instead of 50,000" in figures["psnr"].protocol
    assert "8 instead of 256 pixels" in figures["psnr"].protocol
    assert "resized" not in figures["psnr"].protocol  # the authors resize in the same way
    assert "data range of 2" in figures["ssim"].protocol
    assert "not measured and 0.61" in result.summary()


def test_published_ssim_is_compared_with_the_window_of_papers():
    """The collected index has the Gaussian window of 11; that of 7 is named as a difference."""
    collected = replace(SOFTVQ, ssim=np.linspace(0.5, 0.7, 20).astype(np.float32))
    figures = [
        figure
        for evidence in (SOFTVQ, collected)
        for figure in wb.analysis.published_figures((evidence,)).figures
        if figure.metric == "ssim"
    ]
    assert figures[1].measured == pytest.approx(0.6) != figures[0].measured
    differences = [set(figure.protocol.split("; ")) for figure in figures]
    assert differences[1] < differences[0] and len(differences[0] - differences[1]) == 1


def test_fid_needs_inception():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    evidence = replace(
        SOFTVQ,
        provenance=SOFTVQ.provenance | {"feature_extractor": "inception", "resize": "lanczos"},
        features=features,
        reconstruction_features=features,
    )
    rfid = wb.analysis.published_figures((evidence,)).figures[-1]
    assert rfid.measured == pytest.approx(0, abs=1e-6) and "biased" in rfid.protocol
    assert "lanczos instead of adm" in rfid.protocol


def test_usage_counts_codes():
    evidence = Evidence(
        SOFTVQ.provenance | {"imported": {"address": "llamagen:vq_ds16_c2i.pt"}},
        images=IMAGES,
        codes=np.arange(40, dtype=np.int32).reshape(20, 2),
        codebook=np.zeros((1, 80, 0), np.float32),
    )
    figures = wb.analysis.published_figures((evidence,)).figures
    assert {figure.metric: figure.measured for figure in figures}["usage"] == 0.5


def test_lpips_is_that_on_vgg():
    evidence = replace(
        SOFTVQ,
        provenance=SOFTVQ.provenance | {"imported": {"address": "diffusers:zelaki/eq-vae"}},
        lpips_vgg=np.linspace(0, 0.2, 20, dtype=np.float32),
    )
    figures = {f.metric: f for f in wb.analysis.published_figures((evidence,)).figures}
    assert figures["lpips"].measured == pytest.approx(0.1)
    assert "VGG-16" in figures["lpips"].protocol


def test_unknown_checkpoints_have_no_published_figures():
    for imported in (None, {"address": None}, {"address": "softvq:/models/mine"}):
        evidence = replace(SOFTVQ, provenance=SOFTVQ.provenance | {"imported": imported})
        with pytest.raises(NotApplicable, match="models"):
            wb.analysis.published_figures((evidence,))
