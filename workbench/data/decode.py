"""Decoding of image files, table cells and arrays to 8-bit images of one size."""

import io
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.data.resize import DEFAULT_RESIZE, resize_and_crop

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE = 8  # pixels of the short side
MAX_ENLARGEMENT = 4
MAX_FILE_BYTES = 500_000_000
JPEG_START_OF_SCAN = b"\xff\xda"
MAX_SCANNED_PIXELS = 2**31  # 24 scans of the largest image; cameras and editors write about 10
WHITE = 65535  # of 16 bits
TIFF_MAX_SAMPLE_VALUE = 281
EXIF_ORIENTATION = 274
TURNED_ORIENTATIONS = (5, 6, 7, 8)  # by a quarter, so that the file has height and width exchanged
DECLARED_WHITE_LEVELS = tuple(2**bits - 1 for bits in range(8, 16))
# Modes of Pillow with more than 8 bits per pixel.
DEEP_MODES = ("I", "F")
# Pillow chooses a reader by content, whatever the name of a file. Its other readers are rarely used
# and little tested, and the one of PostScript starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

ValueRange = tuple[float, float]


def open_image(file: IO[bytes]) -> "Image.Image":
    """Open an image of one of the `FORMATS`.

    Parameters
    ----------
    file : binary file
        The content of the image.

    Returns
    -------
    Image
        The image, a context manager, whose pixels are not decoded yet.

    Raises
    ------
    UnidentifiedImageError
        If the content is of another format.
    """
    from PIL import Image

    return Image.open(file, formats=_available_formats())


@cache
def _available_formats() -> tuple[str, ...]:
    """Return the formats that this Pillow can read; AVIF and WEBP depend on how it was built."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode(
    content: Path | bytes | np.ndarray | None,
    name: str,
    size: ImageSize | None = None,
    resize: str = DEFAULT_RESIZE,
    *,
    value_range: ValueRange | None = None,
    on_sixteen_bits: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Decode one image to an array.

    Parameters
    ----------
    content : Path, bytes, ndarray or None
        The file, its content, or decoded pixels.
    name : str
        Name of the image for errors.
    size : ImageSize, optional
        The size of the result: the image is resized until it covers it, and the center cropped.
        None keeps the image's own.
    resize : {"lanczos", "bicubic", "adm"}
        How the image is brought to this size; see `workbench.data.resize`.
    value_range : tuple of float, optional
        The values of black and white of images with more than 8 bits; see `decode_picture`.
    on_sixteen_bits : callable, optional
        Receives the largest value of an image with 16 bits, as a fraction of white.

    Returns
    -------
    ndarray of uint8, shape (h, w, 1 or 3)
        The image.

    Raises
    ------
    UserError
        If the content is not an image, or is too small for the size.
    """
    if isinstance(content, np.ndarray) and size in (None, content.shape[:2]):
        return content
    image = decode_picture(
        content, name, size=size, value_range=value_range, on_sixteen_bits=on_sixteen_bits
    )
    if size is not None:
        image = resize_and_crop(image, size, resize)
    return np.atleast_3d(np.asarray(image))


def decode_picture(
    content: Path | bytes | np.ndarray | None,
    name: str,
    *,
    size: ImageSize | None = None,
    reduced: bool = False,
    is_check: bool = False,
    value_range: ValueRange | None = None,
    on_sixteen_bits: Callable[[float], None] | None = None,
) -> "Image.Image":
    """Decode one image at its own size.

    The first frame is decoded, upright by its EXIF orientation. Palettes and CMYK become RGB, and
    transparent pixels are laid on white. Without a value range, 16 bits become 8: the largest value
    of 16 bits is white, or the `MaxSampleValue` of a TIFF file if it is that of 8 to 15 bits. The
    largest value of a PGM file is part of its format.

    Parameters
    ----------
    content : Path, bytes, ndarray or None
        The file, its content, or decoded pixels.
    name : str
        Name of the image for errors.
    size : ImageSize, optional
        The size that the image is going to cover.
    reduced : bool
        Whether a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if it then still covers
        `size`. The pixels differ slightly.
    is_check : bool
        Whether only errors are of interest: a JPEG file is read as a whole and decoded at 1/8 of
        its size.
    value_range : tuple of float, optional
        The values of black and of white. Values outside are clipped. All images must then have more
        than 8 bits: 16, 32, or floating-point numbers.
    on_sixteen_bits : callable, optional
        Receives the largest value of an image with 16 bits, as a fraction of white.

    Returns
    -------
    Image
        The image, of mode L or RGB.

    Raises
    ------
    UserError
        If the content is not an image, or is too small.
    """
    from PIL import Image, ImageOps

    if isinstance(content, np.ndarray):
        image = Image.fromarray(content[..., 0] if content.shape[-1] == 1 else content)
        _check_size(image, name, size)
        return image
    with _readable_errors(name):
        data = _read_file(content, name) if isinstance(content, Path) else content
        if not data:
            raise UserError(f"{name} is empty.")
        with open_image(io.BytesIO(data)) as opened:
            stored_size = _stored_size(opened, size)
            _check_size(opened, name, stored_size)
            _check_scans(opened, data, name)
            if is_check:
                opened.draft(None, (1, 1))
            elif reduced and stored_size is not None:
                opened.draft(None, (stored_size.width, stored_size.height))
            white = _white_level(opened)
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            if value_range is not None:
                return _scale_range(opened, name, value_range)
            if opened.mode.startswith("I"):
                values = _sixteen_bit_values(opened, name, white)
                if on_sixteen_bits is not None:
                    on_sixteen_bits(float(values.max()) / white)
                return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
            return _to_eight_bit(opened, name)


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    """Convert the errors of Pillow and of the operating system to sentences."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name} is not an image of a supported format, such as PNG or JPEG."
        ) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise UserError(f"{name} has more than {limit} pixels; make it smaller.") from None
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, EOFError and more
        if "truncated" in str(error).lower():
            raise UserError(f"{name} is truncated.") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{name} cannot be read ({reason}).") from None


def _read_file(path: Path, name: str) -> bytes:
    """Return the content of a regular file: a pipe or device may have no end."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{name} is not a regular file.")
    if state.st_size > MAX_FILE_BYTES:
        raise UserError(
            f"{name} has {state.st_size:,} bytes; an image may have at most {MAX_FILE_BYTES:,}."
        )
    return path.read_bytes()


def _stored_size(image: "Image.Image", size: ImageSize | None) -> ImageSize | None:
    """Return a size in the orientation in which the file has the image."""
    if size is None or size.is_square:
        return size
    is_turned = image.getexif().get(EXIF_ORIENTATION) in TURNED_ORIENTATIONS
    return size.transposed() if is_turned else size


def _check_size(image: "Image.Image", name: str, size: ImageSize | None) -> None:
    height, width = (1, 1) if size is None else size
    min_height = max(MIN_SIDE, -(-height // MAX_ENLARGEMENT))  # rounded up
    min_width = max(MIN_SIDE, -(-width // MAX_ENLARGEMENT))
    if image.height >= min_height and image.width >= min_width:
        return
    smallest = f"the short side must have at least {min_height}"
    if min_height != min_width:
        smallest = f"it must have at least {min_width} x {min_height}"
    raise UserError(f"{name} is {image.width} x {image.height} pixels; {smallest}.")


def _check_scans(image: "Image.Image", data: bytes, name: str) -> None:
    """Refuse a progressive JPEG file whose many scans would take minutes to decode."""
    if image.format != "JPEG":
        return
    # Within the coded pixels, a byte of this value is always followed by a zero.
    num_scans = data.count(JPEG_START_OF_SCAN)
    if num_scans * image.width * image.height > MAX_SCANNED_PIXELS:
        raise UserError(f"{name} has {num_scans:,} scans; save it again as a baseline JPEG file.")


def _white_level(image: "Image.Image") -> int:
    """Return the largest value of 16 bits, or of the fewer bits that a TIFF file declares."""
    from PIL import TiffImagePlugin

    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(TIFF_MAX_SAMPLE_VALUE)
        declared = value[0] if isinstance(value, tuple) else value
        if isinstance(declared, int) and declared in DECLARED_WHITE_LEVELS:
            return declared
    return WHITE


def _scale_range(image: "Image.Image", name: str, value_range: ValueRange) -> "Image.Image":
    """Map a range of values to 8 bits; values outside are clipped."""
    from PIL import Image

    if not image.mode.startswith(DEEP_MODES):
        raise UserError(f"{name} has 8 bits per channel, so that a value range does not apply.")
    low, high = value_range
    values = np.asarray(image, np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{name} has pixels that are not finite.")
    scaled = np.clip((values - low) * (255 / (high - low)), 0, 255)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _sixteen_bit_values(image: "Image.Image", name: str, white: int) -> np.ndarray:
    """Return the pixels of mode I;16 in its byte orders, or I, as some 16-bit files are opened."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > WHITE:
        raise UserError(
            f"{name} has 32-bit pixels; save it with 8 or 16 bits, or give value_range."
        )
    if values.max() > white:
        raise UserError(f"{name} has the value {values.max():,}; it declares at most {white:,}.")
    return values


def _to_eight_bit(image: "Image.Image", name: str) -> "Image.Image":
    """Convert an image to mode L or RGB."""
    from PIL import Image

    if image.mode == "F":
        raise UserError(
            f"{name} has floating-point pixels, whose range is unknown; save it with 8 or 16 bits,"
            " or give value_range."
        )
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image
    is_gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if is_gray else "RGB")
