"""Image files of any kind, good or bad, to 8-bit squares: what can be converted is, the rest is named and skipped."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SMALLEST = 8  # pixels on the short side
STRETCH = 4  # the most an image is enlarged
SLOW = 2000  # images from which a progress bar is shown


def decode(content: Path | bytes | None, name: str, side: int | None = None) -> np.ndarray:
    """One image, uint8 (h, w, 1 or 3): short side resized to `side`, centre cropped (None: as it is).

    The first frame, upright by its EXIF orientation; 16 bits become 8, palettes and CMYK become RGB, transparency is
    laid on white. Raises UserError, in one sentence with the name, for what cannot be an image of that side.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        data = content.read_bytes() if isinstance(content, Path) else content
        if not data:
            raise UserError(f"{name} is empty.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image, name, side)
                image = _eight_bit(ImageOps.exif_transpose(image), name)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image that Pillow can read.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller."
        ) from None
    except (
        Exception
    ) as error:  # Pillow's readers raise OSError, SyntaxError, EOFError, struct.error and more
        reason = getattr(error, "strerror", None) or error
        truncated = "truncated" in str(error).lower()
        raise UserError(
            f"{name} is truncated." if truncated else f"{name} cannot be read ({reason})."
        ) from None
    if side is not None:
        image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(image))


def _check_size(image: "Image.Image", name: str, side: int | None) -> None:
    least = max(SMALLEST, -(-(side or 0) // STRETCH))
    if min(image.size) < least:
        raise UserError(
            f"{name} is {image.width} x {image.height} pixels; the short side must have at least {least}."
        )


def _eight_bit(image: "Image.Image", name: str) -> "Image.Image":
    """An image in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith(
        "I"
    ):  # I;16 in its byte orders, or I, which is how some 16-bit files are opened
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"{name} has 32-bit pixels; save it with 8 or 16 bits.")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise UserError(
            f"{name} has floating-point pixels, whose range is unknown; save it with 8 or 16 bits."
        )
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def decode_all(
    contents: Iterable[tuple[str, Path | bytes | None]],
    *,
    count: int,
    side: int | None,
    source: str,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Decode named images into one array; damaged ones are skipped.

    Returns pixels uint8 (n, side, side, 1 or 3), which of the contents they are, int64 (n,), and a sentence for each
    that was skipped. Raises UserError where nothing is left, and where no side is given and the sizes differ.
    """
    from tqdm import tqdm

    images, kept, skipped, first = [], [], [], ""
    progress = tqdm(
        contents, total=count, desc=f"reading {source}", unit=" images", disable=count <= SLOW
    )
    for position, (name, content) in enumerate(progress):
        try:
            image = decode(content, name, side)
        except UserError as error:
            skipped.append(str(error))
            continue
        first = first or name
        _check_square(image, name, images[0] if images else image, first)
        images.append(image)
        kept.append(position)
    if not images:
        reasons = " ".join(skipped[:3]) or "there is nothing in it."
        raise UserError(f"{source} holds no usable image: {reasons}")
    channels = max(image.shape[-1] for image in images)
    alike = [np.broadcast_to(image, (*image.shape[:2], channels)) for image in images]
    return np.stack(alike), np.array(kept, np.int64), tuple(skipped)


def _check_square(image: np.ndarray, name: str, other: np.ndarray, first: str) -> None:
    (height, width), (other_height, other_width) = image.shape[:2], other.shape[:2]
    advice = "Give `side`, in pixels, and every image is resized and cropped to that square."
    if (height, width) != (other_height, other_width):
        raise UserError(
            f"{first} is {other_width} x {other_height} pixels, but {name} is {width} x {height}. {advice}"
        )
    if height != width:
        raise UserError(f"{name} is {width} x {height} pixels, not square. {advice}")
