"""Discrete diffusion with learned variances: training and sampling of DiT (arXiv:2212.09748).

The network predicts the noise and, for each dimension, a value that interpolates the log variance
of a reverse step between its smallest and its largest sensible value (improved DDPM,
arXiv:2102.09672). The loss is L_simple + 0.001 L_vlb, where L_vlb is the sum of the variational
bound over all 1000 timesteps, in bits per dimension, and does not train the mean.

Here: the likelihood at timestep 0 is that of bins of width 2/255, as in DiT's code, which also has
open bins at -1 and 1, since it is made for pixels. Latents have no such range, so there are none.
Probabilities are exact; the code approximates the normal distribution and bounds probabilities from
below. Timesteps are drawn with equal probability, as in the code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.core.errors import UserError
from workbench.generators.noise_schedules import NUM_TIMESTEPS, Schedule, betas

Latent = Float[Tensor, "b n d"]
Outputs = Callable[[Tensor, float], Tensor]  # (x, t) -> noise and variances
VARIATIONAL_WEIGHT = 0.001
HALF_BIN = 1 / 255


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A sequence of timesteps, all of a schedule or some of them.

    Attributes
    ----------
    betas : Tensor of float64, shape (n,)
        The variance that each step adds.
    timesteps : Tensor of int, shape (n,)
        The timestep of each step in the whole schedule.
    """

    betas: Float[Tensor, " n"]
    timesteps: Int[Tensor, " n"]

    @classmethod
    def of_schedule(cls, schedule: Schedule) -> "Diffusion":
        """Return all timesteps of a schedule."""
        return cls(betas=betas(schedule), timesteps=torch.arange(NUM_TIMESTEPS))

    def respaced(self, steps: int) -> "Diffusion":
        """Return `steps` evenly spaced timesteps with the first and the last, for sampling.

        Raises
        ------
        UserError
            If there are not that many timesteps.
        """
        count = len(self.betas)
        if not 1 <= steps <= count:
            raise UserError(f"The solver ddpm takes 1 to {count:,} steps, got {steps}.")
        stride = (count - 1) / max(1, steps - 1)
        indices = torch.tensor([round(stride * step) for step in range(steps)])
        abar = self.abar[indices]
        before = torch.cat([abar.new_ones(1), abar[:-1]])
        return Diffusion(betas=1 - abar / before, timesteps=self.timesteps[indices])

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def abar(self) -> Float[Tensor, " n"]:
        """The share of the data's variance at each step."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def abar_before(self) -> Float[Tensor, " n"]:
        """The share at the step before; 1 at the first."""
        return torch.cat([self.abar.new_ones(1), self.abar[:-1]])

    @cached_property
    def posterior_variance(self) -> Float[Tensor, " n"]:
        """The variance of x at the step before, given x and the data; 0 at the first step."""
        return self.betas * (1 - self.abar_before) / (1 - self.abar)

    @cached_property
    def log_variance_range(self) -> Float[Tensor, "2 n"]:
        """The logarithms of the posterior variance and of beta.

        The first step has the posterior variance of the second, because its own is 0.
        """
        lowest = self.posterior_variance.clone()
        lowest[0] = lowest[min(1, len(lowest) - 1)]
        if len(lowest) == 1:
            lowest = self.betas
        return torch.stack([lowest, self.betas]).log()

    def data(self, x: Latent, noise: Latent, index: Int[Tensor, " b"]) -> Latent:
        """Return the data that a predicted noise implies."""
        abar = _at(self.abar, index, x)
        return (x - (1 - abar).sqrt() * noise) / abar.sqrt()

    def posterior_mean(self, data: Latent, x: Latent, index: Int[Tensor, " b"]) -> Latent:
        """Return the mean of x at the step before, given x and the data."""
        beta, rest = self.betas, 1 - self.abar
        of_data = beta * self.abar_before.sqrt() / rest
        of_x = (1 - self.abar_before) * (1 - beta).sqrt() / rest
        return _at(of_data, index, x) * data + _at(of_x, index, x) * x

    def log_variance(self, values: Latent, index: Int[Tensor, " b"]) -> Latent:
        """Return the learned log variance: the smallest at a value of -1, the largest at 1."""
        low, high = (_at(table, index, values) for table in self.log_variance_range)
        share = (values + 1) / 2
        return share * high + (1 - share) * low


def variational_loss(
    diffusion: Diffusion,
    data: Latent,
    x: Latent,
    index: Int[Tensor, " b"],
    *,
    noise: Latent,
    values: Latent,
) -> Float[Tensor, " b"]:
    """Compute the term of the variational bound at a timestep, in bits per dimension.

    Parameters
    ----------
    diffusion : Diffusion
        The timesteps.
    data, x : Tensor, shape (batch, n_tokens, dim)
        The data, and the data with noise.
    index : Tensor of int, shape (batch,)
        The step of each item.
    noise : Tensor, shape (batch, n_tokens, dim)
        The predicted noise, without gradient.
    values : Tensor, shape (batch, n_tokens, dim)
        The predicted variances.
    """
    mean = diffusion.posterior_mean(diffusion.data(x, noise, index), x, index)
    log_variance = diffusion.log_variance(values, index)
    true_mean = diffusion.posterior_mean(data, x, index)
    true_log_variance = _at(diffusion.log_variance_range[0], index, x)
    divergence = gaussian_divergence(true_mean, true_log_variance, mean, log_variance)
    surprise = -bin_log_likelihood(data, mean, log_variance)
    is_first = (index == 0)[:, None, None]
    nats = torch.where(is_first, surprise, divergence)
    return nats.mean(dim=(1, 2)) / math.log(2)


def hybrid_loss(
    schedule: Schedule,
    data: Latent,
    x: Latent,
    times: Float[Tensor, " b"],
    *,
    noise: Latent,
    values: Latent,
) -> Float[Tensor, ""]:
    """Estimate 0.001 L_vlb from one timestep per item; see `variational_loss`."""
    index = (times * NUM_TIMESTEPS).round().long() - 1
    diffusion = Diffusion.of_schedule(schedule)
    terms = variational_loss(diffusion, data, x, index, noise=noise, values=values)
    return VARIATIONAL_WEIGHT * NUM_TIMESTEPS * terms.mean()


def gaussian_divergence(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """Compute KL(N(mean, variance) || N(other mean, other variance)), in nats.

    Examples
    --------
    >>> zero = torch.zeros(())
    >>> gaussian_divergence(torch.tensor(2.0), zero, zero, zero)
    tensor(2.)
    """
    ratio = (log_variance - other_log_variance).exp()
    distance = (mean - other_mean).square() * (-other_log_variance).exp()
    return (other_log_variance - log_variance + ratio + distance - 1) / 2


def bin_log_likelihood(data: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the log probability of a bin of width 2/255 around the data, in nats."""
    deviation = (log_variance / 2).exp()
    upper = (data - mean + HALF_BIN) / deviation
    lower = (data - mean - HALF_BIN) / deviation
    # The bin is moved to the lower tail, where log_ndtr is accurate.
    is_above = lower > 0
    log_high = torch.special.log_ndtr(torch.where(is_above, -lower, upper))
    log_low = torch.special.log_ndtr(torch.where(is_above, -upper, lower))
    return log_high + (-(log_low - log_high).expm1()).log()


def sample_ancestrally(
    outputs: Outputs,
    noise: Latent,
    diffusion: Diffusion,
    *,
    learned_variance: bool,
    generator: torch.Generator,
) -> Latent:
    """Sample the reverse steps of DDPM one after another.

    Parameters
    ----------
    outputs : callable
        Takes x and a time; returns the predicted noise and, if they are learned, the variances.
    noise : Tensor, shape (batch, n_tokens, dim)
        The noise of the last step.
    diffusion : Diffusion
        The steps.
    learned_variance : bool
        Whether variances are learned; otherwise they are beta.
    generator : torch.Generator
        The random numbers of the steps.
    """
    x = noise
    dim = x.shape[-1]
    for step in reversed(range(len(diffusion))):
        index = torch.full((len(x),), step, device=x.device)
        values = outputs(x, (int(diffusion.timesteps[step]) + 1) / NUM_TIMESTEPS)
        data = diffusion.data(x, values[..., :dim], index)
        mean = diffusion.posterior_mean(data, x, index)
        shares = values[..., dim:] if learned_variance else torch.ones_like(x)
        deviation = (diffusion.log_variance(shares, index) / 2).exp()
        if step == 0:
            return mean
        x = mean + deviation * torch.randn(x.shape, generator=generator).to(x)
    return x


def _at(table: Tensor, index: Int[Tensor, " b"], like: Tensor) -> Float[Tensor, "b 1 1"]:
    return table.to(like)[index][:, None, None]
