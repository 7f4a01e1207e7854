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
