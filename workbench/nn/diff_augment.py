"""DiffAugment (arXiv:2006.10738): differentiable augmentations of what a discriminator sees.

Color, translation and cutout are applied one after another, each with the same probability, to all
images of a batch together. Their amounts differ between images.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.core.batch_shares import batch_draws, item_draws
from workbench.core.types import Images

TRANSLATION = 1 / 8  # largest shift, as a fraction of the side
CUTOUT = 0.2  # side of the square, as a fraction of the side


def diff_augment(images: Images, *, probability: float, cutout: float = CUTOUT) -> Images:
    """Augment a batch of images.

    Parameters
    ----------
    images : Tensor, shape (batch, channels, height, width)
        Images in [-1, 1], where 0 fills the areas that are shifted in or cut out.
    probability : float
        Probability of each of the three augmentations; with 0, nothing is drawn.
    cutout : float
        Side of the square that is cut out, as a fraction of the side of the image.

    Returns
    -------
    Tensor, shape (batch, channels, height, width)
        The augmented images.
    """
    if not probability:
        return images
    augmentations: list[Callable[[Images], Images]] = [
        change_colors,
        partial(translate, fraction=TRANSLATION),
        partial(cut_out, fraction=cutout),
    ]
    for augmentation in augmentations:
        if float(batch_draws(torch.rand, (1,))) < probability:
            images = augmentation(images)
    return images


def change_colors(images: Images) -> Images:
    """Add up to 0.5, scale differences of channels by up to 2, and contrast by 0.5 to 1.5."""
    brightness, saturation, contrast = (
        item_draws(torch.rand, (len(images), 1, 1, 1), device=images.device) for _ in range(3)
    )
    images = images + brightness - 0.5
    gray = images.mean(dim=1, keepdim=True)
    images = gray + 2 * saturation * (images - gray)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (images - mean)


def translate(images: Images, *, fraction: float) -> Images:
    """Shift each image by up to a fraction of its sides, and fill with 0."""
    height, width = images.shape[2:]
    most_rows = round(height * fraction)
    most_columns = round(width * fraction)
    down = _offsets(images, -most_rows, most_rows + 1)
    right = _offsets(images, -most_columns, most_columns + 1)
    padded = F.pad(images, (most_columns, most_columns, most_rows, most_rows))
    rows = torch.arange(height, device=images.device) + most_rows - down[:, None]
    columns = torch.arange(width, device=images.device) + most_columns - right[:, None]
    item = torch.arange(len(images), device=images.device)[:, None, None]
    shifted = padded.movedim(1, 3)[item, rows[:, :, None], columns[:, None, :]]
    return shifted.movedim(3, 1)


def cut_out(images: Images, *, fraction: float) -> Images:
    """Set a square of each image to 0; a part of it may be outside of the image."""
    height, width = images.shape[2:]
    rows = _outside_of_band(images, height, round(height * fraction))
    columns = _outside_of_band(images, width, round(width * fraction))
    visible = rows[:, None, :, None] | columns[:, None, None, :]
    return images * visible


def _outside_of_band(images: Images, side: int, length: int) -> Bool[Tensor, "b side"]:
    """Return False for the positions in a band of this length around a random center."""
    first = _offsets(images, 0, side + 1 - length % 2) - length // 2
    positions = torch.arange(side, device=images.device)
    return (positions < first[:, None]) | (positions >= first[:, None] + length)


def _offsets(images: Images, low: int, high: int) -> Int[Tensor, " b"]:
    """Draw a whole number from low to high - 1 per image."""
    return item_draws(partial(torch.randint, low, high), (len(images),), device=images.device)
