"""The first twenty steps of every system on digits, as they were when it was last understood.

A refactor must reproduce them. Where a change is meant, `make golden` writes them anew, and the diff is the change.
"""

import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from workbench.launch.in_process import prepare_training
from workbench.launch.recipes import GENERATORS, SYSTEMS
from workbench.training import fit

GOLDEN = Path(__file__).parent / "golden"
PLAN = {
    "steps": 20,
    "batch_size": 16,
    "warmup_steps": 5,
    "log_every": 1,
    "save_every": 20,
    "lr": 1e-3,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Twenty steps of a tokenizer with codes, which every generator can learn from."""
    folder = tmp_path_factory.mktemp("golden") / "vqvae"
    curve("vqvae", folder)
    return folder


def curve(system: str, folder: Path, **more) -> pd.DataFrame:
    job = prepare_training(
        f"{system}-digits",
        folder,
        **PLAN,
        limit=None if system in GENERATORS else 200,
        **more,
    )
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    return job.run.history().drop(columns=["lr", "time"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_twenty_steps_are_what_they_were(system, tokenizer, tmp_path):
    assert torch.get_num_threads() == 1
    found = curve(
        system, tmp_path / "run", **({"tokenizer": tokenizer} if system in GENERATORS else {})
    )
    path = GOLDEN / f"{system}.csv"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        found.to_csv(path, index=False, float_format="%.9g")
    expected = pd.read_csv(path)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-8, check_dtype=False)
