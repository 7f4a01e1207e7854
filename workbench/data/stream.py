"""Image datasets that are too large for memory, read in order while training runs.

They are parquet files or datasets of the hub, read with `datasets`. The order of an epoch depends
on the seed and the number of the epoch alone, and each process reads its own part. A resumed run
therefore continues with the images that it would have read; it skips those before without decoding
them.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import UserError
from workbench.data.decode import decode
from workbench.data.images import ImageSet, with_channels
from workbench.data.parquet import content, image_column, image_folder, parquet_files
from workbench.data.resize import DEFAULT_RESIZE
from workbench.data.split import TEST_NAMES

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

# Images that are shuffled among each other, in addition to the order of the files.
SHUFFLE_BUFFER_IMAGES = 1000
DEFAULT_LIMIT = 2000  # images of `first_images`
GRAY = 128


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The training images of `stream:PATH` or `stream:owner/name`, a `StreamDataset`.

    Attributes
    ----------
    name : str
        A folder of parquet files, one parquet file, or a dataset on the hub.
    side : int
        Height and width in pixels.
    channels : {1, 3}
        Channels of the images.
    resize : {"lanczos", "bicubic", "adm"}
        How images are brought to this side.
    """

    name: str
    side: int
    channels: int
    resize: str = DEFAULT_RESIZE

    @property
    def source(self) -> str:
        """The argument of `load`."""
        return f"stream:{self.name}"

    @property
    def labels(self) -> None:
        """None: the labels of a stream have no index; `ordered_batches` yields them."""
        return

    @property
    def num_images(self) -> None:
        """None: a stream ends only when it is read."""
        return

    @cached_property
    def table(self) -> "datasets.IterableDataset":
        """The rows, not decoded."""
        return _open_table(self.name, "train")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the name, the columns and the number of files (16 hex digits).

        The images are not part of it, because they are never all read.
        """
        description = f"{self.name} {self.table.num_shards} {self.table.features}"
        return hashlib.sha256(description.encode()).hexdigest()[:16]

    def batches(
        self, size: int, *, first: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> Iterator["tuple[Tensor]"]:
        """Yield batches of images without end.

        Parameters
        ----------
        size : int
            Images per batch.
        first : int
            Number of images of this process to skip.
        rank, world_size : int
            Index of this process and number of processes.
        seed : int
            Seed of the order.

        Yields
        ------
        tuple of one Tensor of float32, shape (size, c, h, w)
            Images in [-1, 1].
        """
        from datasets.distributed import split_dataset_by_node

        shuffled = self.table.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER_IMAGES)
        part = split_dataset_by_node(shuffled, rank=rank, world_size=world_size)
        rows = islice(self._rows(part), first, None)
        while True:
            yield (self._to_tensor(list(islice(rows, size))),)

    def ordered_batches(
        self, size: int, *, first: int = 0
    ) -> Iterator["tuple[Tensor, np.ndarray | None]"]:
        """Iterate once over images and labels in the order of the files.

        The images that are skipped are not decoded. See `core.types.OrderedImages`.
        """
        rows = iter(self.table.skip(first))
        while batch := list(islice(rows, size)):
            yield self._to_tensor(batch), _labels(batch)

    def take(self, n: int) -> "Tensor":
        """Return the first n images, float32 (n, c, h, w) in [-1, 1]."""
        return self._to_tensor(list(islice(self._rows(self.table), n)))

    def _rows(self, table: "datasets.IterableDataset") -> Iterator[Mapping[str, Any]]:
        """Yield the rows of one epoch after another."""
        for epoch in count():
            table.set_epoch(epoch)
            is_empty = True
            for row in table:
                is_empty = False
                yield row
            if is_empty:
                raise UserError(
                    f"{self.source} has no rows for this process; use at most as many processes as"
                    " it has files."
                )

    def _to_tensor(self, rows: list[Mapping[str, Any]]) -> "Tensor":
        import torch

        pixels = np.stack(
            [_decode_row(row, self.source, self.side, self.channels, self.resize) for row in rows]
        )
        channels_first = np.moveaxis(pixels, -1, 1).astype(np.float32, order="C")
        return torch.from_numpy(channels_first).div_(127.5).sub_(1)


def first_images(
    name: str,
    split: str,
    side: int | None,
    channels: int | None,
    limit: int | None,
    resize: str = DEFAULT_RESIZE,
) -> ImageSet:
    """Read the first images of a split of a stream, on which runs are evaluated.

    Parameters
    ----------
    name : str
        A folder of parquet files, one parquet file, or a dataset on the hub.
    split : {"train", "test"}
        The split.
    side : int
        Height and width in pixels; required.
    channels : {1, 3}, optional
        Channels of the images; 3 by default.
    limit : int, optional
        Number of images; 2,000 by default.
    resize : {"lanczos", "bicubic", "adm"}
        How images are brought to this side.

    Raises
    ------
    UserError
        If the stream cannot be opened, or no side is given.
    """
    table = _open_table(name, split)
    count = limit or DEFAULT_LIMIT
    rows = list(islice(table, count + 1))
    total = len(rows) if len(rows) <= count else None  # a stream ends only when it is read
    rows = rows[:count]
    if side is None:
        raise UserError(f"stream:{name} has images of many sizes; give a side.")
    source = f"stream:{name}"
    pixels = np.empty((len(rows), side, side, channels or 3), np.uint8)
    for index, row in enumerate(rows):
        pixels[index] = _decode_row(row, source, side, channels or 3, resize)
    labels = _labels(rows)
    return ImageSet(
        pixels=pixels,
        labels=labels,
        names=() if labels is None else _class_names(table),
        source=source,
        split=split,
        total=total,
    )


def _labels(rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Return the labels of rows, int64 (n,); None if a row has no label."""
    values = [row.get("label") for row in rows]
    labels = [value for value in values if isinstance(value, int) and value >= 0]
    return np.array(labels, np.int64) if len(labels) == len(values) else None


def _class_names(table: "datasets.IterableDataset") -> tuple[str, ...]:
    import datasets

    feature = (table.features or {}).get("label")
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()


def _open_table(name: str, split: str) -> "datasets.IterableDataset":
    import datasets

    path = Path(name).expanduser()
    files = parquet_files(path) if path.exists() else {}
    if path.exists() and split not in files:
        raise UserError(
            f"{name} must have parquet files of the {split} split ({split}*.parquet); there are"
            " none."
        )
    try:
        table = _open_files(files[split]) if files else _open_hub(name, split)
        if table.features is None:
            table = table._resolve_features()
    except Exception as error:  # no network, no such dataset or split, no permission
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"stream:{name} cannot be opened ({lines[0].rstrip('.')}). Use a folder of parquet"
            " files."
        ) from None
    column = image_column(table.features, f"stream:{name}")
    return table.cast_column(column, datasets.Image(decode=False)).rename_column(column, "pixels")


def _open_files(files: list[Path]) -> "datasets.IterableDataset":
    import datasets

    paths = [str(file) for file in files]
    return datasets.load_dataset("parquet", data_files=paths, streaming=True)["train"]


def _open_hub(name: str, split: str) -> "datasets.IterableDataset":
    import datasets

    tables = datasets.load_dataset(name, streaming=True)
    if split in tables:
        return tables[split]
    return tables[next(part for part in TEST_NAMES if part in tables)]


def _decode_row(
    row: Mapping[str, Any],
    source: str,
    side: int,
    channels: int,
    resize: str = DEFAULT_RESIZE,
) -> np.ndarray:
    """Decode one image; an unreadable one becomes a gray square, so that batches stay full."""
    path = Path(source.removeprefix("stream:")).expanduser()
    folder = image_folder(path if path.exists() else None)
    try:
        pixels = decode(content(row["pixels"], folder), f"an image of {source}", side, resize)
    except UserError as error:
        warnings.warn(f"{error} It is replaced by a gray square.", stacklevel=2)
        return np.full((side, side, channels), GRAY, np.uint8)
    return with_channels(pixels, channels)
