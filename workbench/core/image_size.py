"""The height and width of images.

Settings and files hold a `Side`: an integer for square images, which most are, and an `ImageSize`
for others. Text and JSON of an `ImageSize` are height x width, as in `128x256`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.core.errors import UserError

MAX_SIDE = 2**16  # pixels; a larger number is a mistake


class ImageSize(NamedTuple):
    """The size of images in pixels.

    Attributes
    ----------
    height, width : int
        Both at least 1.
    """

    height: int
    width: int

    @classmethod
    def of(cls, side: object, name: str = "side", *, low: int = 1) -> "ImageSize":
        """Return the size that a side, a text or a pair of numbers describes.

        Parameters
        ----------
        side : int, str or pair of int
            256 for 256 x 256 pixels; (128, 256) or "128x256" for a height and a width.
        name : str
            The name of the setting, for the error.
        low : int
            The smallest height and width.

        Raises
        ------
        UserError
            If it is none of these, or a number is too small or too large.

        Examples
        --------
        >>> ImageSize.of("128x256")
        ImageSize(height=128, width=256)
        >>> ImageSize.of(32)
        ImageSize(height=32, width=32)
        """
        parts: Sequence[Any]
        if isinstance(side, str):
            parts = side.lower().replace("×", "x").split("x")
        elif isinstance(side, Sequence) and not isinstance(side, bytes | bytearray):
            parts = side
        else:
            parts = (side,)
        numbers = [_whole_number(part) for part in parts]
        if len(numbers) not in (1, 2) or None in numbers:
            raise UserError(
                f"{name} must be a number of pixels, as in 256, or a height and a width, as in "
                f"128x256; got `{side}`."
            )
        height, width = numbers[0], numbers[-1]
        assert height is not None and width is not None
        if min(height, width) < low:
            raise UserError(f"{name} must be at least {low}, got {min(height, width)}.")
        if max(height, width) > MAX_SIDE:
            raise UserError(f"{name} must be at most {MAX_SIDE:,}, got {max(height, width):,}.")
        return cls(height, width)

    @property
    def is_square(self) -> bool:
        """True if the height is the width."""
        return self.height == self.width

    @property
    def side(self) -> "Side":
        """The size as settings hold it: one number if it is square."""
        return self.height if self.is_square else self

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    def with_short_side(self, length: int) -> "ImageSize":
        """Return the size, scaled so that the short side has a length; the other is rounded up.

        Parameters
        ----------
        length : int
            The length in pixels.
        """
        short = min(self)
        return ImageSize(-(-self.height * length // short), -(-self.width * length // short))

    def transposed(self) -> "ImageSize":
        """Return the size with height and width exchanged."""
        return ImageSize(self.width, self.height)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


Side = int | ImageSize
AnySide = Side | str | Sequence[int]  # what `ImageSize.of` accepts


def as_side(side: object, name: str = "side") -> Side:
    """Return a side as settings hold it: an integer if the size is square.

    Parameters
    ----------
    side : int, str or pair of int
        The size; see `ImageSize.of`.
    name : str
        The name of the setting, for the error.

    Raises
    ------
    UserError
        If it is not a size.

    Examples
    --------
    >>> as_side("64x64"), as_side((32, 64))
    (64, ImageSize(height=32, width=64))
    """
    return ImageSize.of(side, name).side


def _whole_number(part: Any) -> int | None:
    """Return an integer, also of a text such as 1e3; None if it is none."""
    if isinstance(part, bool | bytes | bytearray):
        return None
    try:
        number = float(part)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None
