"""Export of arrays: what is written, and that `wb.evidence` reads the same again."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench import analysis
from workbench.cli import app
from workbench.core.errors import RunError, UserError
from workbench.storage import array_writer
from workbench.storage.array_files import read_array_files
from workbench.storage.evidence import Evidence

N = 60
RANDOM = np.random.default_rng(0)
ARRAYS = {
    "latents": RANDOM.normal(0.5, [[[2]], [[3]], [[1]]], (N, 3, 4, 4)).astype(np.float32),
    "codes": RANDOM.integers(0, 32, (N, 4, 4)),
    "labels": RANDOM.integers(0, 3, N),
    "images": RANDOM.integers(0, 256, (N, 8, 8, 3), np.uint8),
    "reconstructions": RANDOM.integers(0, 256, (N, 8, 8, 3), np.uint8),
}
TABLE = RANDOM.normal(size=(32, 3)).astype(np.float32)
EVERYTHING = {"latents": True, "codes": True, "images": True, "reconstructions": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    wb.evidence(**ARRAYS, codebook=TABLE, names=["cat", "dog", "owl"], out=folder)
    return wb.Run(folder)


@pytest.mark.parametrize("file_format", ["safetensors", "npz", "npy", "parquet"])
def test_exported_arrays_are_read_again(run, tmp_path, monkeypatch, file_format):
    monkeypatch.setattr(array_writer, "SHARD_IMAGES", 25)
    wb.export(run, tmp_path / "out", format=file_format, **EVERYTHING)
    original, again = run.evidence(), wb.evidence(tmp_path / "out")
    assert again.arrays().keys() == original.arrays().keys()
    for name, array in original.arrays().items():
        np.testing.assert_array_equal(getattr(again, name), array, err_msg=name)
    assert (again.grid, again.names) == (original.grid, original.names)
    assert again.provenance["fingerprint"] == original.provenance["fingerprint"]


@pytest.mark.parametrize(
    "name",
    ["reconstruction", "codebook_usage", "code_distances", "code_information", "latent_geometry"],
)
def test_analyses_of_exported_arrays_give_the_same_results(run, tmp_path, name):
    wb.export(run, tmp_path / "out", **EVERYTHING)
    function = analysis.get(name)
    tables = [
        function(**evidence.kwargs_for(function)).table()
        for evidence in (run.evidence(), wb.evidence(tmp_path / "out"))
    ]
    pd.testing.assert_frame_equal(*tables)


def test_shards_have_the_layout_of_lightningdit(run, tmp_path, monkeypatch):
    from safetensors import safe_open

    monkeypatch.setattr(array_writer, "SHARD_IMAGES", 25)
    wb.export(run, tmp_path / "out", latents=True)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"latents_rank00_shard{i:03d}.safetensors" for i in range(3)
    ]
    shapes = []
    for file in files:
        with safe_open(file, "np") as content:
            assert set(content.keys()) == {"latents", "labels"}
            shapes.append(content.get_slice("latents").get_shape())
    assert shapes == [[25, 3, 4, 4], [25, 3, 4, 4], [10, 3, 4, 4]]


def test_stats_normalize_the_latents(run, tmp_path):
    wb.export(run, tmp_path / "out", latents=True)
    stats = json.loads((tmp_path / "out" / "latent_stats.json").read_text())
    latents = ARRAYS["latents"].astype(np.float64)
    shift, scale = (
        np.array(stats[f"channel_{name}"])[:, None, None] for name in ("shift", "scale")
    )
    scaled = (latents - shift) * scale
    np.testing.assert_allclose(scaled.mean((0, 2, 3)), 0, atol=1e-9)
    np.testing.assert_allclose(scaled.std((0, 2, 3)), 1)
    overall = (latents - stats["shift_factor"]) * stats["scaling_factor"]
    assert (overall.mean(), overall.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert stats["scaling_factor"] == pytest.approx(1 / latents.std())
    assert (stats["mean"], stats["std"]) == pytest.approx((latents.mean(), latents.std()))
    assert (stats["images"], stats["channels"], stats["grid"]) == (N, 3, [4, 4])
    assert wb.evidence(tmp_path / "out").provenance["latent_stats"]["std"] == stats["std"]


def test_number_of_codes_and_padding_survive(tmp_path):
    random = np.random.default_rng(0)
    codes = np.where(random.random((N, 16)) < 0.2, -1, random.integers(0, 32, (N, 16)))
    wb.evidence(codes=codes, codebook=32, out=tmp_path / "a")
    wb.export(tmp_path / "a", tmp_path / "out", codes=True)
    again = wb.evidence(tmp_path / "out")
    np.testing.assert_array_equal(again.codes, codes)
    assert again.codebook.shape == (1, 32, 0)


def test_tokens_in_use_are_exported_and_counted(tmp_path):
    random = np.random.default_rng(0)
    latents = random.normal(size=(N, 4, 3)).astype(np.float32)
    active = random.random((N, 4)) < 0.5
    wb.evidence(latents=latents, active=active, out=tmp_path / "a")
    result = wb.export(tmp_path / "a", tmp_path / "out", latents=True)
    np.testing.assert_allclose(result.stats.channel_mean, latents[active].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(wb.evidence(tmp_path / "out").active, active)


def test_limit_exports_the_first_images(run, tmp_path):
    assert wb.export(run, tmp_path / "out", codes=True, limit=7).images == 7
    np.testing.assert_array_equal(
        wb.evidence(tmp_path / "out").codes, ARRAYS["codes"][:7].reshape(7, 16)
    )


def test_latents_of_images_without_pictures_are_exported(tmp_path):
    arrays = ARRAYS | {name: ARRAYS[name][:20] for name in ("images", "reconstructions")}
    run = wb.Run.create(tmp_path / "run", {"class": "m:A", "settings": {}})
    provenance = {"run": "run", "step": 1, "n": N, "pictures": 20, "grid": [4, 4]}
    latents = arrays["latents"].reshape(N, 3, 16).transpose(0, 2, 1)
    codes = arrays["codes"].reshape(N, 16)
    evidence = Evidence(provenance, **(arrays | {"latents": latents, "codes": codes}))
    evidence.save(run.evidence_folder(1))
    assert wb.export(run, tmp_path / "latents", latents=True).images == N
    with pytest.raises(UserError):
        wb.export(run, tmp_path / "both", latents=True, images=True)
    assert wb.export(run, tmp_path / "both", latents=True, images=True, limit=20).images == 20


def test_what_cannot_be_exported_leaves_no_folder(run, tmp_path):
    wb.evidence(latents=ARRAYS["latents"], out=tmp_path / "latents")
    for source, options, error in (
        (run, {}, UserError),
        (run, {"latents": True, "format": "hdf5"}, UserError),
        (run, {"latents": True, "split": "val"}, UserError),
        (run, {"latents": True, "limit": 0}, UserError),
        (run, {"latents": True, "step": 5}, RunError),
        (run, {"latents": True, "split": "train"}, RunError),
        (tmp_path / "latents", {"codes": True}, UserError),
        (tmp_path / "absent", {"codes": True}, RunError),
    ):
        with pytest.raises(error):
            wb.export(source, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_folders_in_use_are_kept(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError):
        wb.export(run, tmp_path, latents=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_command_line(run, tmp_path):
    arguments = ["export", str(run.folder), "--latents", "--codes", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "scaling_factor" in result.output
    assert set(read_array_files(tmp_path / "out").arrays) == {
        "latents",
        "codes",
        "labels",
        "codebook",
    }


# Training images


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory):
    from workbench.launch.in_process import train

    folder = tmp_path_factory.mktemp("trained")
    small = {"width": 16, "depth": 1, "steps": 2, "warmup_steps": 1, "batch_size": 16}
    for recipe in ("unicode2-digits", "vqvae-digits"):
        train(recipe, folder / recipe, collect=False, **small)
    train(
        "sit-digits", folder / "flow", tokenizer=folder / "unicode2-digits", collect=False, **small
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["unicode2-digits", "vqvae-digits"])
def test_training_images_are_encoded(trained_runs, tmp_path, recipe):
    import torch

    from workbench.collect import load_images
    from workbench.collect.models import load_tokenizer

    run = wb.Run(trained_runs / recipe)
    result = wb.export(run, tmp_path / "out", latents=True, codes=True, split="train")
    images = load_images(run, "train")
    assert result.images == len(images)
    again = wb.evidence(tmp_path / "out")
    model = load_tokenizer(run)
    with torch.no_grad():
        tokens = model.encode(images.images(slice(0, 300)))
        mirrored = model.encode(images.images(slice(0, 300)).flip(-1))
    np.testing.assert_allclose(again.latents[:300], tokens.latents.numpy(), atol=1e-5)
    np.testing.assert_array_equal(again.codes[:300], tokens.codes.numpy())
    np.testing.assert_array_equal(again.labels, images.labels)
    assert again.codebook.shape == tuple(model.codebook.shape)
    assert again.grid == tokens.grid
    arrays = read_array_files(tmp_path / "out").arrays
    assert ("latents_flip" in arrays) == (tokens.grid is not None)
    if tokens.grid is not None:
        flipped = arrays["latents_flip"].arrays[0][:300]
        expected = mirrored.latents.transpose(1, 2).reshape(flipped.shape).numpy()
        np.testing.assert_allclose(flipped, expected, atol=1e-5)


@pytest.mark.slow
def test_runs_of_generators_are_refused(trained_runs, tmp_path):
    with pytest.raises(UserError):
        wb.export(trained_runs / "flow", tmp_path / "out", latents=True)
