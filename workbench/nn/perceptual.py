"""A distance between images in the feature space of a frozen network: LPIPS (arXiv:1801.03924) without its weights.

LPIPS learned a weight for each channel from people's judgements, on networks trained on ImageNet; this one counts all
channels of whatever network it is given alike.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def feature_distance(
    one: Sequence[Float[Tensor, "b _e _h _w"]], other: Sequence[Float[Tensor, "b _e _h _w"]]
) -> Float[Tensor, ""]:
    """Mean over layers, places and images of the squared distance between unit features; 0 to 4."""
    layers = [
        (_unit(a) - _unit(b)).square().sum(dim=1).mean() for a, b in zip(one, other, strict=True)
    ]
    return torch.stack(layers).mean()


def _unit(maps: Tensor) -> Tensor:
    return F.normalize(maps, dim=1, eps=1e-6)
