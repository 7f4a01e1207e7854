"""The latents or codes of a tokenizer's training images: the training data of a generator.

They are computed once, stored in the run of the tokenizer, and memory-mapped.

=============================  ==============================================
latents/step-000800.npy        float32, shape (n_images, n_tokens, dim)
latents/step-000800-codes.npy  int32, shape (n_images, n_tokens)
=============================  ==============================================
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.collect import load_images
from workbench.collect.collectors.base import token_grid
from workbench.collect.images import batch_slices, class_labels, model_device
from workbench.collect.models import load_tokenizer
from workbench.core.errors import RunError, UserError
from workbench.data import ImageSet
from workbench.storage.atomic import atomic_path
from workbench.storage.mapped_array import create_mapped_array
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

ENCODE_BATCH = 256
Quantity = Literal["latents", "codes"]


@dataclass(frozen=True, eq=False)
class LatentDataset:
    """Latents or codes of every training image, with labels.

    Attributes
    ----------
    rows : ndarray
        Latents, float32 of shape (n_images, n_tokens, dim), or codes, int32 of shape (n_images,
        n_tokens); memory-mapped.
    labels : ndarray of int64, shape (n_images,)
        The class of each image. Images without labels are all of class 0.
    codebook : Tensor, shape (n_codebooks, codebook_size, dim), or None
        The codewords of the codes; None for latents.
    grid : tuple of int or None
        Rows and columns of the tokens, if they have a position in the image.
    """

    rows: np.ndarray
    labels: np.ndarray
    codebook: Tensor | None = None
    grid: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and the labels at the indices."""
        selected = indices.numpy()
        return torch.from_numpy(self.rows[selected]), torch.from_numpy(self.labels[selected])

    def moments(self, *, by_channel: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Compute the mean and the standard deviation in batches.

        Parameters
        ----------
        by_channel : bool
            Whether to compute them for each channel, shape (dim,), or over all numbers, shape ().
        """
        axes = (0, 1) if by_channel else None
        n = 0
        total = np.zeros(())
        squares = np.zeros(())
        for start in range(0, len(self.rows), ENCODE_BATCH):
            part = np.asarray(self.rows[start : start + ENCODE_BATCH], np.float64)
            total = total + part.sum(axis=axes)
            squares = squares + np.square(part).sum(axis=axes)
            n += part[..., 0].size if by_channel else part.size
        mean = total / n
        variance = np.maximum(squares / n - mean**2, 0) * n / max(1, n - 1)
        return mean, np.sqrt(variance)


def load_encoded(
    run: Run, step: int | None, quantity: Quantity, trust: Sequence[str] = ()
) -> LatentDataset:
    """Load the latents or the codes of a tokenizer's training images.

    Parameters
    ----------
    run : Run
        The run of the tokenizer.
    step : int or None
        The training step of the checkpoint; None for the last.
    quantity : {"latents", "codes"}
        What the generator consumes.
    trust : sequence of str
        Modules outside of this package that may be imported.
    """
    load = load_codes if quantity == "codes" else load_latents
    return load(run, step, trust)


def load_latents(run: Run, step: int | None = None, trust: Sequence[str] = ()) -> LatentDataset:
    """Load the latents of a tokenizer's training images."""
    model = load_tokenizer(run, step, trust)
    with torch.no_grad():
        grid = token_grid(model, run, model_device(model))
    return replace(_encoded(run, step, "latents", model), grid=grid)


def load_codes(run: Run, step: int | None = None, trust: Sequence[str] = ()) -> LatentDataset:
    """Load the codes of a tokenizer's training images.

    Raises
    ------
    UserError
        If the codes do not determine the latents.
    """
    model = load_tokenizer(run, step, trust)
    if not model.discrete or model.codebook is None:
        raise UserError(
            f"{run.folder} ({run.kind}) has no codes that determine its latents; "
            "use a tokenizer with a hard codebook, such as vqvae or unicode2."
        )
    return replace(_encoded(run, step, "codes", model), codebook=model.codebook.detach())


@torch.no_grad()
def encode_held_out(
    run: Run, step: int | None, quantity: Quantity, images: ImageSet, trust: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Encode a few held-out images as one batch of a generator's training.

    Parameters
    ----------
    run : Run
        The run of the tokenizer.
    step : int or None
        The training step of the checkpoint; None for the last.
    quantity : {"latents", "codes"}
        What the generator consumes.
    images : ImageSet
        The images.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Returns
    -------
    tuple of Tensor
        The latents or codes, and the labels.
    """
    model = load_tokenizer(run, step, trust)
    tokens = model.encode(images.images().to(model_device(model)))
    rows = tokens.codes if quantity == "codes" else tokens.latents.float()
    assert rows is not None
    return rows.cpu(), torch.from_numpy(class_labels(images))


def _encoded(run: Run, step: int | None, quantity: Quantity, model: Tokenizer) -> LatentDataset:
    images = load_images(run, "train")
    suffix = "-codes" if quantity == "codes" else ""
    if run.config.imported is not None:
        # Only of a run that was trained here, the images are known to be the same as before.
        suffix += f"-{images.fingerprint}"
    path = run.folder / "latents" / f"step-{run.find_step(step):06d}{suffix}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _write(path, model, images, quantity)
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    return LatentDataset(rows=rows, labels=class_labels(images))


@torch.no_grad()
def _write(path: Path, model: Tokenizer, images: ImageSet, quantity: Quantity) -> None:
    """Encode the images in batches and write the rows to a memory-mapped file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    pixels = images.pixels.shape[1] * images.pixels.shape[2]
    with atomic_path(path) as temporary:
        rows: np.memmap | None = None
        for part in batch_slices(len(images), pixels):
            tokens = model.encode(images.images(part).to(device))
            if quantity == "codes":
                assert tokens.codes is not None
                encoded = tokens.codes.int().cpu().numpy()
            else:
                encoded = tokens.latents.float().cpu().numpy()
            if rows is None:
                shape = (len(images), *encoded.shape[1:])
                rows = create_mapped_array(temporary, encoded.dtype, shape)
            rows[part] = encoded
        if rows is None:
            raise RunError(f"{images.source} has no training images.")
        rows.flush()
