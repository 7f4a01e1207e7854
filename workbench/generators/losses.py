"""The loss of a flow at fixed times with fixed noise.

The training loss is taken at random times and cannot be compared between models. Here every model
is given the same noise to data ratios, and its error is that of the linear path's velocity,
for every path and prediction. So SiT and DiT share a scale; two tokenizers share one if
their latents have the same number of dimensions, L * d.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError
from workbench.generators.interpolants import interpolant, time_at

if TYPE_CHECKING:
    from workbench.generators.transformer import SiT

EVAL_BATCH = 512  # images per batch


@dataclass(frozen=True)
class LossByTime:
    """Mean squared error of the linear path's velocity, per dimension of standardized latents.

    The times are the middles of equal bins. For Gaussian latents with eigenvalues l of the
    covariance, no model has a smaller error than the mean of l / (t^2 + (1 - t)^2 l); the analysis
    `velocity_variance` draws it next to the loss. The error of a predicted noise is weighted by
    1 / (1 - t)^2: near t = 1 that is a property of predicting noise, not of the latents.
    """

    t: Float[Tensor, " bins"]  # of the linear path: 0 data, 1 noise
    velocity: Float[Tensor, " bins"]  # mean squared error of the velocity
    numbers: int  # L * d of an image

    @property
    def mean(self) -> float:
        """The mean over all bins."""
        return self.velocity.mean().item()


@torch.no_grad()
def loss_by_time(
    model: "SiT",
    latents: Float[Tensor, "m n d"],
    labels: Int[Tensor, " m"],
    *,
    bins: int = 10,
    seed: int = 0,
) -> LossByTime:
    """Measure a model on latents that it was not trained on, in equal bins of time.

    Parameters
    ----------
    model : SiT
        A flow or diffusion model.
    latents : Tensor of shape (n_images, n_tokens, dim)
        Latents as the tokenizer returns them.
    labels : Tensor of int, shape (n_images,)
        Classes.
    bins : int
        Number of bins.
    seed : int
        Seed of the noise.

    Raises
    ------
    UserError
        If there are no latents or no bins.
    """
    if bins < 1 or not len(latents):
        raise UserError(
            f"The loss by time needs at least 1 bin and 1 image, got {bins} bins and"
            f" {len(latents)} images."
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    data = model.standardize(latents)
    centers = (torch.arange(bins, device=data.device, dtype=data.dtype) + 0.5) / bins
    batches = list(
        zip(data.split(EVAL_BATCH), noise.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True)
    )
    totals = data.new_zeros(bins)
    for i, t in enumerate(centers):
        for batch in batches:
            totals[i] += _squared_error(model, t, *batch)
    return LossByTime(
        t=centers.cpu(), velocity=(totals / data.numel()).cpu(), numbers=data[0].numel()
    )


def _squared_error(
    model: "SiT",
    t: Float[Tensor, ""],
    data: Float[Tensor, "b n d"],
    noise: Float[Tensor, "b n d"],
    labels: Tensor,
) -> Float[Tensor, ""]:
    path = model.config.path
    point = interpolant(path, time_at(path, t.logit().expand(len(data))))
    x = point.mix(data, noise)
    velocity = model.velocity(x, point.t, labels)
    linear_velocity = point.noise(x, velocity) - point.data(x, velocity)
    return (linear_velocity - (noise - data)).square().sum()
