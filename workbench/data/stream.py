"""Images too many to hold: read in order from parquet files or the hub, through `datasets`, while training goes on.

The order of an epoch depends on the seed and its number alone, and each process reads its own part, so a run that was
stopped goes on with the images it would have seen. Getting there again means reading past those before, undecoded.
"""

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import UserError
from workbench.data.decode import decode
from workbench.data.images import ImageSet, with_channels
from workbench.data.parquet import content, image_column, parquet_files
from workbench.data.split import TEST_NAMES

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

BUFFER = 1000  # images that are shuffled among each other, on top of the order of files


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The training images behind `stream:PATH` or `stream:owner/name`; a `training.Stream`."""

    name: str  # a folder of parquet files, one of them, or a data set on the hub
    side: int  # pixels
    channels: int
    names = ()
    labels = None
    skipped = ()

    @property
    def source(self) -> str:
        """What load() was asked for."""
        return f"stream:{self.name}"

    @cached_property
    def table(self) -> "datasets.IterableDataset":
        """The rows, not decoded."""
        return _open(self.name, "train")

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over the place, the columns and how many files there are; the images are never all read."""
        return hashlib.sha256(
            f"{self.name} {self.table.num_shards} {self.table.features}".encode()
        ).hexdigest()[:16]

    def batches(
        self, size: int, *, first: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> Iterator["tuple[Tensor]"]:
        """Batches of images in [-1, 1] without end, from this process's `first` image on."""
        from datasets.distributed import split_dataset_by_node

        shuffled = self.table.shuffle(seed=seed, buffer_size=BUFFER)
        mine = split_dataset_by_node(
            shuffled, rank=rank, world_size=world_size
        )
        rows = islice(self._rows(mine), first, None)
        while True:
            yield (self._tensor(list(islice(rows, size))),)

    def take(self, n: int) -> "Tensor":
        """The first n images, in [-1, 1]."""
        return self._tensor(list(islice(self._rows(self.table), n)))

    def _rows(self, table: "datasets.IterableDataset") -> Iterator[Any]:
        """Rows of one epoch after another."""
        for epoch in count():
            table.set_epoch(epoch)
            seen = 0
            for row in table:
                seen += 1
                yield row
            if not seen:
                raise UserError(
                    f"{self.source} has no rows for this process; it may have fewer files than processes."
                )

    def _tensor(self, rows: list[dict[str, Any]]) -> "Tensor":
        import torch

        pixels = np.stack([_decoded(row, self.source, self.side, self.channels) for row in rows])
        return (
            torch.from_numpy(np.moveaxis(pixels, -1, 1).astype(np.float32, order="C"))
            .div_(127.5)
            .sub_(1)
        )


def first_images(
    name: str, split: str, side: int | None, channels: int | None, limit: int | None
) -> ImageSet:
    """The first images of a split, 2,000 unless told otherwise: what a run over a stream is looked at with."""
    table = _open(name, split)
    rows = list(islice(table, limit or 2000))
    if side is None:
        raise UserError(f"stream:{name} has images of many sizes; say which side to bring them to.")
    pixels = np.stack([_decoded(row, f"stream:{name}", side, channels or 3) for row in rows])
    labels = [row.get("label") for row in rows]
    known = all(isinstance(label, int) and label >= 0 for label in labels)
    names = tuple(getattr((table.features or {}).get("label"), "names", ()) or ()) if known else ()
    return ImageSet(
        pixels, np.array(labels, np.int64) if known else None, names, f"stream:{name}", split
    )


def _open(name: str, split: str) -> "datasets.IterableDataset":
    import datasets

    path = Path(name).expanduser()
    files = parquet_files(path) if path.exists() else {}
    if path.exists() and split not in files:
        raise UserError(
            f"{name} has no parquet files of a {split} split, as train*.parquet and test*.parquet are."
        )
    try:
        if files:
            table = datasets.load_dataset(
                "parquet", data_files=[str(f) for f in files[split]], streaming=True
            )["train"]
        else:
            tables = datasets.load_dataset(name, streaming=True)
            table = tables[
                split if split in tables else next(part for part in TEST_NAMES if part in tables)
            ]
        if table.features is None:
            table = table._resolve_features()
    except UserError:
        raise
    except (
        Exception
    ) as error:  # no network, no such data set, no permission, no such split: each has its own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"stream:{name} could not be opened ({reason}). A folder of parquet files would do."
        ) from None
    column = image_column(table, f"stream:{name}")
    return table.cast_column(column, datasets.Image(decode=False)).rename_column(column, "pixels")


def _decoded(row: dict[str, Any], source: str, side: int, channels: int) -> np.ndarray:
    """One image; a grey square for one that cannot be read, with a warning, so that no batch is ever short."""
    try:
        return with_channels(
            decode(content(row["pixels"]), f"an image of {source}", side), channels
        )
    except UserError as error:
        warnings.warn(f"{error} A grey square stands in for it.", stacklevel=2)
        return np.full((side, side, channels), 128, np.uint8)
