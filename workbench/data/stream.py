"""Image datasets that are too large for memory, read in order while training runs.

They are parquet files, webdataset shards or datasets of the hub, read with `datasets`. The order of
an epoch depends on the seed and the number of the epoch alone, and each process reads its own part.
A resumed run therefore continues with the images that it would have read; it skips those before
without decoding them.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench.core.augmentation import Augmentation
from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.data.augment import crop
from workbench.data.channels import to_tensor, with_channels
from workbench.data.decode import ValueRange, decode, decode_picture
from workbench.data.encoded import index_hash
from workbench.data.images import ImageSet
from workbench.data.lazy import Decoding, read_pixels
from workbench.data.parquet import (
    count_rows,
    first_line,
    parquet_files,
)
from workbench.data.resize import DEFAULT_RESIZE
from workbench.data.split import TEST_NAMES
from workbench.data.substitution import decode_batch
from workbench.data.table_columns import content, image_column, image_folder
from workbench.data.tar_stream import open_shards, shard_files

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

    from workbench.core.types import OrderedBatch

# Encoded images that are shuffled among each other, in addition to the order of the files.
SHUFFLE_BUFFER_IMAGES = 1000
SHUFFLE_BUFFER_BYTES = 2**28
DEFAULT_LIMIT = 2000  # images of `first_images`
Content = bytes | Path | None


class EncodedBatch(NamedTuple):
    """Images of a batch that are not decoded yet, so that another process may decode them.

    Attributes
    ----------
    contents : list of bytes or Path or None
        The encoded images.
    names : list of str
        Their names in the stream; empty where a row has none.
    rank : int
        The index of the process that has read them.
    first : int
        The number of images that this process has read before.
    """

    contents: list[Content]
    names: list[str]
    rank: int
    first: int


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The training images of `stream:PATH` or `stream:owner/name`, a `StreamDataset`.

    Attributes
    ----------
    name : str
        A folder of parquet or tar files, one such file, or a dataset on the hub.
    size : ImageSize
        The size of the images.
    channels : {1, 3}
        Channels of the images.
    resize : {"lanczos", "bicubic", "adm"}
        How images are brought to this size.
    value_range : tuple of float or None
        The values of black and white of images with more than 8 bits; see `workbench.data.load`.
    augmentation : Augmentation
        The crops and flips of batches.
    """

    name: str
    size: ImageSize
    channels: int
    resize: str = DEFAULT_RESIZE
    value_range: ValueRange | None = None
    augmentation: Augmentation = Augmentation()

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
        from workbench.core.pixels import normalize

        for request in self.requests(
            size, first=first, rank=rank, world_size=world_size, seed=seed
        ):
            yield (normalize(self.load(request)[0]),)

    def requests(
        self, size: int, *, first: int = 0, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> Iterator[EncodedBatch]:
        """Yield batches of images that are not decoded, without end; see `batches`.

        Parameters
        ----------
        size, first, rank, world_size, seed : int
            As for `batches`.
        """
        from datasets.distributed import split_dataset_by_node

        # The files in another order in each epoch; their rows are shuffled here.
        shuffled = self.table.shuffle(seed=seed % 2**63, buffer_size=1)
        part = split_dataset_by_node(shuffled, rank=rank, world_size=world_size)
        rows = islice(self._rows(part, seed), first, None)
        while True:
            batch = list(islice(rows, size))
            names = [_row_name(row) for row in batch]
            yield EncodedBatch(self._contents(batch), names, rank, first)
            first += size

    def load(self, request: EncodedBatch) -> "tuple[Tensor]":
        """Decode the images of a batch, with the crops and flips of the augmentation.

        Parameters
        ----------
        request : EncodedBatch
            The encoded images.

        Returns
        -------
        tuple of one Tensor of uint8, shape (b, c, h, w)
            The images. A damaged one is left out: a warning names it, and the next image of the
            batch takes its place, with other crops and flips. The batch therefore depends on the
            request alone.

        Raises
        ------
        UserError
            If all images of the batch are damaged.
        """
        shape = (len(request.contents), *self.size, self.channels)
        return (to_tensor(decode_batch(shape, partial(self._decode_for, request), self.source)),)

    def _decode_for(self, request: EncodedBatch, position: int, place: int) -> np.ndarray:
        """Decode an image of a batch with the crop and the flip of another position."""
        number = f"image {request.first + position} of process {request.rank}"
        name = request.names[position] or number
        return self._decode(
            request.contents[position],
            request.rank,
            request.first + place,
            f"{name} of {self.source}",
        )

    def augmented(self, augmentation: Augmentation) -> "ImageStream":
        """Return the stream with random crops and flips of its batches.

        Parameters
        ----------
        augmentation : Augmentation
            The crops and flips.
        """
        return replace(self, augmentation=augmentation)

    def ordered_batches(self, size: int, *, first: int = 0) -> Iterator["OrderedBatch"]:
        """Iterate once over images and labels in the order of the files.

        The first images are not decoded. See `core.types.OrderedImages`.
        """
        rows = _read_rows(self.table.skip(first), self.source)
        while batch := list(islice(rows, size)):
            yield self._readable(batch, first)
            first += size

    def _readable(self, rows: Sequence[Mapping[str, Any]], first: int) -> "OrderedBatch":
        """Decode consecutive rows without augmentation, and leave out damaged images."""
        from workbench.core.pixels import normalize
        from workbench.core.types import OrderedBatch

        plain = self.augmented(Augmentation())
        pixels = np.empty((len(rows), *self.size, self.channels), np.uint8)
        labels: list[Any] = []
        skipped: list[str] = []
        for position, (row, cell) in enumerate(zip(rows, self._contents(rows), strict=True)):
            name = f"image {first + position} of {self.source}"
            try:
                pixels[len(labels)] = plain._decode(cell, 0, 0, name)
            except UserError as error:
                skipped.append(str(error))
            else:
                labels.append(row.get("label"))
        images = normalize(to_tensor(pixels[: len(labels)]))
        return OrderedBatch(images, _labels(labels), tuple(skipped))

    def take(self, n: int) -> "Tensor":
        """Return the first n images, float32 (n, c, h, w) in [-1, 1]."""
        return self._images(islice(self._rows(self.table), n))

    def _images(self, rows: Iterable[Mapping[str, Any]]) -> "Tensor":
        """Return the images of rows without augmentation."""
        from workbench.core.pixels import normalize

        plain = self.augmented(Augmentation())
        batch = list(rows)
        names = [_row_name(row) for row in batch]
        return normalize(plain.load(EncodedBatch(self._contents(batch), names, 0, 0))[0])

    def _contents(self, rows: Iterable[Mapping[str, Any]]) -> list[Content]:
        folder = _image_folder(self.name)
        return [content(row["pixels"], folder) for row in rows]

    def _decode(self, cell: Content, rank: int, number: int, name: str) -> np.ndarray:
        """Decode the image with this number of a process; the name is for errors."""
        augmentation = self.augmentation
        draw = augmentation.draw(rank, number)
        if augmentation.needs_originals:
            picture = decode_picture(
                cell,
                name,
                size=augmentation.max_size(self.size),
                reduced=augmentation.reduced_decoding,
                value_range=self.value_range,
            )
            pixels = crop(picture, self.size, self.resize, augmentation, draw)
        else:
            pixels = decode(cell, name, self.size, self.resize, value_range=self.value_range)
        if augmentation.is_flipped(draw):
            pixels = pixels[:, ::-1]
        return with_channels(pixels, self.channels)

    def _rows(
        self, table: "datasets.IterableDataset", seed: int | None = None
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of one epoch after another, with a seed each in its own order."""
        for epoch in count():
            table.set_epoch(epoch)
            rows: Iterable[Mapping[str, Any]] = _read_rows(table, self.source)
            if seed is not None:
                rows = shuffled_rows(rows, np.random.default_rng([seed % 2**63, epoch]))
            is_empty = True
            for row in rows:
                is_empty = False
                yield row
            if is_empty:
                raise UserError(
                    f"{self.source} has no rows for this process; use at most as many processes as"
                    " it has files."
                )


def _read_rows(table: "datasets.IterableDataset", source: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a table, and convert the errors of its readers to sentences."""
    try:
        yield from table
    except UserError:
        raise
    except Exception as error:  # of pyarrow, the operating system and the library itself
        raise UserError(f"{source} cannot be read ({first_line(error)}).") from None


def shuffled_rows(
    rows: Iterable[Mapping[str, Any]], generator: np.random.Generator
) -> Iterator[Mapping[str, Any]]:
    """Yield rows in a random order, through a buffer that is limited in images and in bytes.

    Parameters
    ----------
    rows : iterable of mapping
        The rows, whose `pixels` have `bytes`.
    generator : Generator
        The random numbers.
    """
    buffer: list[Mapping[str, Any]] = []
    num_bytes = 0
    for row in rows:
        buffer.append(row)
        num_bytes += _encoded_bytes(row)
        while len(buffer) > SHUFFLE_BUFFER_IMAGES or (
            num_bytes > SHUFFLE_BUFFER_BYTES and len(buffer) > 1
        ):
            position = int(generator.integers(len(buffer)))
            buffer[position], buffer[-1] = buffer[-1], buffer[position]
            removed = buffer.pop()
            num_bytes -= _encoded_bytes(removed)
            yield removed
    for position in generator.permutation(len(buffer)).tolist():
        yield buffer[position]


def _row_name(row: Mapping[str, Any]) -> str:
    """Return the name of the file that a row is from; empty if it has none."""
    cell = row["pixels"]
    return str(cell.get("path") or "") if isinstance(cell, Mapping) else ""


def _encoded_bytes(row: Mapping[str, Any]) -> int:
    """Return the size of the encoded image that a row holds in memory."""
    cell = row["pixels"]
    return len(cell.get("bytes") or b"") if isinstance(cell, Mapping) else 0


class SpooledImages:
    """Encoded images in a temporary file, of which only the positions are held in memory.

    Parameters
    ----------
    contents : iterable of bytes or Path or None
        The images, which are read once.
    source : str
        Name of the images for errors.
    """

    def __init__(self, contents: Iterator[Content], source: str) -> None:
        self.source = source
        self._file = TemporaryFile()  # noqa: SIM115 - deleted with this object
        self._paths: dict[int, Path] = {}
        ends = [0]
        for index, cell in enumerate(contents):
            if isinstance(cell, Path):
                self._paths[index] = cell
            else:
                self._file.write(cell or b"")
            ends.append(self._file.tell())
        self._file.flush()
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, index: int) -> str:
        """Return the position of an image in words."""
        return f"image {index} of {self.source}"

    def content(self, index: int) -> bytes | Path:
        """Return the content of an image."""
        if index in self._paths:
            return self._paths[index]
        start, end = self._ends[index : index + 2].tolist()
        return os.pread(self._file.fileno(), end - start, start)

    def identity(self, indices: np.ndarray) -> Iterator[str]:
        """Yield the sizes of the images."""
        yield index_hash(np.diff(self._ends)[indices])


def first_images(name: str, split: str, limit: int | None, decoding: Decoding) -> ImageSet:
    """Read the first images of a split of a stream, on which runs are evaluated.

    Parameters
    ----------
    name : str
        A folder of parquet or tar files, one such file, or a dataset on the hub.
    split : {"train", "test"}
        Part of the images to read.
    limit : int, optional
        Number of images; 2,000 by default.
    decoding : Decoding
        The conversion to one size, which must be given; 3 channels are the default.

    Raises
    ------
    UserError
        If the stream cannot be opened, or no side is given.
    """
    table = _open_table(name, split)
    if decoding.size is None:
        raise UserError(f"stream:{name} has images of many sizes; give a side.")
    limit = limit or DEFAULT_LIMIT
    values: list[Any] = []  # of labels
    has_more = False
    folder = _image_folder(name)
    source = f"stream:{name}"

    def contents() -> Iterator[Content]:
        nonlocal has_more
        for row in _read_rows(table, source):
            if len(values) == limit:
                has_more = True  # a stream ends only when it is read
                return
            values.append(row.get("label"))
            yield content(row["pixels"], folder)

    encoded = SpooledImages(contents(), source)
    decoded = read_pixels(encoded, replace(decoding, channels=decoding.channels or 3), source)
    labels = _labels([values[index] for index in decoded.indices])
    return ImageSet(
        pixels=decoded.pixels,
        labels=labels,
        names=() if labels is None else _class_names(table),
        source=source,
        split=split,
        skipped=decoded.skipped,
        total=None if has_more else len(encoded),
        originals=decoded.originals,
    )


def _labels(values: Sequence[Any]) -> np.ndarray | None:
    """Return the labels of rows, int64 (n,); None if a row has no label."""
    labels = [value for value in values if isinstance(value, int) and 0 <= value < 2**63]
    return np.array(labels, np.int64) if len(labels) == len(values) else None


def _image_folder(name: str) -> Path:
    """Return the folder in which the files of a stream's cells must be."""
    path = Path(name).expanduser()
    return image_folder(path if path.exists() else None)


def _class_names(table: "datasets.IterableDataset") -> tuple[str, ...]:
    import datasets

    feature = (table.features or {}).get("label")
    return tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()


def _open_table(name: str, split: str) -> "datasets.IterableDataset":
    import datasets

    path = Path(name).expanduser()
    is_archive = path.is_file() and path.suffix.lower() == ".tar"
    tables = parquet_files(path) if path.exists() and not is_archive else {}
    shards = shard_files(path) if path.exists() and not tables else {}
    files = tables or shards
    if path.exists() and split not in files:
        raise UserError(_no_files(name, split, has_files=bool(files)))
    try:
        if shards:
            table = open_shards(shards[split])
        else:
            table = _open_files(tables[split]) if tables else _open_hub(name, split)
        if table.features is None:
            table = table._resolve_features()
    except UserError:
        raise
    except Exception as error:  # no network, no such dataset or split, no permission
        raise UserError(
            f"stream:{name} cannot be opened ({first_line(error)}). Use a folder of parquet"
            " or tar files."
        ) from None
    column = image_column(table.features, f"stream:{name}")
    table = table.cast_column(column, datasets.Image(decode=False))
    if column == "pixels":
        return table
    if "pixels" in table.features:
        table = table.remove_columns("pixels")
    return table.rename_column(column, "pixels")


def _no_files(name: str, split: str, *, has_files: bool) -> str:
    """Return the sentence for a folder without files of a split."""
    if has_files:
        return (
            f"{name} must have parquet or tar files of the {split} split ({split}*.parquet,"
            f" {split}*.tar); there are none."
        )
    return (
        f"{name} has no parquet or tar files, which a stream reads. Of image files, only the"
        f" positions are held in memory anyway: give {name} without `stream:`."
    )


def _open_files(files: list[Path]) -> "datasets.IterableDataset":
    import datasets

    # The reader takes the number of rows as the size of a batch, which must not be zero.
    paths = [str(file) for file in files if count_rows(file)]
    if not paths:
        raise UserError(f"{files[0]} has no rows. Use a file with images.")
    return datasets.load_dataset("parquet", data_files=paths, streaming=True)["train"]


def _open_hub(name: str, split: str) -> "datasets.IterableDataset":
    import datasets

    tables = datasets.load_dataset(name, streaming=True)
    if split in tables:
        return tables[split]
    return tables[next(part for part in TEST_NAMES if part in tables)]
