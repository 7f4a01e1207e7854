"""Resizing of an image to a size, by the conventions of published models.

The conventions are for squares, where the short side of an image decides. For other sizes, the
image is resized until it just covers the size, which is the same for a square.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from workbench.core.errors import unknown
from workbench.core.image_size import ImageSize

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["lanczos", "bicubic", "adm"]
DEFAULT_RESIZE: Resize = "lanczos"


def resize_and_crop(image: "Image", size: ImageSize, policy: str) -> "Image":
    """Resize an image until it just covers a size, and crop the center.

    Parameters
    ----------
    image : Image
        An image of mode L or RGB.
    size : ImageSize
        The size of the result.
    policy : {"lanczos", "bicubic", "adm"}
        lanczos crops first and then resizes with a Lanczos filter. bicubic resizes with a bicubic
        filter and then crops, as torchvision does. adm halves the image by box averages while both
        of its sides are at least twice the target, and then continues as bicubic does.

    Raises
    ------
    UserError
        If there is no such policy.

    References
    ----------
    P. Dhariwal and A. Nichol, "Diffusion models beat GANs on image synthesis", 2021, whose code
    (guided-diffusion, `center_crop_arr`) is the policy adm.
    """
    return _find(POLICIES, policy)(image, size)


def resize_to_cover(image: "Image", size: ImageSize, policy: str) -> "Image":
    """Resize an image until it just covers a size; the ratio of its sides stays.

    Parameters
    ----------
    image : Image
        An image of mode L or RGB.
    size : ImageSize
        The size to cover: one side of the result has this length, the other at least this length.
    policy : {"lanczos", "bicubic", "adm"}
        The filter, as for `resize_and_crop`.

    Raises
    ------
    UserError
        If there is no such policy.
    """
    return _find(COVERING_POLICIES, policy)(image, size)


def resize_without_crop(image: "Image", size: ImageSize, policy: str) -> "Image":
    """Resize an image to a size without cropping it, so that the ratio of its sides may change.

    Parameters
    ----------
    image : Image
        An image of mode L or RGB.
    size : ImageSize
        The size of the result.
    policy : {"lanczos", "bicubic", "adm"}
        lanczos has a Lanczos filter, the others have a bicubic filter.
    """
    from PIL import Image

    is_lanczos = policy == "lanczos"
    return image.resize(
        (size.width, size.height),
        Image.Resampling.LANCZOS if is_lanczos else Image.Resampling.BICUBIC,
    )


def _find(
    table: Mapping[str, Callable[["Image", ImageSize], "Image"]], policy: str
) -> Callable[["Image", ImageSize], "Image"]:
    if policy not in table:
        raise unknown("resize policy", policy, table)
    return table[policy]


def _binding_lengths(image: "Image", size: ImageSize) -> tuple[int, int]:
    """Return the length of the side that decides on the scale, and the length it is to have."""
    is_height = size.height * image.width >= size.width * image.height
    return (image.height, size.height) if is_height else (image.width, size.width)


def _scaled(image: "Image", size: ImageSize) -> tuple[int, int]:
    """Return the width and height of an image that covers a size, rounded."""
    length, target = _binding_lengths(image, size)
    scale = target / length
    return round(image.width * scale), round(image.height * scale)


def _lanczos(image: "Image", size: ImageSize) -> "Image":
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size.width, size.height), Image.Resampling.LANCZOS)


def _lanczos_cover(image: "Image", size: ImageSize) -> "Image":
    from PIL import Image

    return image.resize(_scaled(image, size), Image.Resampling.LANCZOS)


def _bicubic(image: "Image", size: ImageSize) -> "Image":
    image = _bicubic_cover(image, size)
    left = round((image.width - size.width) / 2)
    top = round((image.height - size.height) / 2)
    return image.crop((left, top, left + size.width, top + size.height))


def _bicubic_cover(image: "Image", size: ImageSize) -> "Image":
    from PIL import Image

    length, target = _binding_lengths(image, size)
    if length == target:
        return image
    width, height = (int(target * pixels / length) for pixels in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _adm(image: "Image", size: ImageSize) -> "Image":
    image = _adm_cover(image, size)
    left = (image.width - size.width) // 2
    top = (image.height - size.height) // 2
    return image.crop((left, top, left + size.width, top + size.height))


def _adm_cover(image: "Image", size: ImageSize) -> "Image":
    from PIL import Image

    while image.height >= 2 * size.height and image.width >= 2 * size.width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image.resize(_scaled(image, size), Image.Resampling.BICUBIC)


POLICIES: Mapping[str, Callable[["Image", ImageSize], "Image"]] = {
    "lanczos": _lanczos,
    "bicubic": _bicubic,
    "adm": _adm,
}
COVERING_POLICIES: Mapping[str, Callable[["Image", ImageSize], "Image"]] = {
    "lanczos": _lanczos_cover,
    "bicubic": _bicubic_cover,
    "adm": _adm_cover,
}
