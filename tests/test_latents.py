"""Latents and codes of a tokenizer's training images, as the training data of a generator."""

import io
import json
import shutil
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.collect.models import load_models, load_tokenizer
from workbench.collect.sampling import draw_samples
from workbench.core.errors import RunError, UserError
from workbench.core.image_size import ImageSize
from workbench.data.stream import ImageStream
from workbench.launch import latent_encoding
from workbench.launch.in_process import train
from workbench.launch.latent_dataset import LatentDataset, load_encoded
from workbench.launch.latent_encoding import ENCODING_FILE, Encoding
from workbench.storage.array_files import read_array_files
from workbench.storage.run import Run
from workbench.training import TrainConfig
from workbench.training.dataloading import Rank, prefetch_batches

N = 40
CLASSES = 5
TINY = {"num_tokens": 4, "width": 16, "depth": 1, "heads": 2, "batch_size": 8, "precision": "no"}
GENERATOR = {name: TINY[name] for name in ("width", "depth", "heads", "batch_size", "precision")}
TOKENIZER = TINY | {"side": 8, "channels": 1, "patch": 2, "dim": 4, "collect": False}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module", autouse=True)
def no_shutdown_delay():
    """Skip a sleep of `datasets` after each epoch, which works around a fault of pyarrow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write forty training images in two files, and ten test images."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (N + 10, 8, 8), np.uint8)
    for name, part in (("train-0", range(25)), ("train-1", range(25, N)), ("test", range(N, 50))):
        rows = {
            "image": [{"bytes": png(pixels[index]), "path": None} for index in part],
            "label": [index % CLASSES for index in part],
        }
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def tokenizers(folder, tmp_path_factory):
    """Train tokenizers of ImageNet's recipes for two steps on a stream."""
    runs = tmp_path_factory.mktemp("runs")
    data = {"data": f"stream:{folder}", "steps": 2}
    return {
        "latents": train("ae-imagenet256", runs / "ae", **data, **TOKENIZER),
        "codes": train("vqvae-imagenet256", runs / "vq", codebook_size=16, **data, **TOKENIZER),
    }


@pytest.fixture
def tokenizer(tokenizers, tmp_path):
    return Run(shutil.copytree(tokenizers["latents"].folder, tmp_path / "tokenizer"))


def images_of(folder) -> tuple[torch.Tensor, np.ndarray]:
    """Return the training images in the order of the files, and their labels."""
    stream = ImageStream(str(folder), size=ImageSize(8, 8), channels=1)
    (batch,) = stream.ordered_batches(N)
    return batch.images, batch.labels


@pytest.mark.parametrize("first", [0, 7, 30, N])
def test_ordered_batches_yield_every_image_once(folder, first):
    images, labels = images_of(folder)
    np.testing.assert_array_equal(labels, np.arange(N) % CLASSES)
    stream = ImageStream(str(folder), size=ImageSize(8, 8), channels=1)
    batches = list(stream.ordered_batches(9, first=first))
    rest = N - first
    assert [len(batch.images) for batch in batches] == [9] * (rest // 9) + [rest % 9] * bool(
        rest % 9
    )
    if batches:
        torch.testing.assert_close(torch.cat([batch.images for batch in batches]), images[first:])


@pytest.mark.parametrize("quantity", ["latents", "codes"])
def test_encoded_stream_has_the_tokens_of_both_orientations(tokenizers, folder, quantity):
    run = tokenizers[quantity]
    data = load_encoded(run, None, quantity, flip=True)
    images, labels = images_of(folder)
    model = load_tokenizer(run)
    with torch.no_grad():
        tokens, mirrored = model.encode(images), model.encode(images.flip(-1))
    np.testing.assert_array_equal(data.labels, labels)
    expected = [getattr(part, quantity).numpy() for part in (tokens, mirrored)]
    np.testing.assert_allclose(data.rows[:], expected[0], atol=1e-6)
    np.testing.assert_allclose(data.flipped[:], expected[1], atol=1e-6)
    if quantity == "latents":
        mean, std = data.moments(by_channel=True)
        flat = expected[0].reshape(-1, data.rows.shape[2]).astype(np.float64)
        np.testing.assert_allclose(mean, flat.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(std, flat.std(axis=0, ddof=1), atol=1e-6)


def test_killed_encoding_keeps_complete_shards_and_names_damaged_images(
    tokenizer, folder, monkeypatch
):
    decode = ImageStream._decode
    decoded = []

    def damage_one(self, cell, rank, number, name):
        decoded.append(name)
        if name.startswith("image 13 "):
            raise UserError(f"{name} is truncated.")
        return decode(self, cell, rank, number, name)

    monkeypatch.setattr(ImageStream, "_decode", damage_one)
    monkeypatch.setattr(latent_encoding, "ENCODE_BATCH", 4)
    monkeypatch.setattr(latent_encoding, "SHARD_BYTES", 12 * 4 * 4 * 4)  # of 12 images
    encoding = Encoding(run=tokenizer, step=2, quantity="latents")
    with pytest.warns(UserWarning, match="1 file was skipped"):
        encoding.write()
    whole = {path.name: path.read_bytes() for path in encoding.folder.iterdir()}
    shards = sorted(name for name in whole if name.endswith(".safetensors"))
    assert shards == [f"latents_rank00_shard{index:03d}.safetensors" for index in range(4)]
    summary = json.loads(whole[ENCODING_FILE])
    assert summary["images"] == N - 1 and len(summary["skipped"]) == 1
    data = load_encoded(tokenizer, None, "latents")
    assert data.labels.tolist() == [index % CLASSES for index in range(N) if index != 13]
    last = encoding.folder / shards[-1]
    last.unlink()  # as after a copy that was interrupted
    with pytest.raises(RunError):
        load_encoded(tokenizer, None, "latents")
    last.write_bytes(whole[last.name])
    for name in (*shards[2:], ENCODING_FILE, "latent_stats.json"):
        (encoding.folder / name).unlink()
    first = (encoding.folder / shards[0]).stat().st_mtime_ns
    decoded.clear()
    with pytest.warns(UserWarning, match="1 file was skipped"):
        Encoding(run=tokenizer, step=2, quantity="latents").write()
    assert len(decoded) == N - 24
    assert (encoding.folder / shards[0]).stat().st_mtime_ns == first
    assert {path.name: path.read_bytes() for path in encoding.folder.iterdir()} == whole


def test_full_disk_leaves_an_encoding_that_continues(tokenizer, monkeypatch):
    monkeypatch.setattr(latent_encoding, "ENCODE_BATCH", 4)
    monkeypatch.setattr(latent_encoding, "SHARD_BYTES", 12 * 4 * 4 * 4)
    save = latent_encoding.save_safetensors

    def full(path, arrays):
        if "shard002" in str(path):
            raise OSError(28, "No space left on device")
        save(path, arrays)

    encoding = Encoding(run=tokenizer, step=2, quantity="latents")
    monkeypatch.setattr(latent_encoding, "save_safetensors", full)
    with pytest.raises(UserError):
        encoding.write()
    assert len(list(encoding.folder.glob("*.safetensors"))) == 2
    monkeypatch.setattr(latent_encoding, "save_safetensors", save)
    assert len(load_encoded(tokenizer, None, "latents")) == N


def test_cache_depends_on_checkpoint_and_settings(tokenizers):
    folders = {
        Encoding(run=tokenizers[name], step=2, quantity=name, flip=flip).folder.name
        for name in tokenizers
        for flip in (False, True)
    }
    assert len(folders) == 4


def test_latents_on_a_grid_have_the_published_layout(tmp_path):
    small = {"width": 8, "dim": 3, "batch_size": 8, "limit": 30}
    run = train("vavae-digits", tmp_path / "vavae", steps=1, collect=False, **small)
    data = load_encoded(run, None, "latents", flip=True)
    arrays = read_array_files(Encoding(run=run, step=1, quantity="latents", flip=True).folder)
    n = len(data)
    assert data.rows.shape == (n, 16, 3) and data.grid == (4, 4)
    (stored,) = arrays.arrays["latents_flip"].arrays
    assert stored.shape == (n, 3, 4, 4) and stored.dtype == np.float32
    assert arrays.arrays["labels"].arrays[0].dtype == np.int64
    np.testing.assert_array_equal(stored[:, :, 1, 2], data.flipped[:][:, 6])


def test_flips_depend_on_seed_and_step_alone():
    rows = np.zeros((64, 1, 1), np.float32)
    data = LatentDataset(rows=rows, labels=np.arange(64), flipped=rows + 1)
    config = TrainConfig(batch_size=16, flip=0.5)

    def batches(process: Rank, steps: range, config: TrainConfig = config) -> torch.Tensor:
        device = torch.device("cpu")
        parts = prefetch_batches(data, config, process, steps.start, device)
        return torch.stack([torch.stack([x.flatten(), y]) for x, y in islice(parts, len(steps))])

    whole = batches(Rank(), range(8))
    flips = whole[:, 0]
    assert 0.3 < flips.mean() < 0.7 and not torch.equal(flips[0], flips[1])
    torch.testing.assert_close(batches(Rank(), range(5, 8)), whole[5:])  # resumed
    halves = [batches(Rank(rank=rank, world_size=2), range(8)) for rank in (0, 1)]
    torch.testing.assert_close(torch.stack(halves, dim=-1).flatten(-2), whole)
    assert not batches(Rank(), range(8), TrainConfig(batch_size=16))[:, 0].any()


@pytest.mark.parametrize(
    ("recipe", "quantity"),
    [
        ("sit-imagenet256", "latents"),
        ("dit-imagenet256", "latents"),
        ("lightningdit-imagenet256", "latents"),
        ("ar-imagenet256", "codes"),
    ],
)
def test_generator_trains_on_a_tokenizer_of_a_stream(tokenizers, tmp_path, recipe, quantity):
    small = dict(GENERATOR)
    if recipe.startswith("lightningdit"):
        small["guided_channels"] = 2
    out = tmp_path / "run"
    arguments = ["train", recipe, "--out", str(out), "--steps", "2", "--no-collect"]
    arguments += ["--tokenizer", str(tokenizers[quantity].folder)]
    for name, value in small.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    run = Run(out)
    assert run.config.training["flip"] == 0.5
    models = load_models(run)
    assert models.generator.config.classes == CLASSES
    images = draw_samples(models.generator, models.tokenizer, torch.arange(3), steps=2)
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8


def test_images_without_labels_are_of_one_class(folder, tmp_path):
    for file in folder.iterdir():
        table = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
        table.remove_columns("label").to_parquet(tmp_path / file.name)
    data = f"stream:{tmp_path}"
    run = train("ae-imagenet256", tmp_path / "run", data=data, steps=1, **TOKENIZER)
    assert not load_encoded(run, None, "latents").labels.any()


@pytest.fixture(scope="module")
def exported(tokenizers, tmp_path_factory):
    """Copy the shards of both quantities, as other programs would have written them."""
    folders = {}
    for name, run in tokenizers.items():
        folders[name] = tmp_path_factory.mktemp("files") / name
        encoding = Encoding(run=run, step=2, quantity=name, flip=True)
        shutil.copytree(encoding.write(), folders[name])
    codebook = load_tokenizer(tokenizers["codes"]).codebook.detach().numpy()
    np.save(folders["codes"] / "codebook.npy", codebook)
    (folders["latents"] / "latent_stats.json").unlink()
    channels = (torch.full((1, 4, 1, 1), value) for value in (0.5, 2.0))
    torch.save(
        dict(zip(("mean", "std"), channels, strict=True)), folders["latents"] / "latents_stats.pt"
    )
    return folders


@pytest.mark.parametrize(
    ("recipe", "quantity"), [("sit-imagenet256", "latents"), ("ar-imagenet256", "codes")]
)
def test_generator_trains_on_files(exported, tmp_path, recipe, quantity):
    out = tmp_path / "run"
    arguments = ["train", recipe, "--out", str(out), "--latents", str(exported[quantity])]
    for name, value in (GENERATOR | {"steps": 2, "save_every": 1}).items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    run = Run(out)
    assert run.is_generator and run.tokenizer is None and run.config.latents.n == N
    if quantity == "latents":
        assert run.config.settings["mean"] == pytest.approx(0.5)
        assert run.config.settings["std"] == pytest.approx(2.0, rel=1e-2)
    with pytest.raises(UserError):
        load_models(run)
    weights = load_file(out / "step-000002.safetensors")
    (out / "step-000002.safetensors").unlink()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    resumed = load_file(out / "step-000002.safetensors")
    assert all(np.array_equal(resumed[name], weights[name]) for name in weights)


def test_files_and_tokenizer_are_decoded_together(exported, tokenizers, tmp_path):
    settings = GENERATOR | {"latents": exported["latents"], "steps": 1, "collect": False}
    tokenizer = tokenizers["latents"].folder
    run = train("sit-imagenet256", tmp_path / "run", tokenizer=tokenizer, **settings)
    models = load_models(run)
    assert draw_samples(models.generator, models.tokenizer, torch.arange(2), steps=1).shape[0] == 2
    other = tokenizers["codes"].folder
    wrong = shutil.copytree(exported["latents"], tmp_path / "wrong")
    rewrite(wrong, lambda arrays: {n: a[..., :2] if a.ndim > 1 else a for n, a in arrays.items()})
    for change in ({"tokenizer": other, "latents": wrong}, {"tokenizer": None, "latents": None}):
        with pytest.raises(UserError):
            train("sit-imagenet256", tmp_path / "b", **(settings | change))
    assert not (tmp_path / "b").exists()


def rewrite(folder, change):
    """Change the arrays of the only shard of a folder."""
    (path,) = folder.glob("*.safetensors")
    save_file({n: np.ascontiguousarray(a) for n, a in change(load_file(path)).items()}, path)


@pytest.mark.parametrize(
    ("quantity", "change"),
    [
        ("latents", lambda arrays: {n: a for n, a in arrays.items() if n != "latents_flip"}),
        ("latents", lambda arrays: {n: a for n, a in arrays.items() if n != "latents"}),
        ("latents", lambda arrays: arrays | {"labels": arrays["labels"] - 1}),
        ("latents", lambda arrays: arrays | {"latents": arrays["latents"][:, :, 0]}),
        ("codes", lambda arrays: arrays | {"codes": arrays["codes"] + 16}),
    ],
    ids=["flips", "latents", "labels", "axes", "codes"],
)
def test_files_that_do_not_fit_are_refused(exported, tmp_path, quantity, change):
    folder = shutil.copytree(exported[quantity], tmp_path / "files")
    rewrite(folder, change)
    recipe = {"latents": "sit-imagenet256", "codes": "ar-imagenet256"}[quantity]
    with pytest.raises(UserError):
        train(recipe, tmp_path / "run", latents=folder, steps=1, **GENERATOR)
    assert not (tmp_path / "run").exists()


def test_run_of_arrays_is_no_tokenizer(exported, tmp_path):
    wb.evaluate(f"arrays:{exported['latents']}", out=tmp_path / "arrays")
    with pytest.raises(UserError, match="--latents"):
        train("sit-imagenet256", tmp_path / "run", tokenizer=tmp_path / "arrays", **GENERATOR)
