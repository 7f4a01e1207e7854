"""Features of a training set, stored under the fingerprints of images and extractor."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from workbench.core.types import HasLabels, Images
from workbench.features.base import FeatureExtractor
from workbench.storage.atomic import atomic_path
from workbench.storage.mapped_array import create_mapped_array

BATCH_SIZE = 64


@runtime_checkable
class FingerprintedImages(Protocol):
    """A set of images with a fingerprint."""

    @property
    def fingerprint(self) -> str:
        """A hash of the images."""
        ...

    def __len__(self) -> int: ...

    def images(self, indices: Any) -> Images:
        """Return the images at some indices, with values in [-1, 1]."""
        ...


def cached_features(
    image_set: FingerprintedImages,
    extractor: FeatureExtractor,
    grid: tuple[int, int],
    folder: str | Path,
) -> np.ndarray:
    """Compute the features of a set of images, or read them from an earlier call.

    Parameters
    ----------
    image_set : FingerprintedImages
        The images.
    extractor : FeatureExtractor
        The feature extractor.
    grid : tuple of int
        Rows and columns of the grid of features.
    folder : path
        Folder of the stored features.

    Returns
    -------
    ndarray of float16, shape (n_images, rows * columns, dim)
        The features, memory-mapped from a file of the folder.
    """
    fingerprints = f"{image_set.fingerprint} {extractor.fingerprint}"
    key = hashlib.sha256(fingerprints.encode()).hexdigest()[:16]
    slug = re.sub("[^a-z0-9]+", "-", extractor.name.lower())
    path = Path(folder) / f"{slug}-{grid[0]}x{grid[1]}-{key}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(image_set), grid[0] * grid[1], extractor.dim)
        with atomic_path(path) as tmp:
            table = create_mapped_array(tmp, np.float16, shape)
            for start in range(0, len(image_set), BATCH_SIZE):
                rows = slice(start, min(start + BATCH_SIZE, len(image_set)))
                table[rows] = extractor.features(image_set.images(rows), grid).cpu().numpy()
            table.flush()
    return np.load(path, mmap_mode="r")


@dataclass(frozen=True, eq=False)
class WithFeatures:
    """Images with precomputed features: training data for an objective that takes both."""

    image_set: FingerprintedImages
    features: tuple[np.ndarray, ...]  # of `cached_features`, one array per extractor

    def __len__(self) -> int:
        return len(self.image_set)

    @property
    def labels(self) -> np.ndarray | None:
        """Return the labels of the images."""
        return self.image_set.labels if isinstance(self.image_set, HasLabels) else None

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Return the images at some indices, followed by the features of each extractor."""
        rows = indices.numpy()
        tables = (torch.from_numpy(table[rows]).float() for table in self.features)
        return self.image_set.images(indices), *tables
