"""Training images with random crops and flips."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.core.augmentation import Augmentation, Draw
from workbench.core.image_size import ImageSize
from workbench.data.channels import mirror, to_tensor, with_channels
from workbench.data.resize import (
    DEFAULT_RESIZE,
    resize_and_crop,
    resize_to_cover,
    resize_without_crop,
)
from workbench.data.substitution import decode_batch

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
        height, width, channels = self.image_set.image_shape
        size = ImageSize(height, width)

        def decode(position: int, place: int) -> np.ndarray:
            picture = self._picture(indices[position], size)
            draw = self.augmentation.draw(epochs[place], indices[place])
            image = crop(picture, size, self._resize, self.augmentation, draw)
            return with_channels(image, channels)

        shape = (len(indices), height, width, channels)
        return decode_batch(shape, decode, self.image_set.source)

    @property
    def _resize(self) -> str:
        originals = self.image_set.originals
        return DEFAULT_RESIZE if originals is None else originals.decoding.resize

    def _picture(self, index: int, size: ImageSize) -> "Image.Image":
        """Return an image before it is cropped."""
        from PIL import Image

        originals = self.image_set.originals
        if originals is None:
            pixels = self.image_set.pixels[index]
            return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return originals.picture(
            index,
            size=self.augmentation.max_size(size),
            reduced=self.augmentation.reduced_decoding,
        )


def crop(
    picture: "Image.Image", size: ImageSize, resize: str, augmentation: Augmentation, draw: Draw
) -> np.ndarray:
    """Resize and crop an image by the random numbers of one draw.

    Parameters
    ----------
    picture : Image
        An image of mode L or RGB.
    size : ImageSize
        The size of the result.
    resize : {"lanczos", "bicubic", "adm"}
        The filter; see `workbench.data.resize`.
    augmentation : Augmentation
        The crop.
    draw : Draw
        The random numbers.

    Returns
    -------
    ndarray of uint8, shape (h, w, 1 or 3)
        The crop.
    """
    if augmentation.crop == "center":
        return np.atleast_3d(np.asarray(resize_and_crop(picture, size, resize)))
    if augmentation.crop == "random_resized":
        window = picture.crop(augmentation.window(picture.width, picture.height, size, draw))
        return np.atleast_3d(np.asarray(resize_without_crop(window, size, resize)))
    picture = resize_to_cover(picture, augmentation.covered_size(size, draw), resize)
    top = int(draw.top * (picture.height - size.height + 1))
    left = int(draw.left * (picture.width - size.width + 1))
    box = (left, top, left + size.width, top + size.height)
    return np.atleast_3d(np.asarray(picture.crop(box)))
