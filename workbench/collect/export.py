"""Export of latents, codes and images to files that other programs and `wb.evidence` read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.collect.images import batch_slices, load_images, to_uint8
from workbench.collect.models import load_tokenizer
from workbench.core.errors import RunError, UserError, unknown
from workbench.core.progress import report_progress
from workbench.data import ImageSet
from workbench.storage.array_files import CLASS_NAMES_FILE
from workbench.storage.array_writer import FORMATS, array_writer
from workbench.storage.atomic import atomic_folder, check_new_folder
from workbench.storage.evidence import Evidence
from workbench.storage.latent_stats import STATS_FILE, LatentMoments, LatentStats
from workbench.storage.run import Run
from workbench.storage.token_layout import with_grid
from workbench.tokenizers.base import Tokenizer

SPLITS = ("test", "train")
Batch = dict[str, np.ndarray]
EXPORTABLE = ("latents", "codes", "images", "reconstructions")
TOKEN_ARRAYS = ("latents", "latents_flip", "codes", "active")


@dataclass(frozen=True)
class Export:
    """The files that `export` wrote.

    Attributes
    ----------
    folder : Path
        The folder that contains the files.
    arrays : tuple of str
        The names of the arrays with one row per image.
    images : int
        The number of images.
    stats : LatentStats or None
        The content of `latent_stats.json`; None without latents.
    """

    folder: Path
    arrays: tuple[str, ...]
    images: int
    stats: LatentStats | None


@dataclass(frozen=True)
class _Source:
    """Batches of arrays as evidence has them, with what describes all of them.

    Attributes
    ----------
    batches : iterator of dict of str to ndarray
        The arrays of consecutive images.
    count : int
        The number of images.
    step : int
        The training step of the checkpoint.
    names : tuple of str
        The names of the classes.
    grid : tuple of int or None
        Rows and columns of the tokens.
    codebook : ndarray or None
        The codewords, float32 (g, k, d).
    """

    batches: Iterator[Batch]
    count: int
    step: int
    names: tuple[str, ...]
    grid: tuple[int, int] | None
    codebook: np.ndarray | None


def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    latents: bool = False,
    codes: bool = False,
    images: bool = False,
    reconstructions: bool = False,
    format: str = "safetensors",
    split: str = "test",
    step: int | None = None,
    limit: int | None = None,
    trust: Sequence[str] = (),
) -> Export:
    """Write latents, codes or images of a run to files, with their labels.

    Latents on a grid have the axes (image, channel, row, column), and the layout of LightningDiT:
    files `latents_rank00_shard000.safetensors` of at most 10,000 images. `latent_stats.json` has
    the numbers that scale latents for a generator; see `workbench.storage.latent_stats`.
    `wb.evidence` reads the folder.

    Parameters
    ----------
    run : Run, str or Path
        The run of a tokenizer.
    out : str or Path
        A new folder.
    latents, codes, images, reconstructions : bool
        What to write; at least one. Labels are always written, and the tokens in use if a tokenizer
        does not use all. `codebook.npy` goes with the codes.
    format : {"safetensors", "npz", "npy", "parquet"}
        The format. `npy` writes one file per array.
    split : {"test", "train"}
        `test` writes the images of the collected evidence, without running the model. `train`
        encodes the training images, and writes `latents_flip`, the latents of the mirrored images,
        next to latents on a grid, because LightningDiT reads them.
    step : int, optional
        The training step of the checkpoint; by default the last.
    limit : int, optional
        Write at most this many images, the first ones.
    trust : sequence of str
        Modules outside this package from which the run's classes may be imported.

    Returns
    -------
    Export
        The folder, the names of the arrays, and the statistics of the latents.

    Raises
    ------
    RunError
        If the run has no such checkpoint or no evidence, or the folder is in use.
    UserError
        If nothing is to be written, the run is a generator's, or an array does not exist.

    Examples
    --------
    >>> export("runs/a", "latents", latents=True, split="train")  # doctest: +SKIP
    """
    flags = {
        "latents": latents,
        "codes": codes,
        "images": images,
        "reconstructions": reconstructions,
    }
    selected = [name for name, is_selected in flags.items() if is_selected]
    if not selected:
        raise UserError(f"Select at least one array to export: {', '.join(EXPORTABLE)}.")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if format not in FORMATS:
        raise unknown("format of arrays", format, FORMATS)
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    run = run if isinstance(run, Run) else Run(run)
    if run.is_generator:
        raise UserError(
            f"{run.folder} is the run of a generator, which has no latents of images. Export the "
            "run of its tokenizer."
        )
    folder = Path(out)
    check_new_folder(folder)
    if split == "test":
        source = _from_evidence(run.evidence(step), selected, limit)
    else:
        source = _from_model(run, step, selected, limit, trust)
    with atomic_folder(folder) as temporary:
        return replace(
            _write(source, selected, run, split, format, temporary),
            folder=folder,
        )


def _from_evidence(evidence: Evidence, selected: Sequence[str], limit: int | None) -> _Source:
    arrays = {
        name: array
        for name, array in evidence.arrays().items()
        if name in (*selected, "active", "labels")
    }
    lengths = {name: len(arrays[name]) for name in selected if name in arrays}
    if not lengths:
        raise RunError(f"The evidence of {evidence.run_name} has no arrays to export.")
    count = max(lengths.values())
    if limit is not None:
        count = min(limit, count)
    shortest = min(lengths, key=lambda name: lengths[name])
    if lengths[shortest] < count:  # only some images have pictures
        raise UserError(
            f"The evidence of {evidence.run_name} has {shortest} of {lengths[shortest]:,} of its"
            f" {count:,} images. Export these with --limit {lengths[shortest]}, or store all of"
            f" them with: workbench collect RUN --limit {count} --pictures {count}"
        )

    def batches() -> Iterator[Batch]:
        for part in batch_slices(count, sum(array[0].size for array in arrays.values())):
            yield {name: np.asarray(array[part]) for name, array in arrays.items()}

    return _Source(
        batches=batches(),
        count=count,
        step=evidence.step,
        names=evidence.names,
        grid=evidence.grid,
        codebook=evidence.codebook,
    )


def _from_model(
    run: Run, step: int | None, selected: Sequence[str], limit: int | None, trust: Sequence[str]
) -> _Source:
    model = load_tokenizer(run, step, trust)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    images = load_images(run, "train")
    count = len(images) if limit is None else min(limit, len(images))
    if not count:
        raise RunError(f"{images.source} has no training images.")
    with torch.no_grad():
        grid = model.encode(images.images(slice(0, 1)).to(device)).grid
    codebook = model.codebook
    return _Source(
        batches=_encoded(model, images, count, selected, device),
        count=count,
        step=run.find_step(step),
        names=images.names,
        grid=grid,
        codebook=None if codebook is None else codebook.detach().float().cpu().numpy(),
    )


def _encoded(
    model: Tokenizer, images: ImageSet, count: int, selected: Sequence[str], device: torch.device
) -> Iterator[Batch]:
    """Encode the images in batches, and yield all arrays that may be exported."""
    for part in batch_slices(count, images.pixels[0].size):
        pixels = images.images(part).to(device)
        with torch.no_grad():
            tokens = model.encode(pixels)
            batch: dict[str, Any] = {"latents": tokens.latents.float()}
            if "latents" in selected and tokens.grid is not None:
                batch["latents_flip"] = model.encode(pixels.flip(-1)).latents.float()
            if "reconstructions" in selected:
                batch["reconstructions"] = to_uint8(model.decode(tokens))
        if tokens.codes is not None:
            batch["codes"] = tokens.codes.int()
        if tokens.active is not None:
            batch["active"] = tokens.active
        arrays = {
            name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        arrays["images"] = images.pixels[part]
        if images.labels is not None:
            arrays["labels"] = np.asarray(images.labels[part], np.int64)
        yield arrays


def _write(
    source: _Source,
    selected: Sequence[str],
    run: Run,
    split: str,
    file_format: str,
    folder: Path,
) -> Export:
    """Write the batches, and the files that describe them."""
    stem = "latents" if "latents" in selected else "arrays"
    writer = array_writer(folder, file_format, stem=stem, count=source.count)
    moments = LatentMoments()
    written: tuple[str, ...] = ()
    num_done = 0
    num_tokens = 0
    for batch in source.batches:
        rows = _selected_rows(batch, selected, run)
        if "latents" in selected:
            moments.add(batch["latents"], batch.get("active"))
            num_tokens = batch["latents"].shape[1]
        writer.write(
            {
                name: with_grid(row, source.grid) if name in TOKEN_ARRAYS else row
                for name, row in rows.items()
            }
        )
        written = tuple(rows)
        num_done += len(next(iter(rows.values())))
        report_progress(num_done, source.count)
    writer.close()
    if "codes" in selected and source.codebook is not None:
        np.save(folder / "codebook.npy", _stored_codebook(source.codebook), allow_pickle=False)
    if source.names:
        names = json.dumps(list(source.names), ensure_ascii=False)
        (folder / CLASS_NAMES_FILE).write_text(names, encoding="utf-8")
    stats: LatentStats | None = None
    if "latents" in selected:
        stats = moments.stats()
        stats.write(
            folder / STATS_FILE,
            run=run.name,
            step=source.step,
            split=split,
            images=source.count,
            tokens=num_tokens,
            channels=len(stats.channel_mean),
            grid=source.grid,
        )
    return Export(folder=folder, arrays=written, images=source.count, stats=stats)


def _selected_rows(
    batch: Mapping[str, np.ndarray], selected: Sequence[str], run: Run
) -> dict[str, np.ndarray]:
    """Return the selected arrays, and those that describe them."""
    for name in selected:
        if name not in batch:
            raise UserError(f"{run.folder} has no {name} to export.")
    names = list(selected)
    if "latents" in selected:
        names.insert(1, "latents_flip")
    if "latents" in selected or "codes" in selected:
        names.append("active")
    names.append("labels")
    return {name: batch[name] for name in names if name in batch}


def _stored_codebook(codebook: np.ndarray) -> np.ndarray:
    """Return the codewords; only their number if the vectors are not known."""
    if codebook.shape[2]:
        return codebook
    return np.array(codebook.shape[1])
