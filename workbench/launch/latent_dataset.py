"""What a tokenizer makes of its whole training set, once: kept in its run's folder, read through the operating system.

latents/step-000800.npy         float32 (n, tokens, d)
latents/step-000800-codes.npy   int32 (n, tokens), of tokenizers that choose codes
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.collect import load_images
from workbench.core.errors import UserError
from workbench.data import ImageSet
from workbench.storage.atomic import atomic_path
from workbench.storage.run import Run

BATCH = 256


@dataclass(frozen=True, eq=False)
class LatentDataset:
    """Latents or codes of every image, with labels: the training data of a generator."""

    rows: np.ndarray  # float32 (n, l, d) or int32 (n, l), memory-mapped
    labels: np.ndarray  # int64 (n,)
    codebook: Tensor | None = None  # (g, k, d), of codes
    grid: tuple[int, int] | None = None  # rows and columns of the latents' tokens

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The rows and labels at the indices."""
        return torch.from_numpy(self.rows[indices.numpy()]), torch.from_numpy(
            self.labels[indices.numpy()]
        )

    def moments(self, *, by_channel: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the deviation of all numbers (), or of each of a token's channels (d,), without holding them."""
        axes = (0, 1) if by_channel else None
        n, sums, squares = 0, 0.0, 0.0
        for start in range(0, len(self.rows), BATCH):
            part = np.asarray(self.rows[start : start + BATCH], np.float64)
            sums, squares = sums + part.sum(axis=axes), squares + np.square(part).sum(axis=axes)
            n += part[..., 0].size if by_channel else part.size
        mean = sums / n
        return mean, np.sqrt(np.maximum(squares / n - mean**2, 0) * n / max(1, n - 1))


def load_encoded(
    run: Run, step: int | None, consumes: Literal["latents", "codes"]
) -> LatentDataset:
    """Load what a generator consumes: a tokenizer's latents or codes of its training images."""
    return load_codes(run, step) if consumes == "codes" else load_latents(run, step)


def load_latents(run: Run, step: int | None = None) -> LatentDataset:
    """A tokenizer's latents of its training images. Raises UserError if the images have no labels."""
    dataset = _encoded(run, step, "")
    data = run.config["data"]
    image = torch.zeros(1, data["channels"], data["side"], data["side"])
    with torch.no_grad():
        return replace(dataset, grid=run.load(step).encode(image).grid)


def load_codes(run: Run, step: int | None = None) -> LatentDataset:
    """A tokenizer's codes of its training images. Raises UserError where it has none that rebuild its latents."""
    model = run.load(step)
    if not model.discrete or model.codebook is None:
        raise UserError(
            f"{run.folder} ({run.kind}) has no codes that say all about a token; vqvae and unicode2 have."
        )
    return replace(_encoded(run, step, "-codes"), codebook=model.codebook.detach())


def _encoded(run: Run, step: int | None, kind: str) -> LatentDataset:
    images = load_images(run, "train")
    if images.labels is None:
        raise UserError(
            f"{images.source} has no labels, and a class-conditional generator needs them."
        )
    run.checkpoint(step)
    path = run.folder / "latents" / f"step-{run.steps[-1] if step is None else step:06d}{kind}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _write(path, run, step, images, codes=bool(kind))
    return LatentDataset(
        np.load(path, mmap_mode="r", allow_pickle=False), np.asarray(images.labels)
    )


@torch.no_grad()
def _write(path: Path, run: Run, step: int | None, images: ImageSet, *, codes: bool) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, edges = run.load(step).to(device), [*range(0, len(images), BATCH), len(images)]
    with atomic_path(path) as beside:
        table = None
        for start, end in pairwise(edges):
            tokens = model.encode(images.images(slice(start, end)).to(device))
            part = tokens.codes.int() if codes else tokens.latents.float()
            if table is None:
                shape, kind = (len(images), *part.shape[1:]), np.int32 if codes else np.float32
                table = np.lib.format.open_memmap(beside, "w+", kind, shape)
            table[start:end] = part.cpu().numpy()
        table.flush()
