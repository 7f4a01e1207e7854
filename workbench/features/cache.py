"""Features of a whole training set, computed once: kept in a folder by the fingerprints of images and teacher."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from workbench.core.types import Images
from workbench.features.base import FeatureExtractor
from workbench.storage.atomic import atomic_path

BATCH = 64


@runtime_checkable
class Pictures(Protocol):
    """A set of images that is known by its fingerprint."""

    @property
    def fingerprint(self) -> str:
        """A hash of the images."""
        ...

    def __len__(self) -> int: ...

    def images(self, indices: Any) -> Images:
        """The images at some indices, in [-1, 1]."""
        ...


def features_of(
    pictures: Pictures, teacher: FeatureExtractor, grid: tuple[int, int], folder: str | Path
) -> np.ndarray:
    """The features (n, p, e), float16, mapped from a file in the folder; the first time they are computed into it."""
    key = hashlib.sha256(f"{pictures.fingerprint} {teacher.fingerprint}".encode()).hexdigest()[:16]
    path = (
        Path(folder)
        / f"{re.sub('[^a-z0-9]+', '-', teacher.name.lower())}-{grid[0]}x{grid[1]}-{key}.npy"
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(pictures), grid[0] * grid[1], teacher.dim)
        with atomic_path(path) as beside:
            table = np.lib.format.open_memmap(beside, "w+", np.float16, shape)
            for start in range(0, len(pictures), BATCH):
                part = slice(start, min(start + BATCH, len(pictures)))
                table[part] = teacher.features(pictures.images(part), grid).cpu().numpy()
            table.flush()
    return np.load(path, mmap_mode="r")


@dataclass(frozen=True, eq=False)
class WithFeatures:
    """Images together with features of them: training data for an objective that takes both."""

    pictures: Pictures
    features: tuple[np.ndarray, ...]  # as `features_of` made them, one for each teacher

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def labels(self) -> np.ndarray | None:
        """The images'."""
        return getattr(self.pictures, "labels", None)

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The images at the indices, and each teacher's features of them."""
        rows = indices.numpy()
        return self.pictures.images(indices), *(
            torch.from_numpy(table[rows]).float() for table in self.features
        )
