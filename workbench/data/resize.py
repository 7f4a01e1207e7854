"""Resizing of an image to a square, by the conventions of published models."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from workbench.core.errors import unknown

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["lanczos", "bicubic", "adm"]
DEFAULT_RESIZE: Resize = "lanczos"


def resize_and_crop(image: "Image", side: int, policy: str) -> "Image":
    """Resize the short side of an image, and crop the center to a square.

    Parameters
    ----------
    image : Image
        An image of mode L or RGB.
    side : int
        Height and width of the result, in pixels.
    policy : {"lanczos", "bicubic", "adm"}
        lanczos crops first and then resizes with a Lanczos filter. bicubic resizes with a bicubic
        filter and then crops, as torchvision does. adm halves the image by box averages while its
        short side is at least twice the target, and then continues as bicubic does.

    Raises
    ------
    UserError
        If there is no such policy.

    References
    ----------
    P. Dhariwal and A. Nichol, "Diffusion models beat GANs on image synthesis", 2021, whose code
    (guided-diffusion, `center_crop_arr`) is the policy adm.
    """
    if policy not in POLICIES:
        raise unknown("resize policy", policy, POLICIES)
    return POLICIES[policy](image, side)


def _lanczos(image: "Image", side: int) -> "Image":
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def _bicubic(image: "Image", side: int) -> "Image":
    from PIL import Image

    short = min(image.size)
    if short != side:
        width, height = (int(side * length / short) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left = round((image.width - side) / 2)
    top = round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _adm(image: "Image", side: int) -> "Image":
    from PIL import Image

    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


POLICIES: Mapping[str, Callable[["Image", int], "Image"]] = {
    "lanczos": _lanczos,
    "bicubic": _bicubic,
    "adm": _adm,
}
