"""Decoding of image files and table cells to 8-bit squares."""

import io
import stat
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from workbench.core.errors import UserError
from workbench.data.decode_cache import DecodedImages
from workbench.data.resize import DEFAULT_RESIZE, resize_and_crop

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE = 8  # pixels of the short side
MAX_ENLARGEMENT = 4
PROGRESS_BAR_MIN_IMAGES = 2000
MAX_FILE_BYTES = 500_000_000
MAX_REASONS = 3  # of skipped files, in an error
WHITE = 65535  # of 16 bits
TIFF_MAX_SAMPLE_VALUE = 281
DECLARED_WHITE_LEVELS = tuple(2**bits - 1 for bits in range(8, 16))
DARK = 0.26  # the largest value of 14 bits, as a fraction of that of 16
# Pillow chooses a reader by content, whatever the name of a file. Its other readers are rarely used
# and little tested, and the one of PostScript starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


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
    content: Path | bytes | None,
    name: str,
    side: int | None = None,
    resize: str = DEFAULT_RESIZE,
    on_sixteen_bits: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Decode one image.

    The first frame is decoded, upright by its EXIF orientation. Palettes and CMYK become RGB, and
    transparent pixels are laid on white. 16 bits become 8: the largest value of 16 bits is white,
    or the `MaxSampleValue` of a TIFF file if it is that of 8 to 15 bits. The largest value of a PGM
    file is part of its format.

    Parameters
    ----------
    content : Path, bytes or None
        The file or its content.
    name : str
        Name of the image for errors.
    side : int, optional
        Height and width in pixels: the short side is resized to it and the center cropped. None
        keeps the size.
    resize : {"lanczos", "bicubic", "adm"}
        How the image is brought to this side; see `workbench.data.resize`.
    on_sixteen_bits : callable, optional
        Receives the largest value of an image with 16 bits, as a fraction of white.

    Returns
    -------
    ndarray of uint8, shape (h, w, 1 or 3)
        The image.

    Raises
    ------
    UserError
        If the content is not an image, or is too small for the side.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        data = _read_file(content, name) if isinstance(content, Path) else content
        if not data:
            raise UserError(f"{name} is empty.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_image(io.BytesIO(data)) as opened:
                _check_size(opened, name, side)
                white = _white_level(opened)
                upright = ImageOps.exif_transpose(opened)
                if upright.mode.startswith("I"):
                    values = _sixteen_bit_values(upright, name, white)
                    if on_sixteen_bits is not None:
                        on_sixteen_bits(float(values.max()) / white)
                    image = Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
                else:
                    image = _to_eight_bit(upright, name)
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
    if side is not None:
        image = resize_and_crop(image, side, resize)
    return np.atleast_3d(np.asarray(image))


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


def _check_size(image: "Image.Image", name: str, side: int | None) -> None:
    smallest = MIN_SIDE
    if side is not None:
        smallest = max(smallest, -(-side // MAX_ENLARGEMENT))  # rounded up
    if min(image.size) < smallest:
        raise UserError(
            f"{name} is {image.width} x {image.height} pixels; the short side must have at least"
            f" {smallest}."
        )


def _white_level(image: "Image.Image") -> int:
    """Return the largest value of 16 bits, or of the fewer bits that a TIFF file declares."""
    from PIL import TiffImagePlugin

    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(TIFF_MAX_SAMPLE_VALUE)
        declared = value[0] if isinstance(value, tuple) else value
        if isinstance(declared, int) and declared in DECLARED_WHITE_LEVELS:
            return declared
    return WHITE


def _sixteen_bit_values(image: "Image.Image", name: str, white: int) -> np.ndarray:
    """Return the pixels of mode I;16 in its byte orders, or I, as some 16-bit files are opened."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > WHITE:
        raise UserError(f"{name} has 32-bit pixels; save it with 8 or 16 bits.")
    if values.max() > white:
        raise UserError(f"{name} has the value {values.max():,}; it declares at most {white:,}.")
    return values


def _to_eight_bit(image: "Image.Image", name: str) -> "Image.Image":
    """Convert an image to mode L or RGB."""
    from PIL import Image

    if image.mode == "F":
        raise UserError(
            f"{name} has floating-point pixels, whose range is unknown; save it with 8 or 16 bits."
        )
    is_gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if is_gray else "RGB")


def decode_all(
    contents: Iterable[tuple[str, Path | bytes | None]],
    *,
    count: int,
    side: int | None,
    source: str,
    resize: str = DEFAULT_RESIZE,
) -> DecodedImages:
    """Decode named images into one array and skip damaged ones.

    Parameters
    ----------
    contents : iterable of (str, Path or bytes or None)
        Names and contents of the images.
    count : int
        Number of the contents, for the progress bar.
    side : int, optional
        Height and width in pixels; None if all images share one size.
    source : str
        Name of the images for errors.
    resize : {"lanczos", "bicubic", "adm"}
        How images are brought to this side.

    Raises
    ------
    UserError
        If no image can be decoded, or the sizes differ and no side is given.
    """
    from tqdm import tqdm

    pixels: np.ndarray | None = None  # the first image decides on the size
    indices: list[int] = []
    skipped: list[str] = []
    first_name = ""
    levels: list[float] = []  # the largest value of each image with 16 bits
    progress = tqdm(
        contents,
        total=count,
        desc=f"reading {source}",
        unit=" images",
        disable=count <= PROGRESS_BAR_MIN_IMAGES,
    )
    for index, (name, content) in enumerate(progress):
        try:
            image = decode(content, name, side, resize, levels.append)
        except UserError as error:
            skipped.append(str(error))
            continue
        first_name = first_name or name
        if pixels is None:
            pixels = np.empty((count, *image.shape), np.uint8)
        _check_same_square(image, name, pixels[0], first_name)
        if image.shape[-1] > pixels.shape[-1]:  # gray images came first
            pixels = np.repeat(pixels, image.shape[-1], axis=-1)
        pixels[len(indices)] = image
        indices.append(index)
    if pixels is None:
        reasons = " ".join(skipped[:MAX_REASONS]) or "It is empty."
        raise UserError(f"{source} has no usable image: {reasons}")
    return DecodedImages(
        pixels=pixels[: len(indices)],
        indices=np.array(indices, np.int64),
        skipped=tuple(skipped),
        notes=_dark_notes(levels, source),
    )


def _dark_notes(levels: list[float], source: str) -> tuple[str, ...]:
    """Return a sentence if images with 16 bits use so few of them that they are almost black."""
    brightest = max(levels, default=1.0)
    if brightest > DARK:
        return ()
    return (
        f"The {len(levels):,} images of {source} with 16 bits fill {brightest:.0%} of their range,"
        f" up to {round(brightest * WHITE):,} of {WHITE:,}, so that they are dark; multiply their"
        " values to fill 16 bits, or declare their range (MaxSampleValue of TIFF, maxval of PGM).",
    )


def _check_same_square(image: np.ndarray, name: str, first: np.ndarray, first_name: str) -> None:
    height, width = image.shape[:2]
    first_height, first_width = first.shape[:2]
    advice = "Give `side`, in pixels, to resize and crop every image to a square."
    if (height, width) != (first_height, first_width):
        raise UserError(
            f"All images must have one size, got {first_width} x {first_height} for {first_name}"
            f" and {width} x {height} for {name}. {advice}"
        )
    if height != width:
        raise UserError(f"Images must be square, got {width} x {height} for {name}. {advice}")
