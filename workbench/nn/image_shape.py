"""Check that images have the shape a network was built for."""

from workbench.core.errors import UserError
from workbench.core.types import Images


def check_image_shape(images: Images, *, channels: int, side: int) -> None:
    """Raise UserError if the images are not `channels` x `side` x `side`."""
    expected = (channels, side, side)
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
