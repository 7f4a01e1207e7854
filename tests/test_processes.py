"""Training with several processes, gradient accumulation, and large sparse tables."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.core.errors import UserError
from workbench.core.types import Objective
from workbench.storage.checkpoint import read_tensors
from workbench.storage.run import Run
from workbench.training import Rank, TrainConfig, TrainState, fit

SMALL = {
    "num_tokens": 4,
    "width": 16,
    "depth": 1,
    "batch_size": 16,
    "warmup_steps": 2,
    "steps": 6,
    "save_every": 3,
    "log_every": 3,
}


def start_processes(recipe: str, out: Path, processes: int = 2, **changes) -> subprocess.Popen:
    """Start the training of a recipe with torchrun."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | changes).items()]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={processes}",
        "--master_port=0",
    ]
    command = [
        *torchrun,
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0",
        "-m",
        "workbench",
        "train",
        recipe,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, f"--out={out}", "--no-collect", *flags], **pipes, text=True)


@pytest.mark.slow
def test_only_the_main_process_prints_and_writes(tmp_path):
    process = start_processes("ae-digits", tmp_path / "together")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.count(": 6 steps.") == 1
    run = Run(tmp_path / "together")
    assert run.status()["state"] == "finished" and run.history()["step"].tolist() == [3, 6]


@pytest.mark.slow
def test_stop_command_stops_every_process(tmp_path):
    process = start_processes("ae-digits", tmp_path / "run", steps=100_000, save_every=100_000)
    try:
        while (
            not (tmp_path / "run" / "log.jsonl").exists()
            or not Run(tmp_path / "run").history().size
        ):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        Run(tmp_path / "run").ask("stop")
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert Run(tmp_path / "run").status()["state"] == "stopped"
    assert Run(tmp_path / "run").steps


THREADS = """
import atexit, pathlib, sys

def print_threads():
    for path in pathlib.Path("/proc/self/task").glob("*/comm"):
        name = path.read_text()
        if "gloo" in name:
            print("left:", name)

atexit.register(print_threads)
from workbench.cli import main
main()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.slow
def test_process_group_leaves_no_threads(tmp_path):
    """A thread that still holds a tensor at the end of Python sometimes aborts the process."""
    (tmp_path / "threads.py").write_text(THREADS)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=0",
    ]
    command = [
        *torchrun,
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0",
        tmp_path / "threads.py",
        "train",
    ]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = subprocess.run(
        [*command, "ae-digits", f"--out={tmp_path / 'run'}", "--no-collect", *flags],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ": 6 steps." in done.stdout and "left" not in done.stdout


def test_indivisible_batch_is_refused():
    with pytest.raises(UserError, match="3 .*16"):
        Rank(0, 3).items_per_step(TrainConfig(batch_size=16))
    with pytest.raises(UserError, match="16 .* 5"):
        TrainConfig(batch_size=16, accumulation_steps=5)


class Table(nn.Module):
    """A model whose loss selects rows of a sparse table."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 4, sparse=True)
        self.out = nn.Linear(4, 1)

    def objective(self, rows: torch.Tensor) -> Objective:
        return Objective({"miss": (self.out(self.table(rows)) - 3).square().mean()})


class Rows:
    def __len__(self) -> int:
        return 10

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor]:
        return (indices,)


def test_unselected_rows_do_not_change(tmp_path):
    torch.manual_seed(0)
    model = Table(500_000)
    before = model.table.weight.detach().clone()
    config = {"class": "workbench.tests:Table", "settings": {}}
    run = Run.create(tmp_path / "run", config)
    for _ in fit(
        model,
        Rows(),
        TrainConfig(steps=30, batch_size=5, warmup_steps=1, save_every=30, weight_decay=0.1),
        run,
    ):
        pass
    changed = (model.table.weight != before).any(dim=1)
    assert changed[:10].all() and not changed[10:].any()
    ema = read_tensors(run.checkpoint())["ema"]["table.weight"]
    assert torch.equal(ema[10:], before[10:])


def test_sparse_table_resumes_exactly(tmp_path):
    def trained(folder: Path, *, stop: bool) -> torch.Tensor:
        torch.manual_seed(0)
        run = Run.create(folder, {"class": "workbench.tests:Table", "settings": {}})
        config = TrainConfig(steps=20, batch_size=5, warmup_steps=1, save_every=10, log_every=10)
        records = fit(Table(20), Rows(), config, run)
        next(records)
        if stop:
            records.close()
            records = fit(Table(20), Rows(), config, run)
        for record in records:
            last = record
        return last.model.table.weight

    assert torch.equal(
        trained(tmp_path / "whole", stop=False), trained(tmp_path / "halves", stop=True)
    )


def test_sparse_lr_scale_affects_only_tables():
    state = TrainState(
        Table(20), TrainConfig(lr=1e-3, sparse_lr_scale=5.0, warmup_steps=1, steps=10)
    )
    state.set_learning_rate(0)
    assert [o.param_groups[0]["lr"] for o in state.optimizers] == pytest.approx([1e-3, 5e-3])


COMPILED = """
import sys, torch
from workbench.launch.in_process import prepare_training
from workbench.training.loop import LossModule
job = prepare_training("ae-digits", sys.argv[1], width=16, depth=1, num_tokens=4)
x = job.data.batch(torch.arange(4))
compiled = torch.compile(LossModule(job.model), backend="aot_eager")
(actual, _), (expected, _) = compiled(*x), LossModule(job.model)(*x)
torch.testing.assert_close(actual["pixel"], expected["pixel"])
"""


@pytest.mark.slow
def test_compiled_loss_equals_the_loss(tmp_path):
    """A separate process has no shape checks; the backend aot_eager needs no C++ compiler."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
