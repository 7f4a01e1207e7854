"""Encoding of a tokenizer's training images, which are read once, into files for generators.

The files are in the run of the tokenizer, in the layout of LightningDiT's latents:

====================================== ===========================================================
file in latents/step-000800-1f0c.../   content
====================================== ===========================================================
latents_rank00_shard000.safetensors    latents and latents_flip, float32 (n, d, rows, columns), or
                                       (n, tokens, d) for tokens without a grid; labels, int64 (n,),
                                       unless the images have none
codes_rank00_shard000.safetensors      codes and codes_flip, int32, likewise without d; labels
latent_stats.json                      mean and standard deviation of each channel
encoding.json                          number of images, damaged ones that were left out, and what
                                       the files depend on
====================================== ===========================================================

`latents_flip` and `codes_flip` are those of the mirrored images. The name of the folder depends on
the checkpoint, on the images and on the settings. `encoding.json` is written last. A process that
is killed leaves complete shards, and the next one continues after them. If an image is damaged,
`skipped.json` names it until then.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from workbench.collect.images import ENCODE_BATCH, MAX_BATCH_PIXELS, is_stream, load_images
from workbench.collect.models import load_tokenizer
from workbench.core.errors import RunError, UserError
from workbench.core.image_size import ImageSize
from workbench.core.types import OrderedImages
from workbench.data.images import warn_skipped
from workbench.data.resize import DEFAULT_RESIZE
from workbench.data.stream import ImageStream
from workbench.storage.array_files import read_array_files
from workbench.storage.array_writer import save_safetensors
from workbench.storage.atomic import atomic_path, read_json, write_text
from workbench.storage.checkpoint import checkpoint_digest
from workbench.storage.latent_stats import STATS_FILE, LatentMoments
from workbench.storage.run import Run
from workbench.storage.token_layout import with_grid, without_grid
from workbench.tokenizers.base import Tokenizer

SHARD_BYTES = 2**26
MAX_SHARD_IMAGES = 10_000
ENCODING_FILE = "encoding.json"
SKIPPED_FILE = "skipped.json"
KEY_DIGITS = 12
Quantity = Literal["latents", "codes"]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The encoding of all training images of one tokenizer.

    Attributes
    ----------
    run : Run
        The run of the tokenizer, which stores the files.
    step : int
        The training step of the checkpoint.
    quantity : {"latents", "codes"}
        What is stored of the tokens.
    flip : bool
        Whether the mirrored images are encoded as well.
    trust : tuple of str
        Modules outside of this package that may be imported.
    """

    run: Run
    step: int
    quantity: Quantity
    flip: bool = False
    trust: tuple[str, ...] = ()

    @cached_property
    def model(self) -> Tokenizer:
        """The tokenizer."""
        return load_tokenizer(self.run, self.step, self.trust)

    @cached_property
    def images(self) -> OrderedImages:
        """The training images, without damaged ones."""
        data = self.run.config.data
        if not is_stream(self.run) or data is None:
            return load_images(self.run, "train").readable()
        channels, height, width = self.run.config.image_shape
        return ImageStream(
            str(data.source).removeprefix("stream:"),
            size=ImageSize(height, width),
            channels=channels,
            resize=data.resize or DEFAULT_RESIZE,
            value_range=data.value_range,
        )

    @cached_property
    def key(self) -> dict[str, Any]:
        """Return all that the files depend on."""
        data = self.run.config.data
        fingerprint = None if data is None else data.fingerprint
        if fingerprint is None or self.run.config.imported is not None:
            # Only of a run that was trained here, the images are known to be the same as before.
            fingerprint = self.images.fingerprint
        return {
            "tokenizer": _tokenizer_digest(self.run, self.step),
            "data": fingerprint,
            "quantity": self.quantity,
            "flip": self.flip,
        }

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        text = json.dumps(self.key, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
        return self.run.folder / "latents" / f"step-{self.step:06d}-{digest}"

    @property
    def num_images(self) -> int:
        """Number of images that were encoded; 0 before the end."""
        summary: dict[str, Any] = read_json(self.folder / ENCODING_FILE, {})
        return int(summary.get("images", 0))

    def write(self) -> Path:
        """Encode the images that are not encoded yet, and return the folder.

        If another process encodes the same images, this waits for its end.

        Raises
        ------
        UserError
            If only some images have labels, or a value is not finite.
        RunError
            If a file cannot be written, or there are no images.
        """
        from filelock import FileLock

        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder} cannot be created: {error.strerror or error}.") from None
        with FileLock(folder / ".lock"):
            if not (folder / ENCODING_FILE).exists():
                self._write(folder)
        return folder

    @torch.no_grad()
    def _write(self, folder: Path) -> None:
        encoder = _Encoder.create(self)
        moments = LatentMoments()
        paths = (
            folder / f"{self.quantity}_rank00_shard{index:03d}.safetensors" for index in count()
        )
        num_images = 0
        first = 0  # of the images that were not read yet, damaged ones included
        skipped = _SkippedImages(folder / SKIPPED_FILE)
        path = next(paths)
        with _progress_bar(self) as bar:
            while path.exists():
                num_images += _add_stored(path, self.quantity, moments)
                first += encoder.shard_images
                path = next(paths)
            bar.update(num_images)
            for shard, sentences in encoder.shards(first=first, bar=bar):
                skipped.add(path.stem, sentences)
                with atomic_path(path) as temporary:
                    save_safetensors(temporary, shard)
                num_images += _add_stored(path, self.quantity, moments)
                path = next(paths)
        if not num_images:
            raise RunError(f"{self.images.source} has no training images.")
        if skipped.sentences:
            warn_skipped(skipped.sentences, self.images.source)
        if self.quantity == "latents":
            moments.stats().write(folder / STATS_FILE, images=num_images, **self.key)
        summary = {"images": num_images, "skipped": skipped.sentences} | self.key
        write_text(folder / ENCODING_FILE, json.dumps(summary, indent=1))


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Encodes images on a device, a shard at a time.

    Attributes
    ----------
    encoding : Encoding
        What is encoded.
    device : torch.device
        The device of the tokenizer.
    batch_size : int
        Images per batch.
    shard_images : int
        Images per shard, a multiple of the batch size.
    """

    encoding: Encoding
    device: torch.device
    batch_size: int
    shard_images: int

    @classmethod
    def create(cls, encoding: Encoding) -> "_Encoder":
        """Move the tokenizer to its device, and choose the sizes from one image."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoding.model.to(device)
        channels, height, width = encoding.run.config.image_shape
        shape = (1, channels, height, width)
        pixels = height * width
        batch_size = max(1, min(ENCODE_BATCH, MAX_BATCH_PIXELS // pixels))
        probe = cls(encoding=encoding, device=device, batch_size=batch_size, shard_images=0)
        row_bytes = sum(array.nbytes for array in probe.arrays(torch.zeros(shape)).values())
        shard_images = min(MAX_SHARD_IMAGES, SHARD_BYTES // row_bytes)
        # Whole batches: a batch size decides rounding errors, and a killed process changes none.
        shard_images = max(batch_size, shard_images - shard_images % batch_size)
        return cls(
            encoding=encoding, device=device, batch_size=batch_size, shard_images=shard_images
        )

    def shards(self, *, first: int, bar: Any) -> Iterator[tuple[Arrays, list[str]]]:
        """Yield the arrays of the shards after the first images, and what was left out of each.

        A shard is made of the same number of images, of which damaged ones are left out.
        """
        batches: list[Arrays] = []
        skipped: list[str] = []
        num_read = 0
        for images, labels, sentences in self.encoding.images.ordered_batches(
            self.batch_size, first=first
        ):
            batch = self.arrays(images) if len(images) else {}
            if labels is not None and batch:
                batch["labels"] = np.asarray(labels, np.int64)
            if batches and batch and batches[0].keys() != batch.keys():
                raise UserError(
                    f"Some images of {self.encoding.images.source} have labels and others have"
                    " none; label all of them, or none."
                )
            if batch:
                batches.append(batch)
            skipped += sentences
            num_read += self.batch_size
            bar.update(len(images))
            if num_read == self.shard_images:
                yield self._shard(batches, skipped)
                batches, skipped = [], []
                num_read = 0
        if num_read:
            yield self._shard(batches, skipped)

    def _shard(self, batches: list[Arrays], skipped: list[str]) -> tuple[Arrays, list[str]]:
        if not batches:
            raise UserError(
                f"{self.encoding.images.source} has {len(skipped):,} damaged images in a row, and"
                f" no other ones next to them: {skipped[0]}"
            )
        return _joined(batches), skipped

    def arrays(self, images: Tensor) -> Arrays:
        """Encode images, and the mirrored images if these are needed."""
        pixels = images.to(self.device)
        name = self.encoding.quantity
        arrays: Arrays = {name: self._rows(pixels)}
        if self.encoding.flip:
            arrays[f"{name}_flip"] = self._rows(pixels.flip(-1))
        return arrays

    def _rows(self, pixels: Tensor) -> np.ndarray:
        tokens = self.encoding.model.encode(pixels)
        if self.encoding.quantity == "codes":
            assert tokens.codes is not None  # a tokenizer with a codebook
            return with_grid(tokens.codes.int().cpu().numpy(), tokens.grid)
        latents = tokens.latents.float().cpu().numpy()
        if not np.isfinite(latents).all():
            raise UserError(
                f"{self.encoding.run.folder} encodes images to latents that are not finite. "
                "Use an earlier checkpoint."
            )
        return with_grid(latents, tokens.grid)


class _SkippedImages:
    """The damaged images of each shard, in a file that a later process reads if this one dies.

    Parameters
    ----------
    path : Path
        The file, which exists only if an image is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_shard: dict[str, list[str]] = read_json(path, {})

    @property
    def sentences(self) -> list[str]:
        """One sentence per damaged image, in the order of the shards."""
        return list(chain.from_iterable(self._by_shard.values()))

    def add(self, shard: str, sentences: list[str]) -> None:
        """Store the sentences of a shard, which is written next."""
        if sentences:
            self._by_shard[shard] = sentences
            write_text(self._path, json.dumps(self._by_shard, indent=1))


def _joined(batches: list[Arrays]) -> Arrays:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _add_stored(path: Path, quantity: Quantity, moments: LatentMoments) -> int:
    """Add the latents of a shard to the moments, and return its number of images."""
    stored = read_array_files(path).arrays[quantity].arrays[0]
    if quantity == "latents":
        for start in range(0, len(stored), ENCODE_BATCH):
            part = stored[start : start + ENCODE_BATCH]
            moments.add(without_grid(part, has_channels=True))
    return len(stored)


def _tokenizer_digest(run: Run, step: int) -> str:
    """Return a hash of a tokenizer's weights, or of the files that an imported one is read from."""
    imported = run.config.imported
    if imported is None:
        return checkpoint_digest(run.checkpoint(step))
    origin = imported.model_dump(mode="json", include={"address", "revision", "options", "files"})
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def _progress_bar(encoding: Encoding) -> Any:
    from workbench.core.progress_bar import progress_bar

    return progress_bar(
        total=encoding.images.num_images,
        desc=f"{encoding.run.name}: {encoding.quantity}",
        unit="image",
        delay=1,
    )
