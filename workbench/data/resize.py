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
    return _find(POLICIES, policy)(image, side)


def resize_short_side(image: "Image", short: int, policy: str) -> "Image":
    """Resize an image so that its short side has a length; the ratio of its sides stays.

    Parameters
    ----------
    image : Image
        An image of mode L or RGB.
    short : int
        Length of the short side of the result, in pixels.
    policy : {"lanczos", "bicubic", "adm"}
        The filter, as for `resize_and_crop`.

    Raises
    ------
    UserError
        If there is no such policy.
    """
    return _find(SHORT_SIDE_POLICIES, policy)(image, short)


def resize_to_square(image: "Image", side: int, policy: str) -> "Image":
    """Resize an image to a square without cropping it, so that the ratio of its sides changes.

    Parameters
    ----------
    image : Image
        An image of mode L or RGB.
    side : int
        Height and width of the result, in pixels.
    policy : {"lanczos", "bicubic", "adm"}
        lanczos has a Lanczos filter, the others have a bicubic filter.
    """
    from PIL import Image

    is_lanczos = policy == "lanczos"
    return image.resize(
        (side, side), Image.Resampling.LANCZOS if is_lanczos else Image.Resampling.BICUBIC
    )


def _find(
    table: Mapping[str, Callable[["Image", int], "Image"]], policy: str
) -> Callable[["Image", int], "Image"]:
    if policy not in table:
        raise unknown("resize policy", policy, table)
    return table[policy]


def _lanczos(image: "Image", side: int) -> "Image":
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def _lanczos_short(image: "Image", short: int) -> "Image":
    from PIL import Image

    scale = short / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _bicubic(image: "Image", side: int) -> "Image":
    image = _bicubic_short(image, side)
    left = round((image.width - side) / 2)
    top = round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _bicubic_short(image: "Image", short: int) -> "Image":
    from PIL import Image

    length = min(image.size)
    if length == short:
        return image
    width, height = (int(short * pixels / length) for pixels in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _adm(image: "Image", side: int) -> "Image":
    image = _adm_short(image, side)
    left = (image.width - side) // 2
    top = (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _adm_short(image: "Image", short: int) -> "Image":
    from PIL import Image

    while min(image.size) >= 2 * short:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = short / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


POLICIES: Mapping[str, Callable[["Image", int], "Image"]] = {
    "lanczos": _lanczos,
    "bicubic": _bicubic,
    "adm": _adm,
}
SHORT_SIDE_POLICIES: Mapping[str, Callable[["Image", int], "Image"]] = {
    "lanczos": _lanczos_short,
    "bicubic": _bicubic_short,
    "adm": _adm_short,
}
