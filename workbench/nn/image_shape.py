"""Check the size of images: of a network's settings, and of the images that it receives."""

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.core.types import Images


def check_multiple(size: ImageSize, multiple: int, name: str) -> None:
    """Raise UserError unless height and width are multiples of a number.

    Parameters
    ----------
    size : ImageSize
        The size of a network's images.
    multiple : int
        The number.
    name : str
        Its name, for the error.
    """
    if not (size.height % multiple or size.width % multiple):
        return
    if not size.is_square:
        raise UserError(
            f"side must have a height and a width that are multiples of {name} {multiple}, got "
            f"{size}."
        )
    below = size.height // multiple * multiple
    nearest = f"{below} or {below + multiple}" if below else f"{multiple}"
    raise UserError(
        f"side must be a multiple of {name} {multiple}, got {size.height}. Use {nearest}."
    )


def check_image_shape(images: Images, *, channels: int, size: ImageSize) -> None:
    """Raise UserError if the images are not `channels` x height x width of the size."""
    expected = (channels, *size)
    if tuple(images.shape[1:]) != expected:
        got = " x ".join(map(str, images.shape[1:]))
        raise UserError(
            f"images must be {' x '.join(map(str, expected))} for this tokenizer, got {got}."
        )


def check_image_multiple(images: Images, *, channels: int, multiple: int) -> None:
    """Raise UserError if a side of the images is not a multiple, or their channels differ."""
    got_channels, height, width = images.shape[1:]
    if got_channels != channels or not height or not width or height % multiple or width % multiple:
        raise UserError(
            f"images must be {channels} x height x width with sides that are multiples of "
            f"{multiple} for this tokenizer, got {got_channels} x {height} x {width}."
        )
