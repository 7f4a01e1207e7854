"""Fixtures and settings shared by all tests."""

import os

# Inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test waits for a network
# Otherwise numbers would depend on the weights that a machine has.
os.environ["WORKBENCH_FEATURE_EXTRACTOR"] = "hog"
# Otherwise each of the many processes compiles the package and the tests again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import pytest
import torch
from filelock import FileLock
from jaxtyping import install_import_hook

import workbench.hosts  # noqa: F401  before test files import nbformat

# Packages whose array shapes are checked at run time.
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
sys.dont_write_bytecode = False
# Test processes outnumber the cores: more than one thread each would wait for each other.
torch.set_num_threads(1)
hook = install_import_hook([f"workbench.{package}" for package in CHECKED], "typecheck.checker")

# Files that take longest. They start first, so that no worker is left with one at the end.
LONGEST_FIRST = [
    "test_dashboard",
    "test_report",
    "test_notebooks",
    "test_notebook",
    "test_sweep",
    "test_live",
    "test_explore_dashboard",
    "test_lens",
    "test_selection",
    "test_training",
    "test_side_by_side",
    "test_own_tokenizer",
    "test_tokenizer_contract",
    "test_analysis_contract",
    "test_wheel",
    "test_docs",
    "test_unicode2",
    "test_batch_shares",
    "test_compute",
    "test_cli",
    "test_soak",
    "test_readers",
    "test_readme",
    "test_recipes",
]


# Fixtures of all tests that train models.
TRAINING_FIXTURES = {"trained"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need trained runs as slow, and start the longest files first.

    The order within a file stays.
    """
    for item in items:
        if TRAINING_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)

    def rank(item: pytest.Item) -> int:
        stem = item.path.stem
        return LONGEST_FIRST.index(stem) if stem in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Leave everything that was imported out of garbage collection, which is then much faster."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the connection to the browser before a test that does not use it."""
    if nextitem is None or nextitem.get_closest_marker("browser") is None:
        browser.disconnect()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Reset the number of threads before each test, because numba raises it for the process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def shared_browser() -> Iterator[None]:
    """End the Chromium that the tests of this process share, if one was started."""
    yield
    browser.close_shared()


def built_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]
) -> Path:
    """Return this worker's copy of a folder that only one of the workers builds."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    original = root / f"shared-{name}"
    with FileLock(f"{original}.lock"):
        if not original.exists():
            unfinished = root / f"unfinished-{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            build(unfinished)
            unfinished.rename(original)
    return Path(shutil.copytree(original, tmp_path_factory.mktemp(name) / name))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four small trained runs and their evidence.

    The runs are three tokenizers (`soft-4`, `soft-2`, `plain`) and a generator (`flow`).
    """

    def build(folder: Path) -> None:
        from workbench.launch.in_process import train

        small = {"width": 32, "depth": 1, "steps": 60, "save_every": 30, "warmup_steps": 10}
        train("softvq-digits", folder / "soft-4", num_tokens=4, codebook_size=32, **small)
        train("softvq-digits", folder / "soft-2", num_tokens=2, codebook_size=32, **small)
        train("ae-digits", folder / "plain", num_tokens=4, **small)
        train("sit-digits", folder / "flow", tokenizer=folder / "soft-4", **(small | {"depth": 2}))

    return built_once(tmp_path_factory, "runs", build)
