"""Distance between images in the feature space of a frozen network: LPIPS without its learned
weights.

LPIPS (arXiv:1801.03924) learned one weight per channel from human judgments, on networks trained on
ImageNet. This distance weights all channels of the given network equally.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def feature_distance(
    maps: Sequence[Float[Tensor, "b _e _h _w"]],
    reference_maps: Sequence[Float[Tensor, "b _e _h _w"]],
) -> Float[Tensor, ""]:
    """Compute the mean squared distance between the unit-normalized features of two batches.

    Parameters
    ----------
    maps, reference_maps : sequence of Tensor, shape (batch, channels, height, width)
        Feature maps of both batches, one pair per layer.

    Returns
    -------
    Tensor, shape ()
        Mean over layers, positions and images, in [0, 4].
    """
    distances = [
        (_unit(layer) - _unit(reference)).square().sum(dim=1).mean()
        for layer, reference in zip(maps, reference_maps, strict=True)
    ]
    return torch.stack(distances).mean()


def _unit(maps: Tensor) -> Tensor:
    return F.normalize(maps, dim=1, eps=1e-6)
