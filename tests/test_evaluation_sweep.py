"""Evaluations of many models on Dask: lists, complete runs, and lost workers and schedulers."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from workbench.collect import images
from workbench.core.errors import UserError
from workbench.launch import evaluation_sweep
from workbench.launch.cluster import TaskOutcome
from workbench.launch.evaluation_sweep import Evaluation, evaluate_sweep, run_evaluation
from workbench.storage import evidence_writer
from workbench.storage.run import Run

USERS_TOKENIZERS = """
import os
import time
from pathlib import Path

import torch.nn.functional as F
import workbench as wb
from workbench.collect import images
from workbench.storage import evidence_writer

images.ENCODE_BATCH = 8
evidence_writer.RECORD_INTERVAL_S = 0.0


def held(x):
    while len(x) == 8 and Path("hold").exists() and list(Path("runs").rglob("latents.npy")):
        Path("process.txt").write_text(str(os.getpid()))
        time.sleep(0.05)
    return F.avg_pool2d(x, 2)


def make():
    return wb.wrap(held, lambda z: F.interpolate(z, scale_factor=2.0), channels=1, side=8)
"""
LIST = "- model: python:users_tokenizers:make\n  out: a\n"
OPTIONS = {"data": "digits", "limit": 40, "only": ["encoding"], "trust": ["users_tokenizers"]}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module of the user."""
    (tmp_path / "users_tokenizers.py").write_text(USERS_TOKENIZERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # The module of the user changes these, and they are restored.
    monkeypatch.setattr(images, "ENCODE_BATCH", images.ENCODE_BATCH)
    monkeypatch.setattr(evidence_writer, "RECORD_INTERVAL_S", evidence_writer.RECORD_INTERVAL_S)
    yield tmp_path
    sys.modules.pop("users_tokenizers", None)


@pytest.fixture
def in_process(monkeypatch):
    """Run tasks in this process, and return the names of those that were run."""
    names: list[str] = []

    class Connection:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    def run_tasks(client, function, tasks, stop_file, **texts) -> list[TaskOutcome]:
        names.extend(tasks)
        return [function(*arguments) for arguments in tasks.values()]

    monkeypatch.setattr(evaluation_sweep, "connect", lambda *arguments: Connection())
    monkeypatch.setattr(evaluation_sweep, "run_tasks", run_tasks)
    return names


def test_failed_model_leaves_the_others_and_complete_runs_are_skipped(folder, in_process):
    good = {"model": "python:users_tokenizers:make", "out": "good", "limit": 20}
    bad = {"model": "python:users_tokenizers:mak", "out": "bad"}
    with pytest.raises(UserError, match="1 of 2.* bad: "):
        evaluate_sweep([bad, good], "runs", **OPTIONS)
    assert Run("runs/good").evidence().num_images == 20  # an entry precedes what all share
    (run,) = evaluate_sweep([good], "runs", **OPTIONS)
    assert run.name == "good" and in_process == ["bad", "good"]
    with pytest.raises(UserError, match="other values of limit"):
        evaluate_sweep([good | {"limit": 21}], "runs", **OPTIONS)
    evaluate_sweep([good | {"limit": 21, "overwrite": True}], "runs", **OPTIONS)
    assert Run("runs/good").evidence().num_images == 21
    paths = {"data": Path("digits"), "reference": None}
    evaluate_sweep([good | paths | {"overwrite": True}], "runs", **(OPTIONS | paths))
    (folder / "runs" / ".stop").touch()
    item = Evaluation(name="late", arguments={"model": good["model"]} | OPTIONS)
    assert run_evaluation(item, str(folder / "runs"), str(folder)).error == "stopped"


@pytest.mark.parametrize(
    "entries",
    [
        [{"data": "digits"}],
        [{"model": "python:a:b", "out": "../a"}],
        [{"model": "python:a:b"}, {"model": "python:a:b"}],
        [{"model": "python:a:b", "limit": "many"}],
        [{"model": "python:a:b", "progress": True}],
    ],
)
def test_wrong_entries_are_refused_before_anything_runs(folder, in_process, entries):
    with pytest.raises(UserError):
        evaluate_sweep(entries, "runs")
    assert in_process == [] and not Path("runs").exists()


@pytest.mark.slow
def test_sweep_resumes_after_a_lost_worker_and_a_lost_scheduler(folder):
    Path("models.yaml").write_text(LIST)
    Path("hold").touch()
    dask = [sys.executable, "-m"]
    file = "--scheduler-file=scheduler.json"
    words = ["--host=127.0.0.1", "--no-dashboard", file]
    shared = ["--data=digits", "--limit=40", "--only=encoding", "--trust=users_tokenizers"]
    command = [sys.executable, "-m", "workbench", "evaluate", "--sweep=models.yaml", "--out=runs"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([*dask, "distributed.cli.dask_scheduler", "--port=0", *words], **quiet)
    ]
    try:
        wait_for(Path("scheduler.json").exists)
        worker = [*dask, "distributed.cli.dask_worker", "--nthreads=1", *words]
        processes.append(subprocess.Popen(worker, **quiet))
        address = f"--scheduler={scheduler_address()}"
        sweep = subprocess.Popen([*command, address, *shared], stderr=subprocess.PIPE, text=True)
        processes.append(sweep)
        first = held_process()
        first.send_signal(signal.SIGKILL)
        Path("process.txt").unlink()
        second = held_process()  # Dask has started another worker, which continues
        assert second.pid != first.pid and not Path("runs/a").exists()
        processes[0].kill()
        _, errors = sweep.communicate(timeout=60)
        assert sweep.returncode == 1 and "its worker was lost" in errors
        assert "Traceback" not in errors
    finally:
        for process in processes:
            end(process)
    Path("hold").unlink()
    done = subprocess.run([*command, "--workers=1", *shared], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Run("runs/a").evidence().num_images == 40


def scheduler_address() -> str:
    import json

    return json.loads(Path("scheduler.json").read_text())["address"]


def held_process() -> psutil.Process:
    """Wait until an evaluation has written some batches, and return its process."""
    wait_for(lambda: Path("process.txt").exists() and Path("process.txt").read_text())
    return psutil.Process(int(Path("process.txt").read_text()))


def end(process: subprocess.Popen) -> None:
    """Kill a process and its children."""
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    for child in family:
        child.kill()
    process.wait()
