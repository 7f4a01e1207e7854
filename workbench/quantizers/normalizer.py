"""Features made comparable before they are clustered; the statistics are kept for what is encoded later.

As they are, a few channels of large variance decide all distances between a network's features.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Normalise = Literal["none", "unit", "channel", "whiten"]

LEAST = 0.01  # of the median deviation; below it a channel says nothing, and must not be blown up
TINY = 1e-6


class Normalizer(nn.Module):
    """(x - mean) matrix, and for "unit" that divided by its norm. Before `fit` it only drops channels.

    none: features as they are; channel: mean 0 and variance 1 in each channel; whiten: that in each principal axis.
    Where `dim` is less than the features' channels, so many principal axes are kept.
    """

    mean: Float[Tensor, " e"]
    matrix: Float[Tensor, "e d"]

    def __init__(self, normalise: Normalise, *, channels: int, dim: int) -> None:
        super().__init__()
        self.normalise = normalise
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels, dim))

    @property
    def fitted(self) -> bool:
        """Whether it has statistics."""
        return bool(self.mean.any()) or not torch.equal(
            self.matrix, torch.eye(*self.matrix.shape).to(self.matrix)
        )

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "t e"]) -> None:
        """Take the statistics of these features."""
        channels, dim = self.matrix.shape
        mean = features.mean(dim=0, dtype=torch.float64)
        spread = torch.zeros(channels, channels, dtype=torch.float64, device=features.device)
        for piece in features.split(65536):
            spread += (centred := piece.double() - mean).T @ centred / len(features)
        deviation = (
            _floored(spread.diagonal().sqrt())
            if self.normalise == "channel"
            else torch.ones_like(mean)
        )
        axes = torch.eye(channels, dtype=torch.float64, device=features.device)
        if dim < channels or self.normalise == "whiten":
            variances, axes = torch.linalg.eigh(spread / torch.outer(deviation, deviation))
            axes = axes.flip(1)[:, :dim]
            if self.normalise == "whiten":
                axes = axes / _floored(variances.flip(0).clamp(min=0).sqrt())[:dim]
        self.mean.copy_(mean if self.normalise in ("channel", "whiten") else torch.zeros_like(mean))
        self.matrix.copy_(axes / deviation[:, None])

    def forward(self, x: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch d"]:
        """Normalise, in single precision."""
        with torch.autocast(
            x.device.type, enabled=False
        ):  # half precision would decide near ties by rounding
            x = (x.float() - self.mean) @ self.matrix
        return F.normalize(x, dim=-1) if self.normalise == "unit" else x


def _floored(deviations: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
    return deviations.clamp(min=max(TINY, LEAST * deviations.median().item()))
