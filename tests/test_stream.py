"""Tests of image streams: reproducible order, one part per process, and resuming."""

import io
import tarfile
from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.data import load
from workbench.data import stream as stream_module
from workbench.data.stream import ImageStream
from workbench.launch.in_process import train
from workbench.launch.latent_dataset import load_encoded
from workbench.training import StreamDataset, TrainConfig
from workbench.training.dataloading import Rank, load_batches

SMALL = {
    "num_tokens": 4,
    "width": 16,
    "depth": 1,
    "side": 8,
    "channels": 1,
    "patch": 2,
    "dim": 4,
    "batch_size": 8,
    "warmup_steps": 2,
    "precision": "no",
}


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def no_shutdown_delay(monkeypatch):
    """Skip a sleep of `datasets` after each epoch, which works around a fault of pyarrow."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def folder(tmp_path):
    """Write sixty training images in four files and twelve test images, each with its own gray."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        values = range(15 * number, 15 * number + 15)
        rows = {
            "image": [{"bytes": png(v), "path": None} for v in values],
            "label": [v % 3 for v in values],
        }
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"train-{number}.parquet")
    rows = {
        "image": [{"bytes": png(v), "path": None} for v in range(60, 72)],
        "label": [v % 3 for v in range(60, 72)],
    }
    datasets.Dataset.from_dict(rows).to_parquet(folder / "test.parquet")
    return folder


def gray_values(
    stream: ImageStream,
    batches: int,
    *,
    first: int = 0,
    rank: int = 0,
    world_size: int = 1,
    size: int = 5,
) -> list[int]:
    iterator = stream.batches(size, first=first, rank=rank, world_size=world_size, seed=0)
    pixels = torch.cat([batch for (batch,) in islice(iterator, batches)])
    assert pixels.shape[1:] == (1, 8, 8)
    return ((pixels[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_shuffle_buffer_is_limited_in_bytes(monkeypatch):
    monkeypatch.setattr(stream_module, "SHUFFLE_BUFFER_BYTES", 50)
    held = []
    most = []

    def rows():
        for number in range(60):
            held.append(number)
            most.append(len(held))
            yield {"pixels": {"bytes": bytes(10)}, "number": number}

    order = []
    for row in stream_module.shuffled_rows(rows(), np.random.default_rng(0)):
        held.remove(row["number"])
        order.append(row["number"])
    assert sorted(order) == list(range(60)) and order != sorted(order)
    assert max(most) == 6  # five in the buffer, and the row that is read
    large = [{"pixels": {"bytes": bytes(100)}, "number": 7}]
    assert len(list(stream_module.shuffled_rows(large, np.random.default_rng(0)))) == 1


def test_every_epoch_has_every_image_in_another_order(folder):
    stream = ImageStream(str(folder), size=ImageSize(8, 8), channels=1)
    assert isinstance(stream, StreamDataset)
    values = gray_values(stream, 24)
    first_epoch, second_epoch = values[:60], values[60:]
    assert sorted(first_epoch) == list(range(60)) == sorted(second_epoch)
    assert first_epoch != second_epoch
    assert first_epoch != list(range(60))


def test_skipping_gives_the_same_images(folder):
    stream = ImageStream(str(folder), size=ImageSize(8, 8), channels=1)
    assert gray_values(stream, 20)[35:] == gray_values(stream, 13, first=35)


def test_processes_share_an_epoch(folder):
    stream = ImageStream(str(folder), size=ImageSize(8, 8), channels=1)
    parts = [gray_values(stream, 6, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(60))


@pytest.mark.slow
def test_run_on_a_stream_resumes_and_is_collected(folder, tmp_path):
    settings = {"data": f"stream:{folder}", "save_every": 10, "log_every": 10}
    run = train("ae-digits", tmp_path / "run", steps=20, **SMALL, **settings)
    assert run.evidence().images.shape == (12, 8, 8, 1)
    assert run.evidence().labels is not None
    losses = torch.tensor(run.history().pixel.values)
    (tmp_path / "run" / "step-000020.safetensors").unlink()
    resumed = train("ae-digits", tmp_path / "run", steps=20, **SMALL, **settings)
    torch.testing.assert_close(torch.tensor(resumed.history().pixel.values), losses)


@pytest.mark.parametrize("seed", [-1, 0])
def test_stream_without_test_images_is_trained_on(folder, tmp_path, seed):
    for path in folder.glob("test*"):
        path.unlink()
    settings = {"data": f"stream:{folder}", "seed": seed, "collect": False}
    run = train("ae-digits", tmp_path / "run", steps=4, **SMALL, **settings)
    assert run.status()["state"] == "finished"


def test_total_of_a_stream_is_known_at_its_end(folder):
    source = f"stream:{folder}"
    totals = {n: load(source, split="test", side=8, sample=n).total for n in (5, 12, 13)}
    assert totals == {5: None, 12: 12, 13: 12}


def test_sample_of_a_stream_may_exceed_the_default(folder, monkeypatch):
    monkeypatch.setattr("workbench.data.stream.DEFAULT_LIMIT", 3)
    assert len(load(f"stream:{folder}", side=8)) == 3
    assert len(load(f"stream:{folder}", side=8, sample=50)) == 50
    assert len(load(f"stream:{folder}", side=8, sample=50, limit=5)) == 5


@pytest.mark.filterwarnings("ignore:1 of the 31 images")
def test_next_image_takes_the_place_of_a_damaged_one(folder):
    rows = {
        "image": [{"bytes": b"nothing", "path": None}, {"bytes": png(7), "path": None}],
        "label": [0, 1],
    }
    datasets.Dataset.from_dict(rows).to_parquet(folder / "train-9.parquet")
    stream = ImageStream(str(folder), size=ImageSize(8, 8), channels=1)
    with pytest.warns(UserWarning, match=r"image \d+ of process 0 of stream:"):
        values = gray_values(stream, 2, size=31)
    counts = Counter(values)
    counts.subtract([*range(60), 7])
    (repeated,) = counts.elements()
    position = next(i for i in range(62) if values[i] == values[(i + 1) % 31 + i // 31 * 31])
    assert values[position] == repeated
    assert gray_values(stream, 1, first=31, size=31) == values[31:]
    config = TrainConfig(batch_size=31, steps=1, num_workers=1, seed=0)
    (batch,) = next(load_batches(stream, config, Rank()))
    assert batch[:, 0, 0, 0].tolist() == values[:31]
    with pytest.raises(UserError):  # a batch of nothing but the damaged image
        gray_values(stream, 62, size=1)


def test_column_named_as_our_own_is_no_obstacle(tmp_path):
    images = [png(value) for value in range(20)]
    for name, columns in {"a": {"pixels": images}, "b": {"x": images, "pixels": images}}.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        stream = ImageStream(str(tmp_path / f"{name}.parquet"), size=ImageSize(8, 8), channels=1)
        assert len(set(gray_values(stream, 1, size=20))) == 20


def test_stream_without_rows_or_with_huge_labels(tmp_path):
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="no rows"):
        load(f"stream:{tmp_path / 'empty.parquet'}", side=8)
    labels = pa.array([2**64 - 1] * 20, pa.uint64())
    table = pa.table({"image": [png(value) for value in range(20)], "label": labels})
    pq.write_table(table, tmp_path / "huge.parquet")
    assert load(f"stream:{tmp_path / 'huge.parquet'}", split="train", side=8).labels is None


@pytest.mark.slow
def test_invalid_streams_raise(folder, tmp_path):
    with pytest.raises(UserError):
        load("stream:nobody/nothing", side=8)
    with pytest.raises(UserError):
        train("ae-digits", tmp_path / "run", data=f"stream:{tmp_path}")


@pytest.mark.slow
def test_codebook_is_clustered_from_a_stream(folder, tmp_path):
    small = {
        "side": 8,
        "channels": 1,
        "patch": 4,
        "codebook_size": 4,
        "teacher": "random",
        "width": 16,
        "depth": 1,
    }
    run = train(
        "unicode2-digits",
        tmp_path / "run",
        data=f"stream:{folder}",
        steps=4,
        batch_size=8,
        save_every=4,
        **small,
    )
    assert run.evidence().codebook.shape == (1, 4, 64)


# Webdataset


@pytest.fixture
def shards(tmp_path):
    """Write thirty training images in two tar files, and six test images."""
    folder = tmp_path / "shards"
    folder.mkdir()
    parts = {"train-0": range(15), "train-1": range(15, 30), "val-0": range(30, 36)}
    for name, values in parts.items():
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for value in values:
                files = {"cls": str(value % 3).encode(), "json": b"{}", "png": png(value)}
                for extension, content in files.items():
                    member = tarfile.TarInfo(f"images/{value:04}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def test_webdataset_shards_are_a_stream(shards):
    stream = ImageStream(str(shards), size=ImageSize(8, 8), channels=1)
    every = gray_values(stream, 12)
    assert sorted(every[:30]) == sorted(every[30:]) == list(range(30)) and every[:30] != every[30:]
    assert gray_values(stream, 3, first=15) == every[15:30]
    parts = [gray_values(stream, 3, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(map(sorted, parts)) == [list(range(15)), list(range(15, 30))]
    ((images, labels, _),) = stream.ordered_batches(10, first=25)
    assert len(images) == 5 and labels.tolist() == [value % 3 for value in range(25, 30)]
    held_out = load(f"stream:{shards}", split="test", side=8, channels=1)
    assert held_out.pixels[:, 0, 0, 0].tolist() == list(range(30, 36))
    one_file = load(f"stream:{shards / 'val-0.tar'}", split="test", side=8, channels=1)
    assert one_file.pixels[:, 0, 0, 0].tolist() == list(range(30, 36))


def test_latents_are_encoded_from_webdataset_shards(shards, tmp_path):
    run = train(
        "ae-imagenet256", tmp_path / "run", data=f"stream:{shards}", steps=2, heads=2, **SMALL
    )
    encoded = load_encoded(run, None, "latents", flip=True)
    assert len(encoded) == 30 and encoded.labels.tolist() == [value % 3 for value in range(30)]
    assert encoded.flipped.shape == encoded.rows.shape == (30, 4, 4)


def test_damaged_shards_and_folders_without_tables_are_refused(shards, tmp_path):
    content = (shards / "train-1.tar").read_bytes()
    (shards / "train-1.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"train-1\.tar"):
        ImageStream(str(shards), size=ImageSize(8, 8), channels=1).take(1)
    (tmp_path / "files").mkdir()
    with pytest.raises(UserError, match="without `stream:`"):
        ImageStream(str(tmp_path / "files"), size=ImageSize(8, 8), channels=1).take(1)
