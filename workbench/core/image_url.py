"""Images as `data:` addresses, which HTML pages and figures contain as text."""

import base64
import io
from typing import Any

import numpy as np

WEBP_QUALITY = 85


def png_url(pixels: np.ndarray) -> str:
    """Encode an image, uint8 (h, w, 1, 3 or 4), as a lossless `data:` address."""
    return _image_url(pixels, "png")


def webp_url(pixels: np.ndarray) -> str:
    """Encode an image, uint8 (h, w, 1 or 3), as a small, slightly lossy `data:` address."""
    return _image_url(pixels, "webp", quality=WEBP_QUALITY)


def _image_url(pixels: np.ndarray, image_format: str, **options: Any) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"
