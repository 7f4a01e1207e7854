"""Training with several processes, gradient accumulation, and large sparse tables."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import forked_python
import pytest
import torch
from forked_python import ForkedPython
from polling import wait_until
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


def flags(**changes) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | changes).items()]


def start_processes(recipe: str, out: Path, **changes) -> list[ForkedPython]:
    """Start the training of a recipe in two processes."""
    command = ["train", recipe, f"--out={out}", "--no-collect", *flags(**changes)]
    return forked_python.start_group("from workbench.cli import main\nmain()", *command)


COMMAND_LINE = """
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


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(tmp_path):
    """Only the main process prints and writes, and no thread of the process group is left.

    A thread that still holds a tensor at the end of Python sometimes aborts the process.
    """
    (tmp_path / "command_line.py").write_text(COMMAND_LINE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    torchrun += ["--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    train = [str(tmp_path / "command_line.py"), "train", "ae-digits", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(
        [*torchrun, *train, "--no-collect", *flags()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": 6 steps.") == 1 and "left" not in done.stdout
    run = Run(tmp_path / "run")
    assert run.status()["state"] == "finished" and run.history()["step"].tolist() == [3, 6]


LATE = """
import os, pathlib, sys, time
from workbench import cli
from workbench.launch import in_process

config, coerce_changes = pathlib.Path(sys.argv.pop(1)), in_process.coerce_changes

def coerce_late(*arguments):
    end = time.monotonic() + 3
    while os.environ["RANK"] == "1" and not config.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return coerce_changes(*arguments)

in_process.coerce_changes = coerce_late
cli.main()
"""


@pytest.mark.slow
def test_late_process_joins_the_run_that_the_main_one_makes(tmp_path):
    """It must not take the new run for one to resume: the processes would wait for ever."""
    out = tmp_path / "run"
    command = ["train", "ae-digits", f"--out={out}", "--no-collect", *flags()]
    processes = forked_python.start_group(LATE, str(out / "config.json"), *command)
    try:
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert Run(out).status()["state"] == "finished"


@pytest.mark.slow
def test_two_processes_apply_commands_at_the_same_step(tmp_path):
    """The logged mean of a term is exactly 0 only if both processes multiply it by 0."""
    processes = start_processes(
        "softvq-digits", tmp_path / "run", steps=100_000, save_every=100_000, codebook_size=16
    )
    try:
        wait_until(
            lambda: (tmp_path / "run" / "log.jsonl").exists() or processes[0].poll() is not None
        )
        run = Run(tmp_path / "run")
        run.ask("pause")
        wait_until(lambda: run.status()["state"] == "paused")
        run.ask("weight", term="entropy", value=0)
        run.ask("resume")
        wait_until(lambda: "entropy" in run.history() and (run.history()["entropy"] == 0).any())
        run.ask("stop")
        assert [process.wait(60) for process in processes] == [130, 130]  # stopped
    finally:
        for process in processes:
            process.kill()
    (change,) = [event["step"] for event in run.events() if event["event"] == "weight"]
    history = run.history()
    assert run.status()["state"] == "stopped" and change % 3 == 0  # a multiple of log_every
    assert run.steps == [run.status()["step"]]  # stopped with a checkpoint
    assert (history["entropy"][history["step"] > change] == 0).all()
    assert (history["entropy"][history["step"] <= change] != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("signaled", [[0, 1], [0]], ids=["both", "main"])
def test_signal_to_two_processes_saves_a_checkpoint(tmp_path, signaled):
    """Launchers signal every process; the others may end only together with the main one."""
    folder = tmp_path / "run"
    processes = start_processes("ae-digits", folder, steps=100_000, save_every=100_000)
    try:
        wait_until(lambda: (folder / "log.jsonl").exists() or processes[0].poll() is not None)
        for i in signaled:
            os.kill(processes[i].pid, signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [130, 130]
    finally:
        for process in processes:
            process.kill()
    run = Run(folder)
    assert run.status()["state"] == "stopped" and run.steps == [run.status()["step"]]


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
    forked_python.run(COMPILED, str(tmp_path / "run"))
