"""Generators of images without labels, through the command line."""

import sys

import numpy as np
import pytest
from PIL import Image

from workbench import analysis, cli
from workbench.explore.image_grid import classes
from workbench.storage.run import Run

TINY = ["--width", "16", "--depth", "1", "--steps", "2", "--save-every", "2", "--batch-size", "8"]
NUM_IMAGES = 120  # of which a tenth is held out


@pytest.fixture
def invoke(monkeypatch, capsys):
    """Run a command in this process and return what it prints."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["workbench", *map(str, words)])
        with pytest.raises(SystemExit) as exit_request:
            cli.main()
        assert not exit_request.value.code, exit_request.value.code
        output = capsys.readouterr()
        return output.out + output.err

    return run


@pytest.fixture
def flat_folder(tmp_path):
    """A folder of PNGs without subfolders."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokenizer", "generators"),
    [("softvq", ("dit", "lightningdit", "sit")), ("vqvae", ("ar",))],
)
def test_generators_of_a_flat_folder(tokenizer, generators, flat_folder, tmp_path, invoke):
    source = tmp_path / "tokenizer"
    images = ["--data", flat_folder, "--side", "8", "--num-tokens", "2"]
    assert "no classes" in invoke("train", f"{tokenizer}-photos", "--out", source, *images, *TINY)
    for system in generators:
        out = tmp_path / system
        words = [f"{system}-photos", "--tokenizer", source, "--out", out, "--no-collect", *TINY]
        assert "unconditional" in invoke("train", *words)
        assert Run(out).config.settings["classes"] == 1 and len(classes(Run(out))) == 1
    invoke("collect", out)
    evidence = Run(out).evidence()
    assert set(evidence.sample_labels) == {0} and evidence.sampling["guidance"] == 1
    assert len(evidence.samples) == 640  # not only those of one class of many
    assert "predicted" not in evidence.arrays()
    result = analysis.samples(**evidence.kwargs_for(analysis.samples))
    assert not result.labeled and result.n == 640
    distances = analysis.fidelity(**evidence.kwargs_for(analysis.fidelity)).distances
    assert "gFD" in {distance.name for distance in distances}
    if tokenizer == "softvq":  # once, because it takes seconds
        page = tmp_path / "report.html"
        invoke("report", "generator", "--run", out, "--out", page)
        assert page.stat().st_size > 0
