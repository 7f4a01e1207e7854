"""The latents or codes of a tokenizer's training images: the training data of a generator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.collect.images import class_labels, model_device
from workbench.collect.models import load_tokenizer
from workbench.core.errors import RunError, UserError
from workbench.core.image_size import ImageSize
from workbench.data import ImageSet
from workbench.launch.latent_encoding import Encoding, Quantity
from workbench.storage.array_files import ArrayFiles, read_array_files
from workbench.storage.latent_stats import LatentStats
from workbench.storage.run import Run
from workbench.storage.sharded_array import RowArray, ShardedArray
from workbench.storage.token_layout import Grid, without_grid
from workbench.tokenizers.base import Tokenizer

CHECK_ROWS = 4096  # codes of so many images are checked at a time


@dataclass(frozen=True, eq=False)
class LatentDataset:
    """Latents or codes of every training image, with labels.

    Attributes
    ----------
    rows : RowArray
        Latents, float32 of shape (n_images, n_tokens, dim), or codes, int32 of shape (n_images,
        n_tokens); memory-mapped.
    labels : ndarray of int64, shape (n_images,)
        The class of each image. Images without labels are all of class 0.
    flipped : RowArray or None
        The rows of the mirrored images; None if they were not encoded.
    codebook : Tensor, shape (n_codebooks, codebook_size, dim), or None
        The codewords of the codes; None for latents.
    grid : tuple of int or None
        Rows and columns of the tokens, if they have a position in the image.
    stats : LatentStats or None
        Mean and standard deviation of the channels; None to compute them from the rows.
    """

    rows: RowArray
    labels: np.ndarray
    flipped: RowArray | None = None
    codebook: Tensor | None = None
    grid: Grid | None = None
    stats: LatentStats | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and the labels at the indices."""
        selected = indices.numpy()
        return torch.from_numpy(self.rows[selected]), torch.from_numpy(self.labels[selected])

    def mirrored_batch(self, indices: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows and the labels at the indices.

        Parameters
        ----------
        indices : Tensor of int, shape (b,)
            The images.
        flips : Tensor of bool, shape (b,)
            Where True, the rows are those of the mirrored image.

        Raises
        ------
        UserError
            If mirrored images were not encoded.
        """
        if self.flipped is None:
            raise UserError("flip needs the latents of mirrored images; there are none.")
        rows, labels = self.batch(indices)
        rows[flips] = torch.from_numpy(self.flipped[indices[flips].numpy()])
        return rows, labels

    def moments(self, *, by_channel: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation (divided by the number of values minus 1).

        Parameters
        ----------
        by_channel : bool
            Whether to compute them for each channel, shape (dim,), or over all numbers, shape ().
        """
        stats = LatentStats.of_latents(self.rows) if self.stats is None else self.stats
        count, tokens, dim = self.rows.shape
        mean, std = stats.channel_mean, stats.channel_std
        num_values = count * tokens
        if not by_channel:
            mean, std = np.asarray(stats.mean), np.asarray(stats.std)
            num_values *= dim
        return mean, std * np.sqrt(num_values / max(1, num_values - 1))


def load_encoded(
    run: Run,
    step: int | None,
    quantity: Quantity,
    *,
    flip: bool = False,
    trust: Sequence[str] = (),
) -> LatentDataset:
    """Load the latents or the codes of a tokenizer's training images; encode them if need be.

    Parameters
    ----------
    run : Run
        The run of the tokenizer.
    step : int or None
        The training step of the checkpoint; None for the last.
    quantity : {"latents", "codes"}
        What the generator consumes.
    flip : bool
        Whether the rows of mirrored images are needed.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Raises
    ------
    UserError
        If the codes do not determine the latents, or only the number of the codewords is known.
    RunError
        If a file of the encoded images is missing.
    """
    if run.config.imported is not None and run.config.settings.get("dim", 1) is None:
        raise UserError(
            f"{run.folder} has codes without codewords, so that no generator can be trained on it."
            " Evaluate it again with the codewords as its codebook."
        )
    encoding = Encoding(
        run=run, step=run.find_step(step), quantity=quantity, flip=flip, trust=tuple(trust)
    )
    codebook: Tensor | None = None
    if quantity == "codes":
        model = encoding.model
        if model.codebook is None or not _has_hard_codes(model, run):
            raise UserError(
                f"{run.folder} ({run.kind}) has no codes that determine its latents; "
                "use a tokenizer with a hard codebook, such as vqvae or unicode2."
            )
        codebook = model.codebook.detach().cpu()
    folder = encoding.write()
    data = read_encoded(folder, quantity, flip=flip, codebook=codebook)
    num_images = encoding.num_images
    if len(data.rows) != num_images:
        raise RunError(
            f"{folder} has {quantity} of {len(data.rows):,} images instead of {num_images:,}: files"
            " are missing. Delete the folder, so that the images are encoded again."
        )
    return data


@torch.no_grad()
def _has_hard_codes(model: Tokenizer, run: Run) -> bool:
    """Return True if the codes of a tokenizer determine its latents."""
    data = run.config.data
    if not model.discrete and data is not None and data.side and data.channels:
        # Wrapped functions have a known kind of tokens only after they have encoded an image.
        model.encode(torch.zeros(1, data.channels, *ImageSize.of(data.side)))
    return model.discrete


def load_files(
    folder: str | Path,
    quantity: Quantity,
    *,
    flip: bool = False,
    tokenizer: Run | None = None,
    trust: Sequence[str] = (),
) -> LatentDataset:
    """Load latents or codes that were encoded elsewhere.

    Parameters
    ----------
    folder : str or Path
        A folder as LightningDiT's or `workbench export` writes it; see `read_encoded`.
    quantity : {"latents", "codes"}
        What the generator consumes.
    flip : bool
        Whether the rows of mirrored images are needed.
    tokenizer : Run, optional
        The tokenizer of the latents, which decodes samples.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Raises
    ------
    UserError
        If the files are not valid, or are not of this tokenizer.
    """
    data = read_encoded(Path(folder), quantity, flip=flip)
    if tokenizer is not None:
        data = _of_tokenizer(
            data, folder, quantity, load_tokenizer(tokenizer, None, trust), tokenizer
        )
    if quantity == "latents":
        return data
    if data.codebook is None:
        raise UserError(
            f"{folder} has no codebook; add codebook.npy of shape (k, d) or (g, k, d), or give the"
            " run of the tokenizer."
        )
    size = data.codebook.shape[1]
    for start in range(0, len(data), CHECK_ROWS):
        codes = data.rows[start : start + CHECK_ROWS]
        if codes.min() < 0 or codes.max() >= size:
            raise UserError(
                f"{folder}: codes must be in 0..{size - 1}, the codewords, got {codes.min()} to"
                f" {codes.max()}."
            )
    return data


@torch.no_grad()
def _of_tokenizer(
    data: LatentDataset, folder: str | Path, quantity: Quantity, model: Tokenizer, run: Run
) -> LatentDataset:
    """Return the data with the grid and the codebook of a tokenizer, whose tokens they must be."""
    tokens = model.encode(torch.zeros(1, *run.config.image_shape, device=model_device(model)))
    values = tokens.codes if quantity == "codes" else tokens.latents
    expected = None if values is None else tuple(values.shape[1:])
    if expected != data.rows.shape[1:]:
        raise UserError(
            f"{folder} has {quantity} of shape {data.rows.shape[1:]} per image and {run.folder}"
            f" {expected or 'none'}; give the run of the tokenizer that encoded them."
        )
    codebook = data.codebook if model.codebook is None else model.codebook.detach().cpu()
    return replace(data, grid=data.grid or tokens.grid, codebook=codebook)


@torch.no_grad()
def encode_held_out(
    run: Run,
    step: int | None,
    quantity: Quantity,
    images: ImageSet,
    classes: int,
    trust: Sequence[str] = (),
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
        The held-out images, all of which are encoded.
    classes : int
        The number of classes of the generator.
    trust : sequence of str
        Modules outside of this package that may be imported.

    Returns
    -------
    tuple of Tensor
        The latents or codes, and the labels.

    Raises
    ------
    NotApplicable
        If the images have no labels, or labels of other classes.
    """
    labels = class_labels(images, classes)
    model = load_tokenizer(run, step, trust)
    tokens = model.encode(images.images().to(model_device(model)))
    rows = tokens.codes if quantity == "codes" else tokens.latents.float()
    assert rows is not None
    return rows.cpu(), torch.from_numpy(labels)


def read_encoded(
    folder: Path, quantity: Quantity, *, flip: bool = False, codebook: Tensor | None = None
) -> LatentDataset:
    """Read the latents or codes of a folder, as LightningDiT's or this package's files have them.

    Parameters
    ----------
    folder : Path
        A folder with arrays in shards, and the statistics of latents if they are known.
    quantity : {"latents", "codes"}
        The array to read.
    flip : bool
        Whether the rows of mirrored images are needed.
    codebook : Tensor of shape (n_codebooks, codebook_size, dim), optional
        The codewords of the codes.

    Raises
    ------
    UserError
        If a file is damaged, or an array is missing or of another shape.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give a folder with {quantity} and labels.")
    files = read_array_files(folder)
    if codebook is None and quantity == "codes":
        codebook = _codebook(folder, files)
    rows, grid = _rows(folder, files, quantity)
    flipped: RowArray | None = None
    if flip:
        flipped, _ = _rows(folder, files, f"{quantity}_flip")
        if flipped.shape != rows.shape:
            raise UserError(
                f"{folder}: {quantity} has the shape {rows.shape} and {quantity}_flip"
                f" {flipped.shape}; both must have the same."
            )
    return LatentDataset(
        rows=rows,
        labels=_labels(folder, files, len(rows)),
        flipped=flipped,
        codebook=codebook,
        grid=grid,
        stats=files.stats,
    )


def _rows(folder: Path, files: ArrayFiles, name: str) -> tuple[ShardedArray, Grid | None]:
    """Return an array with one axis of tokens, and its grid."""
    has_channels = name.startswith("latents")
    axes = "(n, d, rows, columns) or (n, tokens, d)"
    if not has_channels:
        axes = "(n, rows, columns) or (n, tokens)"
    if name not in files.arrays:
        available = ", ".join(files.arrays)
        advice = ""
        if name.endswith("_flip"):
            advice = " Mirrored images are needed unless flip is 0."
        raise UserError(f"{folder} has no {name} of shape {axes}; it has {available}.{advice}")
    parts = files.arrays[name].arrays
    num_axes = 3 if has_channels else 2
    kinds = "f" if has_channels else "iu"
    for part, source in zip(parts, files.arrays[name].sources, strict=True):
        is_valid = part.ndim in (num_axes, num_axes + 1) and part.dtype.kind in kinds
        if not is_valid or part.shape[1:] != parts[0].shape[1:]:
            raise UserError(
                f"{folder / source}: {name} must have the shape {axes}, the same in all files, got"
                f" {part.dtype} {part.shape}."
            )
    grid = parts[0].shape[-2:] if parts[0].ndim > num_axes else None
    dtype = np.float32 if has_channels else np.int32
    return ShardedArray([without_grid(p, has_channels=has_channels) for p in parts], dtype), grid


def _codebook(folder: Path, files: ArrayFiles) -> Tensor | None:
    """Return the codewords of a folder, float32 (g, k, d); None if there are none."""
    if "codebook" not in files.arrays:
        return None
    (table,) = files.arrays["codebook"].arrays
    if table.ndim not in (2, 3) or table.dtype.kind != "f":
        raise UserError(
            f"{folder}: the codebook must be floats of shape (k, d) or (g, k, d), got {table.dtype}"
            f" {table.shape}."
        )
    codewords = torch.from_numpy(np.array(table, np.float32))
    return codewords if codewords.ndim == 3 else codewords[None]


def _labels(folder: Path, files: ArrayFiles, count: int) -> np.ndarray:
    if "labels" not in files.arrays:
        return np.zeros(count, np.int64)
    labels = np.concatenate(files.arrays["labels"].arrays)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise UserError(
            f"{folder}: labels must be {count:,} integers from 0, one per image, got"
            f" {labels.dtype} {labels.shape}."
        )
    return labels.astype(np.int64)
