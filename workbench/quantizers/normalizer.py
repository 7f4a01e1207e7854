"""Normalization of features before they are clustered, with statistics that later features reuse.

Without it, a few channels of large variance dominate all distances between the features of a
network.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Normalization = Literal["none", "unit", "channel", "whiten"]

# Of the median deviation; channels below it are noise and must not be amplified.
MIN_RELATIVE_DEVIATION = 0.01
MIN_DEVIATION = 1e-6
ROWS_PER_CHUNK = 65536


class Normalizer(nn.Module):
    """Compute (x - mean) matrix and, for "unit", divide the result by its norm.

    Before `fit`, it only drops channels.

    Parameters
    ----------
    normalize : {"none", "unit", "channel", "whiten"}
        Leave features as they are; scale to unit norm; mean 0 and variance 1 per channel; or the
        same per principal axis.
    channels : int
        Channels of the features.
    dim : int
        Channels of the output. If there are fewer than `channels`, they are that many principal
        axes.
    """

    mean: Float[Tensor, " e"]
    matrix: Float[Tensor, "e d"]

    def __init__(self, normalize: Normalization, *, channels: int, dim: int) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels, dim))

    @property
    def is_fitted(self) -> bool:
        """Return whether there are statistics."""
        identity = torch.eye(*self.matrix.shape).to(self.matrix)
        return bool(self.mean.any()) or not torch.equal(self.matrix, identity)

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "t e"]) -> None:
        """Compute the statistics of features of shape (tokens, channels)."""
        channels, dim = self.matrix.shape
        mean = features.mean(dim=0, dtype=torch.float64)
        covariance = torch.zeros(channels, channels, dtype=torch.float64, device=features.device)
        for chunk in features.split(ROWS_PER_CHUNK):
            centered = chunk.double() - mean
            covariance += centered.T @ centered / len(features)
        deviation = torch.ones_like(mean)
        if self.normalize == "channel":
            deviation = _clamp_deviations(covariance.diagonal().sqrt())
        axes = torch.eye(channels, dtype=torch.float64, device=features.device)
        if dim < channels or self.normalize == "whiten":
            variances, axes = torch.linalg.eigh(covariance / torch.outer(deviation, deviation))
            axes = axes.flip(1)[:, :dim]
            if self.normalize == "whiten":
                axes = axes / _clamp_deviations(variances.flip(0).clamp(min=0).sqrt())[:dim]
        is_centered = self.normalize in ("channel", "whiten")
        self.mean.copy_(mean if is_centered else torch.zeros_like(mean))
        self.matrix.copy_(axes / deviation[:, None])

    def forward(self, x: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch d"]:
        """Normalize features, in single precision."""
        # Half precision would decide near ties by rounding.
        with torch.autocast(x.device.type, enabled=False):
            x = (x.float() - self.mean) @ self.matrix
        return F.normalize(x, dim=-1) if self.normalize == "unit" else x


def _clamp_deviations(deviations: Float[Tensor, " e"]) -> Float[Tensor, " e"]:
    smallest = MIN_RELATIVE_DEVIATION * deviations.median().item()
    return deviations.clamp(min=max(MIN_DEVIATION, smallest))
