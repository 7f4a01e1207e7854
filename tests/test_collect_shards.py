"""Collecting in batches: pictures of a subset, resuming after a kill, and several processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import forked_python
import numpy as np
import psutil
import pytest
import torch.nn.functional as F
from waiting import wait_for

from workbench.analysis.codebook.gallery import code_gallery
from workbench.analysis.images.reconstruction import reconstruction
from workbench.analysis.latents.alignment import teacher_alignment
from workbench.collect import collect, images
from workbench.collect.batches import pictures_first
from workbench.core.errors import RunError, UserError
from workbench.core.progress import Cancelled, progress_listener
from workbench.launch.evaluate import evaluate
from workbench.storage.analysis_arguments import array_names
from workbench.storage.evidence import Evidence
from workbench.storage.evidence_writer import EvidenceWriter
from workbench.storage.run import Run
from workbench.tokenizers.pretrained.wrapped import wrap

RUNS = Path(__file__).parent / "fixtures" / "runs-v1"
NUM_IMAGES = 24


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Copies of small stored runs, which are collected in batches of 4 images."""
    monkeypatch.setattr(images, "ENCODE_BATCH", 4)
    shutil.copytree(RUNS, tmp_path / "runs")
    return tmp_path / "runs"


def assert_equal_arrays(a: Evidence, b: Evidence) -> None:
    first, second = a.arrays(), b.arrays()
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


# Pictures


def test_every_image_contributes_numbers_and_some_have_pictures(runs):
    every = collect(Run(runs / "vqvae"), limit=NUM_IMAGES)
    some = collect(Run(runs / "vqvae"), limit=NUM_IMAGES, pictures=12)
    assert (some.num_images, some.num_pictures) == (NUM_IMAGES, 12)
    assert some.mse.shape == some.latents.shape[:1] == some.features.shape[:1] == (NUM_IMAGES,)
    difference = (some.images.astype(float) - some.reconstructions) / 255
    np.testing.assert_allclose(some.mse[:12], np.square(difference).mean(axis=(1, 2, 3)))
    # The same images in another order.
    np.testing.assert_allclose(np.sort(some.mse), np.sort(every.mse), rtol=1e-4)
    assert np.bincount(some.labels[:12], minlength=10).max() <= 2


def test_analyses_of_pictures_name_their_subset(runs):
    evidence = collect(Run(runs / "vqvae"), limit=NUM_IMAGES, pictures=12)
    result = reconstruction(**evidence.kwargs_for(reconstruction))
    assert result.n == NUM_IMAGES and max(result.example_indices) < 12
    # As hosts do, only the arrays of the analysis are opened.
    opened = Evidence.open(evidence.folder, array_names(teacher_alignment))
    arguments = opened.kwargs_for(teacher_alignment)
    assert len(arguments["latents"]) == 12 and arguments["num_images"] == NUM_IMAGES
    arguments = evidence.kwargs_for(code_gallery)
    assert len(arguments["codes"]) == len(arguments["latents"]) == len(arguments["images"]) == 12
    gallery = code_gallery(**arguments)
    assert gallery.n == 12 and f"{NUM_IMAGES}" in gallery.summary()


def test_pictures_are_stratified_by_class():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    order = pictures_first(labels, 1000, 50, seed=0)
    assert np.bincount(labels[order[:50]]).tolist() == [30, 15, 5]
    assert (np.diff(order[:50]) > 0).all() and sorted(order) == list(range(1000))


@pytest.mark.parametrize("name", ["limit", "pictures"])
def test_numbers_of_images_are_checked(runs, name):
    with pytest.raises(UserError):
        collect(Run(runs / "vqvae"), **{name: 0})


# Resuming


def stop_after(count: int):
    """Return a listener that stops a collection at its report of this number."""
    reports = iter(range(count))

    def listener(done: int, total: int) -> None:
        if next(reports, None) is None:
            raise Cancelled("Stopped.")

    return listener


@pytest.mark.parametrize(("name", "stops"), [("softvq", (3, 40, 30)), ("sit", (2, 4))])
def test_resumed_collection_gives_equal_arrays(runs, name, stops, monkeypatch):
    monkeypatch.setattr("workbench.storage.evidence_writer.RECORD_INTERVAL_S", 0.0)
    whole = collect(Run(shutil.copytree(runs / name, runs / "whole")), limit=NUM_IMAGES)
    run = Run(runs / name)
    first_reports = []
    for stop in stops:
        with pytest.raises(Cancelled), progress_listener(stop_after(stop)):
            collect(run, limit=NUM_IMAGES)
    with progress_listener(lambda done, total: first_reports.append(done)):
        resumed = collect(run, limit=NUM_IMAGES)
    assert first_reports[1] > 0  # what was complete is not computed again
    assert_equal_arrays(resumed, whole)
    assert [p.name for p in (run.folder / "evidence").iterdir() if p.name.startswith(".")] == []


def test_other_options_start_again(runs):
    run = Run(runs / "softvq")
    with pytest.raises(Cancelled), progress_listener(stop_after(30)):
        collect(run, limit=NUM_IMAGES)
    other = collect(run, limit=20, only=["encoding"])
    assert other.latents.shape[0] == 20 and other.features is None


def test_full_disk_keeps_what_is_complete(runs, monkeypatch):
    run = Run(runs / "softvq")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("workbench.storage.evidence_writer.create_mapped_array", full)
        with pytest.raises(RunError):
            collect(run, limit=NUM_IMAGES)
    assert collect(run, limit=NUM_IMAGES).num_images == NUM_IMAGES


def test_rows_of_a_killed_process_are_written_again(tmp_path):
    lengths = {"image": 6, "picture": 2, "sample": 0}
    EvidenceWriter.start(tmp_path / "e", {"a": 1})
    writer = EvidenceWriter(tmp_path / "e", lengths)
    writer.write({"codes": np.ones((4, 2), np.int32)}, slice(0, 4))
    writer.complete("encoding", slice(0, 4))
    writer.record()
    writer.write({"codes": np.full((2, 2), 7, np.int32)}, slice(4, 6))  # killed before the record
    assert EvidenceWriter.start(tmp_path / "e", {"a": 1})
    again = EvidenceWriter(tmp_path / "e", lengths)
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert again.missing("encoding", parts) == [slice(4, 6)]
    again.write({"codes": np.full((2, 2), 2, np.int32)}, slice(4, 6))
    assert again.read("codes").tolist() == [[1, 1]] * 4 + [[2, 2]] * 2
    again.write({"images": np.full((4, 1, 1, 1), 5, np.uint8)}, slice(0, 4))
    assert again.read("images").shape == (2, 1, 1, 1)  # only the first have pictures
    assert not EvidenceWriter.start(tmp_path / "e", {"a": 2})  # other arrays
    assert not EvidenceWriter(tmp_path / "e", lengths).names()


# Several processes


@pytest.mark.slow
def test_two_processes_give_the_arrays_of_one(tmp_path):
    for name in ("one", "two"):
        config = shutil.copytree(RUNS / "softvq", tmp_path / name) / "config.json"
        content = json.loads(config.read_text())
        content["data"] |= {"limit": None, "n": None}  # all 360 images, which are two batches
        config.write_text(json.dumps(content))
    one = collect(Run(tmp_path / "one"), limit=300)
    assert one.num_images == 300
    command = ["collect", str(tmp_path / "two"), "--limit=300"]
    processes = forked_python.start_group("from workbench.cli import main\nmain()", *command)
    printed = [process.stdout.read() for process in processes]
    assert [process.wait() for process in processes] == [0, 0]
    two = Run(tmp_path / "two").evidence()
    assert [text.count("Evidence of two") for text in printed] == [1, 0]
    first, second = one.arrays(), two.arrays()
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


USERS_TOKENIZER = """
import time
from pathlib import Path

import torch.nn.functional as F
import workbench as wb
from workbench.collect import images
from workbench.storage import evidence_writer

images.ENCODE_BATCH = 8
evidence_writer.RECORD_INTERVAL_S = 0.0


def encode(x):
    with Path("encoded.txt").open("a") as file:
        file.write(f"{len(x)}\\n")
    while Path("hold").exists() and has_complete_batches():
        time.sleep(0.05)
    return F.avg_pool2d(x, 2)


def has_complete_batches():
    records = Path(".own.unfinished").rglob("complete-*.json")
    return any("encoding" in record.read_text() for record in records)


def make():
    return wb.wrap(encode, lambda z: F.interpolate(z, scale_factor=2.0), channels=1, side=8)
"""


@pytest.mark.slow
def test_killed_evaluation_of_two_processes_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("users_tokenizer.py").write_text(USERS_TOKENIZER)
    Path("hold").touch()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    address = ["python:users_tokenizer:make", "--trust=users_tokenizer", "--data=digits"]
    options = ["--only=encoding", "--limit=80", "--out=own"]
    command = [*torchrun, "-m", "workbench", "evaluate", *address, *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        wait_for(has_complete_batches)
        family = [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]
        for process in family:
            process.kill()
    psutil.wait_procs(family, timeout=20)
    assert not Path("own").exists()
    Path("hold").unlink()
    Path("encoded.txt").unlink()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Evaluated own") == 1 and not Path(".own.unfinished").exists()
    counts = [int(line) for line in Path("encoded.txt").read_text().split()]
    assert counts.count(8) < 10  # of 80 images, what was complete is not encoded again
    whole = evaluate(
        wrap(
            lambda x: F.avg_pool2d(x, 2),
            lambda z: F.interpolate(z, scale_factor=2.0),
            channels=1,
            side=8,
        ),
        "digits",
        "whole",
        only=["encoding"],
        limit=80,
    )
    assert_equal_arrays(Run("own").evidence(), whole.evidence())


def has_complete_batches() -> bool:
    records = Path(".own.unfinished").rglob("complete-*.json")
    return any("encoding" in record.read_text() for record in records)


DYING_PROCESS = """
import os
import torch.distributed
torch.distributed.init_process_group("gloo")
os._exit(1)
"""


@pytest.mark.slow
def test_death_of_a_process_stops_the_others_with_a_sentence(tmp_path):
    run = shutil.copytree(RUNS / "softvq", tmp_path / "softvq")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "workbench", "collect", str(run)]
    with subprocess.Popen(
        [sys.executable, "-c", DYING_PROCESS], env=os.environ | group | {"RANK": "1"}
    ) as dying:
        survivor = subprocess.run(
            command,
            env=os.environ | group | {"RANK": "0"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert dying.wait() == 1
    assert survivor.returncode == 1 and "Traceback" not in survivor.stderr
    assert "Another process of this collection has ended" in survivor.stderr
    assert not (run / "evidence" / "step-000004" / "mse.npy").exists()
