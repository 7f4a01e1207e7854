"""Batches of training images: workers, resume, crops and flips, memory, value ranges."""

import io
import tarfile
import tracemalloc
import zipfile
from contextlib import closing
from dataclasses import replace
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from workbench.cli import app
from workbench.collect import batches as batches_module
from workbench.collect import collect, load_images
from workbench.core.augmentation import Augmentation
from workbench.core.batch_shares import BatchShares, item_draws
from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.core.pixels import normalize
from workbench.core.workers import load_in_workers
from workbench.data import lazy, load
from workbench.data.stream import ImageStream
from workbench.launch import throughput
from workbench.launch.evaluate import evaluate
from workbench.launch.in_process import prepare_training, train
from workbench.launch.throughput import Throughput, measure_throughput
from workbench.storage.checkpoint import read_tensors
from workbench.tokenizers.pretrained.wrapped import wrap
from workbench.training import TrainConfig, fit
from workbench.training.config import step_seed
from workbench.training.dataloading import Rank, batch_flips, load_batches

SIDE = 16
WIDTH, HEIGHT = 30, 24


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same 20 pictures as a folder, a zip, a tar, parquet, arrow, and arrays."""
    root = tmp_path_factory.mktemp("sources")
    encoded = {f"{index:02}.png": png(picture(index)) for index in range(20)}
    (root / "folder").mkdir()
    with zipfile.ZipFile(root / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in encoded.items():
            (root / "folder" / name).write_bytes(content)
            archive.writestr(name, content)
    with tarfile.open(root / "images.tar", "w") as archive:
        for name, content in encoded.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    rows = [{"bytes": content, "path": None} for content in encoded.values()]
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": rows}, features=features)
    table.save_to_disk(str(root / "arrow"))
    table.to_parquet(str(root / "images.parquet"))
    arrays = np.stack([np.asarray(picture(index)) for index in range(20)])
    np.save(root / "images.npy", arrays)
    np.savez_compressed(root / "images.npz", arr_0=arrays)
    return root


def batches(data, count=3, first=0, **settings):
    config = TrainConfig(**{"batch_size": 8, "seed": 3} | settings)
    iterator = load_batches(data, config, Rank(), first)
    return [batch[0] for batch in islice(iterator, count)]


@pytest.mark.parametrize(
    "name",
    ["folder", "images.zip", "images.tar", "arrow", "images.parquet", "images.npy", "images.npz"],
)
def test_large_sets_are_decoded_when_read_to_equal_arrays(sources, monkeypatch, name):
    small = load(str(sources / name), side=SIDE, split="all")
    monkeypatch.setattr(lazy, "MAX_ARRAY_BYTES", 1000)
    large = load(str(sources / name), side=SIDE, split="all")
    assert isinstance(small.pixels, np.ndarray) and isinstance(large.pixels, lazy.LazyImages)
    assert np.array_equal(large.read(), small.pixels)
    assert np.array_equal(large.read(slice(3, 7)), small.pixels[3:7])
    assert np.array_equal(large.take(5, seed=1).read(), small.take(5, seed=1).pixels)
    assert large.fingerprint != small.fingerprint and large.has_fingerprint(small.fingerprint)
    assert large.has_fingerprint(large.fingerprint)
    assert not large.take(19).has_fingerprint(large.fingerprint)
    augmented = {"crop": "random", "flip": 0.5}
    expected = batches(small, count=1, **augmented)[0]
    assert torch.equal(batches(large, count=1, **augmented)[0], expected)


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_batches_do_not_depend_on_workers_and_resume(sources, monkeypatch, kind):
    monkeypatch.setattr(lazy, "MAX_ARRAY_BYTES", 1000)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    data = load(str(sources / "folder"), side=SIDE)
    if kind == "stream":
        data = ImageStream(str(sources / "images.parquet"), size=ImageSize(SIDE, SIDE), channels=3)
    settings = {"crop": "random_scale", "flip": 0.5}
    expected = batches(data, 6, **settings)
    assert len({batch.numpy().tobytes() for batch in expected}) == 6
    for num_workers in (1, 2):
        resumed = batches(data, 4, first=2, num_workers=num_workers, **settings)
        assert all(map(torch.equal, resumed, expected[2:]))


def test_mirrored_latents_are_not_those_without_a_class():
    """The loss draws which classes are dropped, and must not draw the numbers of the flips."""
    config = TrainConfig(batch_size=2000, flip=0.5, seed=3)
    shares = BatchShares()
    shares.start_step(step_seed(config, 7))
    with shares.computing(0):
        dropped = item_draws(torch.rand, (2000,)) < 0.1
    flips = batch_flips(config, Rank(), 7)
    assert abs(flips[dropped].float().mean() - 0.5) < 0.1
    assert abs(flips.float().mean() - 0.5) < 0.05


def test_crops_and_flips_are_those_of_plain_arrays(sources):
    """At the scale of the files, a crop is a window of the decoded picture."""
    images = load(str(sources / "folder"), side=HEIGHT, split="all")
    augmentation = Augmentation(crop="random", flip=0.5, seed=7)
    indices, epochs = torch.arange(20).repeat(2), torch.arange(2).repeat_interleave(20)
    (cropped,) = images.augmented(augmentation).augmented_batch(indices, epochs)
    flips, lefts = [], []
    for index, epoch, image in zip(indices.tolist(), epochs.tolist(), cropped, strict=True):
        _, _, left, flip = np.random.default_rng([7, epoch, index]).random(4)
        start = int(left * (WIDTH - HEIGHT + 1))
        expected = np.asarray(picture(index))[:, start : start + HEIGHT]
        expected = expected[:, ::-1] if flip < 0.5 else expected
        assert np.array_equal(image.numpy(), expected.transpose(2, 0, 1))
        flips.append(flip < 0.5)
        lefts.append(start)
    assert 10 < sum(flips) < 30 and set(lefts) == set(range(WIDTH - HEIGHT + 1))


def test_random_scale_has_every_length_to_a_quarter_more():
    augmentation = Augmentation(crop="random_scale")
    draws = [augmentation.draw(0, index) for index in range(400)]
    sizes = {augmentation.covered_size(ImageSize(16, 32), draw) for draw in draws}
    assert sizes == {(length, 2 * length) for length in range(16, 21)}
    assert Augmentation().covered_size(ImageSize(16, 32), draws[0]) == (16, 32)


@pytest.mark.parametrize("height", [3000, 1500])
def test_random_resized_windows_have_the_stated_area_and_ratio(height):
    augmentation = Augmentation(crop="random_resized")
    areas, ratios = [], []
    for index in range(200):
        draw = augmentation.draw(0, index)
        size = ImageSize(height // 100, 30)
        left, top, right, bottom = augmentation.window(3000, height, size, draw)
        assert 0 <= left < right <= 3000 and 0 <= top < bottom <= height
        areas.append((right - left) * (bottom - top) / (3000 * height))
        ratios.append((right - left) / (bottom - top) * height / 3000)
    assert max(areas) < 1.001 and 0.75 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.34
    # A window that is as wide as the image is clipped: at most 4/3 of the side is cut off.
    assert min(areas) > 0.75 and 0.8 < np.median(areas) < 0.95


def test_evaluation_and_defaults_have_no_augmentation(sources):
    images = load(str(sources / "folder"), side=SIDE)
    (batch,) = batches(images, 1, batch_size=len(images))
    assert sorted(x.tobytes() for x in normalize(batch).numpy()) == sorted(
        x.tobytes() for x in images.images().numpy()
    )


def test_arrays_without_originals_are_cropped_and_other_data_is_refused():
    digits = load("digits")
    plain, scaled = (batches(digits, 1, crop=crop)[0] for crop in ("center", "random_scale"))
    assert plain.shape == scaled.shape == (8, 1, 8, 8) and not torch.equal(plain, scaled)

    class Latents:
        def __len__(self):
            return 10

        def batch(self, indices):
            return (indices,)

    assert batches(Latents(), 1)[0].shape == (8,)
    with pytest.raises(UserError):
        batches(Latents(), 1, flip=0.5)


def test_errors_of_workers_are_sentences():
    def fail(request):
        raise UserError(f"{request} is damaged.")

    with pytest.raises(UserError, match=r"^7 is damaged\.$"):
        next(load_in_workers(fail, [7], num_workers=1))


def test_reduced_decoding_is_for_large_jpeg_files_of_training_only(tmp_path):
    gradient = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    for index in range(4):
        Image.fromarray(np.roll(gradient, index, 0)).save(tmp_path / f"{index}.jpg", quality=95)
    images = load(str(tmp_path), side=SIDE, split="all")
    full, reduced = (
        batches(images, 1, batch_size=4, reduced_decoding=value)[0].int() for value in (False, True)
    )
    assert 0 < (full - reduced).abs().max() < 40


def test_memory_of_a_large_set_is_its_index(tmp_path, monkeypatch):
    content = png(Image.new("RGB", (64, 64)))
    for index in range(300):
        (tmp_path / f"{index:03}.png").write_bytes(content)
    monkeypatch.setattr(lazy, "MAX_ARRAY_BYTES", 1000)
    load(str(tmp_path), side=64)  # imports
    tracemalloc.start()
    images = load(str(tmp_path), side=64)
    held, peak = tracemalloc.get_traced_memory()
    for start in range(0, len(images), 10):
        images.read(slice(start, start + 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    decoded = len(images) * 64 * 64 * 3
    assert held < 100 * len(images) + 20_000
    assert peak < decoded / 4


def test_damaged_image_of_a_large_set_is_replaced(sources, tmp_path, monkeypatch):
    for index in range(40):
        (tmp_path / f"{index:02}.png").write_bytes(png(picture(index)))
    (tmp_path / "01.png").write_bytes(png(picture(1))[:200])
    monkeypatch.setattr(lazy, "MAX_ARRAY_BYTES", 1000)
    images = load(str(tmp_path), side=SIDE, split="all")
    with pytest.warns(UserWarning, match=r"01\.png"):
        pixels = images.read(np.array([0, 1]))
    np.testing.assert_array_equal(pixels[1], pixels[0])
    with pytest.raises(UserError, match=r"01\.png"):
        images.read(np.array([1, 1]))
    with pytest.warns(UserWarning, match=r"1 file was skipped.*01\.png"):
        readable = images.readable()
    assert len(readable) == 39 and len(readable.skipped) == 1 and readable.total == 40
    np.testing.assert_array_equal(readable.read([0, 1]), images.read([0, 2]))
    (tmp_path / "05.png").write_bytes(b"")  # damaged afterwards
    with pytest.raises(UserError, match=r"05\.png"):
        readable.read()
    with pytest.warns(UserWarning):
        run = evaluate(gray_means(), tmp_path, tmp_path / "run", side=SIDE, only=["encoding"])
    evidence = run.evidence()
    assert evidence.num_images == evidence.provenance["n"] == 38
    assert [text.split()[0] for text in sorted(evidence.provenance["excluded"])] == [
        "01.png",
        "05.png",
    ]


def gray_means():
    """A tokenizer of one number per image."""
    return wrap(
        lambda x: x.mean((1, 2, 3), keepdim=False)[:, None, None],
        lambda z: z[..., None].expand(-1, 3, SIDE, SIDE),
        channels=3,
    )


def test_value_range_maps_twelve_bits_to_eight(tmp_path):
    values = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    for index in range(3):
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / f"{index}.png")
    with pytest.warns(UserWarning, match="value_range=0,4095"):
        assert load(str(tmp_path), split="all").pixels.max() == 16
    pixels = load(str(tmp_path), split="all", value_range=(0, 4095)).pixels[0, ..., 0]
    assert np.array_equal(pixels, np.rint(values.astype(np.uint16) * (255 / 4095)))
    clipped = load(str(tmp_path), split="all", value_range=(1000, 2000)).pixels
    assert clipped.min() == 0 and clipped.max() == 255
    Image.fromarray(values.astype(np.float32) - 1024, "F").save(tmp_path / "0.tiff")
    with pytest.raises(UserError):
        load(str(tmp_path), value_range=(5, 5))
    picture(0).save(tmp_path / "color.png")
    with pytest.warns(UserWarning, match=r"color\.png"):
        assert len(load(str(tmp_path), split="all", side=64, value_range=(0, 4095))) == 4


TINY = {
    "side": 16,
    "channels": 3,
    "patch": 8,
    "num_tokens": 4,
    "dim": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "batch_size": 4,
    "save_every": 2,
}
AUGMENTED = {"crop": "random_resized", "flip": 0.5, "reduced_decoding": True}


def test_augmented_run_resumes_with_other_workers_to_equal_weights(sources, tmp_path):
    settings = TINY | AUGMENTED | {"data": str(sources / "folder"), "steps": 4}
    whole = train("ae-photos", tmp_path / "whole", collect=False, **settings)
    job = prepare_training("ae-photos", tmp_path / "resumed", **settings)
    with closing(fit(job.model, job.data, job.train_config, job.run)) as records:
        next(record for record in records if record.step >= 2)
    run = train("ae-photos", tmp_path / "resumed", collect=False, num_workers=2, **settings)
    weights = [read_tensors(r.checkpoint(4))["ema"] for r in (whole, run)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    plain = train("ae-photos", tmp_path / "plain", collect=False, **(settings | {"crop": "center"}))
    other = read_tensors(plain.checkpoint(4))["ema"]
    assert not all(torch.equal(value, other[name]) for name, value in weights[0].items())


@pytest.mark.filterwarnings("ignore:1 of the")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_run_stores_which_images_were_damaged(num_workers, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(20):
        (folder / f"{index:02}.png").write_bytes(png(picture(index)))
    settings = TINY | {"data": str(folder), "steps": 10, "log_every": 2}
    monkeypatch.setattr(lazy, "MAX_ARRAY_BYTES", 1)
    damaged = load(str(folder), side=16).pixels.encoded.name(3)
    (folder / damaged).write_bytes(png(picture(0))[:200])
    run = train("ae-photos", tmp_path / "run", collect=False, num_workers=num_workers, **settings)
    reasons = [event["why"] for event in run.events() if event["event"] == "damaged images"]
    assert reasons and all(damaged in reason for reason in reasons)


def test_cached_features_refuse_crops(sources, tmp_path):
    settings = TINY | {"data": str(sources / "folder"), "align_weight": 0.1, "teacher": "hog"}
    with pytest.raises(UserError, match="cache"):
        train("softvq-photos", tmp_path / "run", cache=str(tmp_path), flip=0.5, **settings)
    assert not (tmp_path / "run").exists()


def test_value_range_is_that_of_training_and_of_evidence(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (20, 16, 16), np.uint16)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(values):
        Image.fromarray(image).save(tmp_path / "images" / f"{index:02}.png")
    settings = TINY | {"channels": 1, "data": str(tmp_path / "images"), "steps": 1}
    run = train("ae-photos", tmp_path / "run", collect=False, value_range="0,4095", **settings)
    assert run.config.data.value_range == (0, 4095)
    train_images, test_images = (load_images(run, split).pixels for split in ("train", "test"))
    scaled = {np.rint(image * (255 / 4095)).astype(np.uint8).tobytes() for image in values}
    assert {image.tobytes() for image in (*train_images, *test_images)} == scaled


def test_doctor_names_the_slowest_stage(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = TINY | {"data": str(sources / "folder"), "crop": "random"}
    arguments = ["doctor", "--recipe", "ae-photos", "--steps", "4"]
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    monkeypatch.setattr(throughput, "SECONDS", 0.05)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("images/s") >= 3 and "bottleneck" in result.output
    assert not list(tmp_path.iterdir())
    assert CliRunner().invoke(app, ["doctor", "--data", "digits"]).exit_code != 0
    slow_training = Throughput(
        decoding={0: 100.0, 1: 95.0, 2: 190.0}, transfer=None, training=20.0, step_images=4
    )
    assert slow_training.bottleneck.startswith("Training") and slow_training.best_num_workers == 2
    slow_decoding = replace(slow_training, training=2000.0, transfer=9000.0)
    assert slow_decoding.bottleneck.startswith("Decoding")
    with pytest.raises(UserError):
        measure_throughput("sit-digits")


def test_evidence_of_images_that_are_decoded_when_read_is_the_same(sources, tmp_path, monkeypatch):
    settings = TINY | {"data": str(sources / "folder"), "steps": 1}
    run = train("ae-photos", tmp_path / "run", collect=False, **settings)
    arrays = []
    for num_bytes in (lazy.MAX_ARRAY_BYTES, 1):
        monkeypatch.setattr(lazy, "MAX_ARRAY_BYTES", num_bytes)
        monkeypatch.setattr(batches_module, "DECODING_PROCESSES", 2)
        evidence = collect(run, only=["encoding"])
        arrays.append([np.array(evidence.images), np.array(evidence.latents)])
    assert all(map(np.array_equal, *arrays))
