"""Training images with random crops and flips."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.augmentation import Augmentation, Draw
from workbench.data.channels import mirror, to_tensor, with_channels
from workbench.data.lazy import GRAY
from workbench.data.resize import (
    DEFAULT_RESIZE,
    resize_and_crop,
    resize_short_side,
    resize_to_square,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from workbench.data.images import ImageSet


@dataclass(frozen=True, eq=False)
class AugmentedImages:
    """The training images of a set, each cropped and flipped anew in every epoch.

    Attributes
    ----------
    image_set : ImageSet
        The images.
    augmentation : Augmentation
        The crops and flips.
    """

    image_set: "ImageSet"
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.image_set)

    def batch(self, indices: "Tensor") -> "tuple[Tensor]":
        """Return images without augmentation, float32 (b, c, h, w) in [-1, 1]."""
        return self.image_set.batch(indices)

    def augmented_batch(self, indices: "Tensor", epochs: "Tensor") -> "tuple[Tensor]":
        """Return images of certain epochs.

        Parameters
        ----------
        indices : Tensor of int64, shape (b,)
            The images.
        epochs : Tensor of int64, shape (b,)
            The epoch of each image, which decides on its crop and flip.

        Returns
        -------
        tuple of one Tensor of uint8, shape (b, c, h, w)
            The images.
        """
        if self.augmentation.needs_originals:
            pixels = self._crop(indices.tolist(), epochs.tolist())
        else:
            pixels = self.image_set.read(indices)
        images = to_tensor(pixels)
        if self.augmentation.flip > 0:
            draws = map(self.augmentation.draw, epochs.tolist(), indices.tolist())
            mirror(images, [self.augmentation.is_flipped(draw) for draw in draws])
        return (images,)

    def _crop(self, indices: list[int], epochs: list[int]) -> np.ndarray:
        side, _, channels = self.image_set.image_shape
        pixels = np.full((len(indices), side, side, channels), GRAY, np.uint8)
        for position, (index, epoch) in enumerate(zip(indices, epochs, strict=True)):
            picture = self._picture(index, side)
            if picture is not None:
                draw = self.augmentation.draw(epoch, index)
                image = crop(picture, side, self._resize, self.augmentation, draw)
                pixels[position] = with_channels(image, channels)
        return pixels

    @property
    def _resize(self) -> str:
        originals = self.image_set.originals
        return DEFAULT_RESIZE if originals is None else originals.decoding.resize

    def _picture(self, index: int, side: int) -> "Image.Image | None":
        """Return an image before it is cropped; None if it is damaged."""
        from PIL import Image

        originals = self.image_set.originals
        if originals is None:
            pixels = self.image_set.pixels[index]
            return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return originals.picture(
            index,
            short=self.augmentation.max_short_side(side),
            reduced=self.augmentation.reduced_decoding,
        )


def crop(
    picture: "Image.Image", side: int, resize: str, augmentation: Augmentation, draw: Draw
) -> np.ndarray:
    """Resize and crop an image by the random numbers of one draw.

    Parameters
    ----------
    picture : Image
        An image of mode L or RGB.
    side : int
        Height and width of the result, in pixels.
    resize : {"lanczos", "bicubic", "adm"}
        The filter; see `workbench.data.resize`.
    augmentation : Augmentation
        The crop.
    draw : Draw
        The random numbers.

    Returns
    -------
    ndarray of uint8, shape (side, side, 1 or 3)
        The crop.
    """
    if augmentation.crop == "center":
        return np.atleast_3d(np.asarray(resize_and_crop(picture, side, resize)))
    if augmentation.crop == "random_resized":
        window = picture.crop(augmentation.window(picture.width, picture.height, draw))
        return np.atleast_3d(np.asarray(resize_to_square(window, side, resize)))
    picture = resize_short_side(picture, augmentation.short_side(side, draw), resize)
    top = int(draw.top * (picture.height - side + 1))
    left = int(draw.left * (picture.width - side + 1))
    return np.atleast_3d(np.asarray(picture.crop((left, top, left + side, top + side))))
