"""Image streams: a reproducible order, a part per process, and resuming."""

import io
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from workbench.core.errors import UserError
from workbench.data import load
from workbench.data.stream import ImageStream
from workbench.launch.in_process import train
from workbench.training import StreamDataset

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
}


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Skip a sleep of `datasets` after each epoch, which works around a fault of pyarrow."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def folder(tmp_path):
    """Sixty images, each of one grey that no other has, in four files; twelve held out."""
    place = tmp_path / "images"
    place.mkdir()
    for number in range(4):
        values = range(15 * number, 15 * number + 15)
        rows = {
            "image": [{"bytes": png(v), "path": None} for v in values],
            "label": [v % 3 for v in values],
        }
        datasets.Dataset.from_dict(rows).to_parquet(place / f"train-{number}.parquet")
    rows = {
        "image": [{"bytes": png(v), "path": None} for v in range(60, 72)],
        "label": [v % 3 for v in range(60, 72)],
    }
    datasets.Dataset.from_dict(rows).to_parquet(place / "test.parquet")
    return place


def greys(
    stream: ImageStream,
    batches: int,
    *,
    first: int = 0,
    rank: int = 0,
    world_size: int = 1,
    size: int = 5,
) -> list[int]:
    found = stream.batches(size, first=first, rank=rank, world_size=world_size, seed=0)
    pixels = torch.cat([batch for (batch,) in islice(found, batches)])
    assert pixels.shape[1:] == (1, 8, 8)
    return ((pixels[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_every_epoch_has_every_image_in_another_order(folder):
    stream = ImageStream(str(folder), side=8, channels=1)
    assert isinstance(stream, StreamDataset)
    seen = greys(stream, 24)
    assert sorted(seen[:60]) == list(range(60)) == sorted(seen[60:])
    assert seen[:60] != seen[60:] and seen[:60] != list(range(60))


def test_skipping_gives_the_same_images(folder):
    stream = ImageStream(str(folder), side=8, channels=1)
    assert greys(stream, 20)[35:] == greys(stream, 13, first=35)


def test_processes_share_an_epoch(folder):
    stream = ImageStream(str(folder), side=8, channels=1)
    parts = [greys(stream, 6, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(60))


def test_a_run_over_a_stream_resumes_and_is_collected(folder, tmp_path):
    plan = {"data": f"stream:{folder}", "save_every": 10, "log_every": 10}
    whole = train("ae-digits", tmp_path / "whole", steps=20, **SMALL, **plan)
    assert whole.evidence().images.shape == (12, 8, 8, 1) and whole.evidence().labels is not None
    (tmp_path / "whole" / "step-000020.safetensors").unlink()
    before = whole.history()
    again = train("ae-digits", tmp_path / "whole", steps=20, **SMALL, **plan)
    torch.testing.assert_close(
        torch.tensor(again.history().pixel.values), torch.tensor(before.pixel.values)
    )


def test_a_damaged_image_becomes_a_gray_square(folder):
    rows = {
        "image": [{"bytes": b"nothing", "path": None}, {"bytes": png(7), "path": None}],
        "label": [0, 1],
    }
    datasets.Dataset.from_dict(rows).to_parquet(folder / "train-9.parquet")
    stream = ImageStream(str(folder), side=8, channels=1)
    with pytest.warns(UserWarning, match=str(folder)):
        assert sorted(greys(stream, 2, size=31)) == sorted([*range(60), 7, 128])


def test_invalid_streams_raise(folder, tmp_path):
    with pytest.raises(UserError):
        load("stream:nobody/nothing", side=8)
    with pytest.raises(UserError):
        train("ae-digits", tmp_path / "run", data=f"stream:{tmp_path}")


def test_a_codebook_is_clustered_from_a_stream(folder, tmp_path):
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
