"""Mapped arrays: a full disk is an error of the program, not a signal that ends the process."""

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from workbench.core.errors import RunError
from workbench.features import get_feature_extractor
from workbench.features.cache import cached_features
from workbench.storage.mapped_array import create_mapped_array

FILL = """
import sys
from pathlib import Path
import numpy as np
from workbench.core.errors import RunError
from workbench.storage.atomic import atomic_path
from workbench.storage.mapped_array import create_mapped_array
path = Path(sys.argv[1]) / "rows.npy"
try:
    with atomic_path(path) as temporary:
        rows = create_mapped_array(temporary, np.float32, (2**20,))
        rows[:] = 1
        rows.flush()
except RunError as error:
    print(error)
    sys.exit(3)
"""


class Images:
    """Images of random pixels."""

    fingerprint = "0123"

    def __len__(self) -> int:
        return 8

    def images(self, indices):
        import torch

        pixels = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return pixels[indices] * 2 - 1


def fail(code: int):
    def allocate(file: int, offset: int, length: int) -> None:
        raise OSError(code, os.strerror(code))

    return allocate


def missing(file: int, offset: int, length: int) -> None:
    """Stand for a system whose Python has no such function."""
    raise AttributeError("posix_fallocate")


@pytest.mark.parametrize("allocate", [os.posix_fallocate, fail(errno.EOPNOTSUPP), missing])
def test_array_occupies_its_space(tmp_path, monkeypatch, allocate):
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    array = create_mapped_array(tmp_path / "a.npy", np.float32, (700, 1000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes
    assert not array.any()
    array[-1] = 1
    array.flush()
    assert np.load(tmp_path / "a.npy")[-1].sum() == 1000


def test_full_disk_leaves_no_features(tmp_path, monkeypatch):
    extractor = get_feature_extractor("hog", channels=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail(errno.ENOSPC))
        with pytest.raises(RunError, match="No space left"):
            cached_features(Images(), extractor, (2, 2), tmp_path)
    assert not list(tmp_path.iterdir())
    assert cached_features(Images(), extractor, (2, 2), tmp_path).shape[:2] == (8, 4)


def test_full_disk_does_not_end_the_process(tmp_path):
    def mount(*arguments: str) -> bool:
        command = ["mount", *arguments, str(tmp_path)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def fill() -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", textwrap.dedent(FILL), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True)

    if not mount("-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        pytest.skip("mounting needs root")
    try:
        done = fill()
        assert done.returncode == 3, done.stderr
        assert "rows.npy" in done.stdout and not list(tmp_path.iterdir())
        assert mount("-o", "remount,size=8m")
        assert fill().returncode == 0
        assert np.load(tmp_path / "rows.npy").sum() == 2**20
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)
