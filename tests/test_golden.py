"""The first twenty steps of every system on digits equal the stored training curves.

A refactoring must reproduce them. For an intended change, `make golden` writes new curves, and the
diff shows the change.
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
TRAINING = {
    "steps": 20,
    "batch_size": 16,
    "warmup_steps": 5,
    "log_every": 1,
    "save_every": 20,
    "lr": 1e-3,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer with codes, on which every generator can be trained."""
    folder = tmp_path_factory.mktemp("golden") / "vqvae"
    training_curve("vqvae", folder)
    return folder


def training_curve(system: str, folder: Path, **settings) -> pd.DataFrame:
    """Train twenty steps and return the logged terms."""
    job = prepare_training(
        f"{system}-digits",
        folder,
        **TRAINING,
        limit=None if system in GENERATORS else 200,
        **settings,
    )
    for _ in fit(job.model, job.data, job.train_config, job.run):
        pass
    return job.run.history().drop(columns=["lr", "time"])


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_training_curve_equals_the_stored_one(system, tokenizer, tmp_path):
    assert torch.get_num_threads() == 1
    settings = {"tokenizer": tokenizer} if system in GENERATORS else {}
    curve = training_curve(system, tmp_path / "run", **settings)
    path = GOLDEN / f"{system}.csv"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        curve.to_csv(path, index=False, float_format="%.9g")
    expected = pd.read_csv(path)
    pd.testing.assert_frame_equal(curve, expected, rtol=1e-5, atol=1e-8, check_dtype=False)
