"""Runs of arrays in files: `evaluate arrays:FOLDER`."""

import numpy as np
import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.core.errors import RunError, UserError
from workbench.data import load
from workbench.hosts.notebook.latent_map_view import MapView
from workbench.hosts.notebook.lens_view import LensView

IMAGES = load("digits", split="all")
RANDOM = np.random.default_rng(0)
LATENTS = RANDOM.normal(size=(len(IMAGES), 6, 4, 4)).astype(np.float32)
CODES = RANDOM.integers(0, 64, (len(IMAGES), 16))


@pytest.fixture
def arrays(tmp_path):
    """A folder with latents and labels of the images."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "latents.npy", LATENTS)
    np.save(folder / "labels.npy", IMAGES.labels)
    return folder


def test_run_of_arrays(arrays, tmp_path):
    run = wb.evaluate(f"arrays:{arrays}", out=tmp_path / "a", limit=100)
    assert run.status()["state"] == "imported"
    evidence = run.evidence()
    assert evidence.latents.shape == (100, 16, 6)
    assert (evidence.run_name, evidence.provenance["of"]) == ("a", len(IMAGES))
    assert str(arrays) in run.config.imported.address


def test_images_of_data_are_those_of_the_arrays(arrays, tmp_path):
    evidence = wb.evaluate(f"arrays:{arrays}", "digits", tmp_path / "a", limit=50).evidence()
    assert evidence.images.shape == (50, *IMAGES.pixels.shape[1:])
    assert evidence.names == IMAGES.names
    rows = [int(np.flatnonzero((IMAGES.pixels == x).all((1, 2, 3)))[0]) for x in evidence.images]
    tokens = LATENTS[rows].reshape(50, 6, 16).transpose(0, 2, 1)
    np.testing.assert_array_equal(evidence.latents, tokens)


def test_all_images_have_the_fingerprint_of_their_set(arrays, tmp_path):
    run = wb.evaluate(f"arrays:{arrays}", "digits", tmp_path / "a", limit=len(IMAGES))
    assert run.evidence().provenance["fingerprint"] == IMAGES.fingerprint
    assert run.config.data.source == "digits"


def test_labels_of_data_are_used(tmp_path):
    np.save(tmp_path / "codes.npy", CODES)
    run = wb.evaluate(f"arrays:{tmp_path / 'codes.npy'}", "digits", tmp_path / "a", codebook=64)
    assert run.evidence().labels.shape == (len(IMAGES),)


def test_refusals_leave_no_run(arrays, tmp_path):
    np.save(tmp_path / "codes.npy", CODES)
    address = f"arrays:{arrays}"
    for model, options in (
        ("arrays:", {}),
        (f"arrays:{tmp_path / 'absent'}", {}),
        (address, {"trust": ["numpy"]}),
        (address, {"only": ["encoding"]}),
        (address, {"tokenizer": tmp_path}),
        (address, {"side": 8}),
        (address, {"data": "photos"}),
        (address, {"config": "a.yaml"}),
        (address, {"grid": "3,5"}),
        (f"arrays:{tmp_path / 'codes.npy'}", {"codebook": "many"}),
        (f"arrays:{tmp_path / 'codes.npy'}", {"codebook": 63}),
    ):
        with pytest.raises(UserError):
            wb.evaluate(model, out=tmp_path / "a", **options)
        assert not (tmp_path / "a").exists()


def test_images_in_another_order_are_refused(arrays, tmp_path):
    np.save(arrays / "labels.npy", IMAGES.labels[::-1])
    with pytest.raises(UserError, match=r"labels\.npy"):
        wb.evaluate(f"arrays:{arrays}", "digits", tmp_path / "a")


def test_a_run_is_replaced_only_on_request(arrays, tmp_path):
    address = f"arrays:{arrays}"
    wb.evaluate(address, out=tmp_path / "a", limit=20)
    with pytest.raises(RunError):
        wb.evaluate(address, out=tmp_path / "a", limit=30)
    again = wb.evaluate(address, out=tmp_path / "a", limit=30, overwrite=True)
    assert len(again.evidence().latents) == 30


def test_command_line(tmp_path):
    np.save(tmp_path / "codes.npy", CODES)
    arguments = ["evaluate", f"arrays:{tmp_path / 'codes.npy'}", "--out", str(tmp_path / "a")]
    result = CliRunner().invoke(app, [*arguments, "--codebook", "64", "--grid", "4,4"])
    assert result.exit_code == 0, result.output
    evidence = wb.Run(tmp_path / "a").evidence()
    assert evidence.codebook.shape == (1, 64, 0)
    assert evidence.grid == (4, 4)


def test_widgets_hide_what_arrays_do_not_have(tmp_path):
    wb.evidence(codes=np.arange(60).reshape(20, 3) % 4, codebook=4, out=tmp_path / "a")
    for view in (LensView(wb.lens(tmp_path / "a")), MapView(wb.latent_map(tmp_path / "a"))):
        assert view.module.layout.display == "none"
    watch = wb.watch(tmp_path / "a")
    assert watch.commands_box.layout.display == watch.curves_box.layout.display == "none"
