"""Images that are decoded when they are read, and images that are decoded once into memory.

A set whose decoded images fit into `MAX_ARRAY_BYTES` is decoded once. A larger one is decoded
whenever its images are read, and only their positions are held in memory. The arrays are equal
either way, except for damaged images: those of a small set are left out, and those of a large
set, which are found only when they are read, are replaced by another image of the batch.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.core.progress_bar import progress_bar
from workbench.data.channels import with_channels
from workbench.data.decode import WHITE, ValueRange, decode, decode_picture
from workbench.data.decode_cache import DecodedImages, cached_decode
from workbench.data.encoded import EncodedImages
from workbench.data.resize import DEFAULT_RESIZE
from workbench.data.substitution import decode_batch

if TYPE_CHECKING:
    from PIL import Image

MAX_ARRAY_BYTES = 2**29  # of decoded images in memory, which are 2,730 images of 256 x 256
PROBED_IMAGES = 16  # of a large set, which are decoded when it is opened
PROGRESS_BAR_MIN_IMAGES = 2000
MAX_REASONS = 3  # of skipped files, in an error
DARK = 0.26  # the largest value of 14 bits, as a fraction of that of 16
CHECK_BATCH = 64  # images that are checked at once
CHECK_PROCESSES = 4  # at most one per core


@dataclass(frozen=True)
class Decoding:
    """The conversion of encoded images to one size.

    Attributes
    ----------
    size : ImageSize or None
        The size of the images; None if all share one.
    channels : {1, 3} or None
        Channels of the images; None keeps those of the source, 3 if any image has 3.
    resize : {"lanczos", "bicubic", "adm"}
        How images are brought to the size; see `workbench.data.resize`.
    value_range : tuple of float or None
        The values of black and white of images with more than 8 bits.
    """

    size: ImageSize | None = None
    channels: int | None = None
    resize: str = DEFAULT_RESIZE
    value_range: ValueRange | None = None


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images that are decoded when they are read: an array of uint8, shape (n, h, w, c).

    Only what locates the images is held in memory. As with arrays on disk, an index, a slice or an
    array of indices in brackets returns an ndarray.

    Attributes
    ----------
    encoded : EncodedImages
        The images.
    rows : ndarray of int64, shape (n,)
        The index in `encoded` of each image of this set.
    size : ImageSize
        The size of the decoded images.
    channels : int
        Their number of color channels.
    decoding : Decoding
        The conversion; its `size` is None if all images must have this size already.
    is_strict : bool
        Whether a damaged image is an error. Otherwise another image of the batch takes its place,
        so that batches of training stay full, and a warning names it.
    """

    encoded: EncodedImages
    rows: np.ndarray
    size: ImageSize
    channels: int
    decoding: Decoding
    is_strict: bool = False

    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array of all images."""
        return len(self.rows), *self.size, self.channels

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array of all images."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        selected = self.rows[key]
        if np.ndim(selected) == 0:
            return self._decode(int(selected))
        return self._read_rows(selected)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Decode all images."""
        return np.asarray(self._read_rows(self.rows), dtype)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Decode images.

        Parameters
        ----------
        indices : ndarray of int
            The images.

        Returns
        -------
        ndarray of uint8, shape (b, h, w, c)
            The images. The next one takes the place of a damaged one, and a warning names it.

        Raises
        ------
        UserError
            If an image is damaged and the set is strict, or if all images are damaged.
        """
        return self._read_rows(self.rows[indices])

    def find_damaged(self) -> dict[int, str]:
        """Decode all images, in worker processes, and return the reasons of those that fail.

        Returns
        -------
        dict of int to str
            One sentence for each damaged image, by its index.
        """
        # Imports torch, which the bundled images do not need.
        from workbench.core.workers import load_in_workers

        starts = range(0, len(self), CHECK_BATCH)
        parts = [range(start, min(start + CHECK_BATCH, len(self))) for start in starts]
        bar = progress_bar(total=len(self), desc="checking images", unit="image", delay=5)
        damaged: dict[int, str] = {}
        with bar:
            for part, reasons in zip(
                parts, load_in_workers(self._reasons, parts, CHECK_PROCESSES), strict=True
            ):
                damaged |= reasons
                bar.update(len(part))
        return damaged

    def _reasons(self, part: range) -> dict[int, str]:
        reasons = {}
        for index in part:
            row = int(self.rows[index])
            try:
                decode_picture(
                    self.encoded.content(row),
                    self.encoded.name(row),
                    size=self.decoding.size,
                    is_check=True,
                    value_range=self.decoding.value_range,
                )
            except UserError as error:
                reasons[index] = str(error)
        return reasons

    def select(self, indices: np.ndarray) -> "LazyImages":
        """Return a set of some of the images, without decoding them."""
        return replace(self, rows=self.rows[indices])

    def with_channels(self, channels: int | None) -> "LazyImages":
        """Return the set with another number of channels."""
        return self if channels is None else replace(self, channels=channels)

    def identity(self) -> Iterator[str]:
        """Yield texts that identify the images and their conversion, without decoding."""
        yield f"{self.decoding.resize} {self.decoding.value_range}"
        yield from self.encoded.identity(self.rows)

    def picture(self, index: int, *, size: ImageSize, reduced: bool) -> "Image.Image":
        """Decode an image at its own size, for a crop other than that of `read`.

        Parameters
        ----------
        index : int
            The image.
        size : ImageSize
            The size that it must cover for this crop.
        reduced : bool
            Whether a JPEG file may be decoded at a fraction of its size.

        Returns
        -------
        Image
            The image, of mode L or RGB.

        Raises
        ------
        UserError
            If it is damaged.
        """
        row = int(self.rows[index])
        return decode_picture(
            self.encoded.content(row),
            self.encoded.name(row),
            size=size,
            reduced=reduced,
            value_range=self.decoding.value_range,
        )

    def _read_rows(self, rows: np.ndarray) -> np.ndarray:
        shape = (len(rows), *self.size, self.channels)
        if not self.is_strict:
            return decode_batch(shape, lambda index, _: self._decode(int(rows[index])), "images")
        pixels = np.empty(shape, np.uint8)
        for index, row in enumerate(rows.tolist()):
            pixels[index] = self._decode(row)
        return pixels

    def _decode(self, row: int) -> np.ndarray:
        content = self.encoded.content(row)
        name = self.encoded.name(row)
        decoding = self.decoding
        pixels = decode(
            content, name, decoding.size, decoding.resize, value_range=decoding.value_range
        )
        if pixels.shape[:2] != self.size:
            raise _other_size(pixels, name, self.size, "the first image")
        return with_channels(pixels, self.channels)


def read_pixels(
    encoded: EncodedImages,
    decoding: Decoding,
    source: str,
    *,
    files: Iterable[Path] = (),
    key: Hashable = None,
) -> DecodedImages:
    """Decode images into memory, or only when they are read if there are many.

    Parameters
    ----------
    encoded : EncodedImages
        The images, at least one.
    decoding : Decoding
        The conversion to one size.
    source : str
        Name of the images for errors.
    files : iterable of Path
        The files that the images depend on; without files nothing is cached.
    key : hashable
        Everything but the files and the conversion that the images depend on.

    Returns
    -------
    DecodedImages
        The images.

    Raises
    ------
    UserError
        If no image can be decoded, or the sizes differ and no size is given.
    """
    channels = decoding.channels or 3
    size = decoding.size
    if size is None or len(encoded) * size.pixels * channels > MAX_ARRAY_BYTES:
        lazy = _open_lazily(encoded, decoding, source)
        if lazy.pixels.nbytes > MAX_ARRAY_BYTES:
            return lazy
    decoded = cached_decode(files, (key, decoding), lambda: _decode_all(encoded, decoding, source))
    originals = LazyImages(
        encoded=encoded,
        rows=decoded.indices,
        size=ImageSize(*decoded.pixels.shape[1:3]),
        channels=decoded.pixels.shape[3],
        decoding=decoding,
    )
    return decoded._replace(originals=originals)


def _open_lazily(encoded: EncodedImages, decoding: Decoding, source: str) -> DecodedImages:
    """Return images that are decoded when they are read; some are decoded to check the source."""
    rows = np.unique(np.linspace(0, len(encoded) - 1, PROBED_IMAGES, dtype=np.int64))
    probe = _Decoder(source, decoding, len(rows))
    for row in rows.tolist():
        probe.add(row, encoded)
    sample = probe.finish()
    notes = sample.notes
    channels = decoding.channels or sample.pixels.shape[3]
    if decoding.channels is None and channels == 1:
        notes += (
            f"Images of {source} are read as gray ones, as the first of them are; give"
            " channels=3 for color.",
        )
    lazy = LazyImages(
        encoded=encoded,
        rows=np.arange(len(encoded)),
        size=ImageSize(*sample.pixels.shape[1:3]),
        channels=channels,
        decoding=decoding,
    )
    return DecodedImages(lazy, lazy.rows, (), notes, originals=lazy)


def _decode_all(encoded: EncodedImages, decoding: Decoding, source: str) -> DecodedImages:
    """Decode all images into one array and skip damaged ones."""
    count = len(encoded)
    decoder = _Decoder(source, decoding, count)
    with progress_bar(
        total=count,
        desc=f"reading {source}",
        unit="image",
        delay=1,
        disable=count <= PROGRESS_BAR_MIN_IMAGES,
    ) as bar:
        for row in range(count):
            decoder.add(row, encoded)
            bar.update()
    return decoder.finish()


class _Decoder:
    """Decodes images of one size into an array, and collects the reasons for skipped ones."""

    def __init__(self, source: str, decoding: Decoding, count: int) -> None:
        self.source = source
        self.decoding = decoding
        self.count = count
        self.pixels: np.ndarray | None = None  # the first image decides on the size
        self.first_name = ""
        self.indices: list[int] = []
        self.skipped: list[str] = []
        self.levels: list[float] = []  # the largest value of each image with 16 bits

    def add(self, row: int, encoded: EncodedImages) -> None:
        """Decode one image."""
        name = encoded.name(row)
        content = encoded.content(row)
        decoding = self.decoding
        try:
            image = decode(
                content,
                name,
                decoding.size,
                decoding.resize,
                value_range=decoding.value_range,
                on_sixteen_bits=self.levels.append,
            )
        except UserError as error:
            self.skipped.append(str(error))
            return
        image = with_channels(image, decoding.channels)
        if self.pixels is None:
            self.first_name = name
            self.pixels = np.empty((self.count, *image.shape), np.uint8)
        first_size = self.pixels.shape[1:3]
        if image.shape[:2] != first_size:
            raise _other_size(image, name, first_size, self.first_name)
        if image.shape[-1] > self.pixels.shape[-1]:  # gray images came first
            self.pixels = np.repeat(self.pixels, image.shape[-1], axis=-1)
        self.pixels[len(self.indices)] = image
        self.indices.append(row)

    def finish(self) -> DecodedImages:
        """Return the images.

        Raises
        ------
        UserError
            If no image could be decoded.
        """
        if self.pixels is None:
            reasons = " ".join(self.skipped[:MAX_REASONS]) or "It is empty."
            raise UserError(f"{self.source} has no usable image: {reasons}")
        return DecodedImages(
            pixels=self.pixels[: len(self.indices)],
            indices=np.array(self.indices, np.int64),
            skipped=tuple(self.skipped),
            notes=_dark_notes(self.levels, self.source),
        )


def _dark_notes(levels: list[float], source: str) -> tuple[str, ...]:
    """Return a sentence if images with 16 bits use so few of them that they are almost black."""
    brightest = max(levels, default=1.0)
    if brightest > DARK:
        return ()
    return (
        f"The {len(levels):,} images of {source} with 16 bits fill {brightest:.0%} of their range,"
        f" up to {round(brightest * WHITE):,} of {WHITE:,}, so that they are dark; give the values"
        " of black and white, as in value_range=0,4095 for 12 bits, or declare them in the files"
        " (MaxSampleValue of TIFF, maxval of PGM).",
    )


def _other_size(
    image: np.ndarray, name: str, first_size: tuple[int, ...], first_name: str
) -> UserError:
    height, width = image.shape[:2]
    first_height, first_width = first_size
    return UserError(
        f"All images must have one size, got {first_width} x {first_height} for {first_name} and"
        f" {width} x {height} for {name}. Give `side`, in pixels, to resize and crop every image to"
        " a square, or to height x width, as in 128x256."
    )
