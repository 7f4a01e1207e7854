"""The loss at fixed times with fixed noise: what training's loss, taken at random times, cannot compare.

Every model is shown the same noise to data ratios, and its error is told as that of the linear path's velocity,
whatever path it walks and whatever it predicts. So SiT and DiT share a scale; two tokenizers do at equal L * d.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError
from workbench.generators.interpolants import interpolant, time_at
from workbench.generators.transformer import SiT

BATCH = 512


@dataclass(frozen=True)
class LossByTime:
    """Mean squared error of the linear path's velocity, per number of standardised latents, at the middle of bins of t.

    For Gaussian latents nobody does better than 1 / (t^2 + (1 - t)^2). The error of a predicted noise counts
    1 / (1 - t)^2 times: near t = 1 that is a property of predicting noise, not of the latents.
    """

    t: Float[Tensor, " bins"]  # the linear path's, 0 data, 1 noise
    velocity: Float[Tensor, " bins"]
    numbers: int  # L * d of an image: losses compare between tokenizers only where it is equal

    @property
    def mean(self) -> float:
        """Over all bins alike."""
        return self.velocity.mean().item()


@torch.no_grad()
def loss_by_time(
    model: SiT,
    latents: Float[Tensor, "m n d"],
    labels: Int[Tensor, " m"],
    *,
    bins: int = 10,
    seed: int = 0,
) -> LossByTime:
    """Measure a model on latents it was not trained on, in `bins` equal bins of t; the same seed gives the same noise.

    Raises UserError for no latents or no bins.
    """
    if bins < 1 or not len(latents):
        raise UserError(
            f"the loss by time needs at least 1 bin and 1 image; got {bins} and {len(latents)}."
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    data = model.standardise(latents)
    centres = (torch.arange(bins, device=data.device, dtype=data.dtype) + 0.5) / bins
    parts = list(zip(data.split(BATCH), noise.split(BATCH), labels.split(BATCH), strict=True))
    totals = torch.stack([sum(_squared_error(model, t, *part) for part in parts) for t in centres])
    return LossByTime(centres.cpu(), (totals / data.numel()).cpu(), numbers=data[0].numel())


def _squared_error(
    model: SiT,
    t: Float[Tensor, ""],
    data: Float[Tensor, "b n d"],
    noise: Float[Tensor, "b n d"],
    labels: Tensor,
) -> Float[Tensor, ""]:
    at = interpolant(model.config.path, time_at(model.config.path, t.logit().expand(len(data))))
    x = at.mix(data, noise)
    velocity = model.velocity(x, at.t, labels)
    linear = at.noise(x, velocity) - at.data(x, velocity)
    return (linear - (noise - data)).square().sum()
