"""Training a finished run for more steps."""

import math

import pytest
import torch

from workbench.core.errors import RunError
from workbench.launch.in_process import train
from workbench.storage.checkpoint import read_tensors
from workbench.storage.run import Run

SMALL = {"width": 16, "depth": 1, "heads": 2, "num_tokens": 2, "batch_size": 8, "warmup_steps": 1}


@pytest.mark.slow
def test_finished_run_is_trained_longer(tmp_path):
    options = SMALL | {"save_every": 4, "collect": False, "log_every": 1, "lr": 1e-2}
    run = train("ae-digits", tmp_path / "a", steps=4, final_lr=0, **options)
    before = read_tensors(run.checkpoint(4))["model"]
    longer = train("ae-digits", tmp_path / "a", steps=8, final_lr=0, **options)
    status = longer.status()
    assert (status["state"], status["step"], status["steps"]) == ("finished", 8, 8)
    assert longer.steps == [4, 8] and longer.config.training["steps"] == 8
    assert longer.history()["step"].tolist() == list(range(1, 9))
    # The learning rate after step 4 is that of a training of 8 steps.
    lr = longer.history().set_index("step")["lr"]
    assert lr[5] == pytest.approx(1e-2 * (1 + math.cos(math.pi * 4 / 8)) / 2)
    after = read_tensors(longer.checkpoint(4))["model"]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [e["event"] for e in longer.events() if e["event"] == "extended"] == ["extended"]
    with pytest.raises(RunError, match="steps=8.*steps=6"):
        train("ae-digits", tmp_path / "a", steps=6, final_lr=0, **options)
    with pytest.raises(RunError, match="lr=0.01.*lr=0.5"):
        train("ae-digits", tmp_path / "a", steps=16, final_lr=0, **options | {"lr": 0.5})
    assert Run(tmp_path / "a").config == longer.config


def test_only_finished_runs_are_extended(tmp_path):
    config = {"class": "m:C", "settings": {}, "training": {"steps": 5}}
    run = Run.create(tmp_path / "a", config)
    run.report("stopped", 3, steps=5)
    with pytest.raises(RunError, match="5 steps"):
        run.extend(10)
    assert Run(run.folder).config.training["steps"] == 5
