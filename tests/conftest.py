"""Shared by all tests: shapes are checked at run time, and every process uses one thread."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start

import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = [
    "core",
    "nn",
    "quantizers",
    "features",
    "tokenizers",
    "generators",
    "training",
    "collect",
]
torch.set_num_threads(
    1
)  # two test processes on two cores, waiting for each other's threads, take ten times as long
hook = install_import_hook([f"workbench.{room}" for room in CHECKED], "typecheck.checker")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Again before each test: numba, which maps use, gives the whole process as many threads as there are cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A folder with four small, really trained and collected runs: three tokenizers and a generator."""
    from workbench.launch.in_process import train

    folder = tmp_path_factory.mktemp("runs")
    small = {"width": 32, "depth": 1, "steps": 60, "save_every": 30, "warmup": 10}
    train("softvq-digits", folder / "soft-4", tokens=4, codes=32, **small)
    train("softvq-digits", folder / "soft-2", tokens=2, codes=32, **small)
    train("ae-digits", folder / "plain", tokens=4, **small)
    train("sit-digits", folder / "flow", tokenizer=folder / "soft-4", **(small | {"depth": 2}))
    return folder
