"""Discrete noise schedules and learned variances, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from workbench.core.errors import UserError
from workbench.generators.diffusion import (
    Diffusion,
    bin_log_likelihood,
    gaussian_divergence,
    sample_ancestrally,
    variational_loss,
)
from workbench.generators.interpolants import interpolant, sample_times, time_at
from workbench.generators.noise_schedules import SCHEDULES, betas
from workbench.generators.transformer import SiT

DIT = {
    "num_tokens": 4,
    "dim": 3,
    "classes": 2,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "path": "ddpm-linear",
    "predict": "noise",
    "times": "timesteps",
    "learned_variance": True,
    "time_embedding": "timestep",
    "solver": "ddpm",
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def test_schedules_have_the_published_values():
    linear, cosine = betas("ddpm-linear"), betas("ddpm-cosine")
    assert linear[0] == 1e-4 and linear[-1] == 0.02 and len(linear) == len(cosine) == 1000
    assert cosine.max() == 0.999
    middle = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2
    first = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert (1 - cosine[:500]).prod().item() == pytest.approx(middle / first)


@each_schedule
def test_path_follows_the_schedule(schedule):
    """At timesteps the coefficients are those of DDPM; between them slopes are derivatives."""
    index = torch.tensor([0, 3, 500, 900])
    point = interpolant(schedule, (index.double() + 1) / 1000)
    abar = Diffusion.of_schedule(schedule).abar[index]
    torch.testing.assert_close(point.alpha.flatten().square(), abar)
    torch.testing.assert_close(point.sigma.flatten().square(), 1 - abar)
    t = torch.tensor([0.0124, 0.3336, 0.8001], dtype=torch.float64)
    h = 1e-8
    low, high, here = (interpolant(schedule, t + shift) for shift in (-h, h, 0))
    for name in ("alpha", "sigma"):
        slope = (getattr(high, name) - getattr(low, name)) / (2 * h)
        torch.testing.assert_close(getattr(here, f"{name}_slope"), slope, rtol=1e-5, atol=1e-5)
    ratio = (here.sigma / here.alpha).log().flatten()
    torch.testing.assert_close(time_at(schedule, ratio), t)


def test_times_are_timesteps():
    torch.manual_seed(0)
    times = sample_times("timesteps", "ddpm-linear", 20_000, torch.zeros(1)) * 1000
    assert torch.allclose(times, times.round(), atol=1e-3)
    assert times.min() >= 1 and times.max() <= 1000
    assert abs(times.mean().item() - 500.5) < 8


@each_schedule
def test_posterior_is_that_of_bayes(schedule):
    """q(x_before | x, data) from the product of two Gaussians in x_before."""
    diffusion = Diffusion.of_schedule(schedule).respaced(20)
    step, data, x = 7, 0.3, -0.8
    before, beta = diffusion.abar[step - 1].item(), diffusion.betas[step].item()
    precision = 1 / (1 - before) + (1 - beta) / beta
    mean = (math.sqrt(before) * data / (1 - before) + math.sqrt(1 - beta) * x / beta) / precision
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    index = torch.tensor([step])
    assert diffusion.posterior_mean(data * one, x * one, index).item() == pytest.approx(mean)
    assert diffusion.posterior_variance[step].item() == pytest.approx(1 / precision)


def test_variances_are_interpolated_in_logarithms():
    diffusion = Diffusion.of_schedule("ddpm-linear")
    index = torch.tensor([0, 400])
    low = diffusion.posterior_variance[[1, 400]]  # that of the first step is 0
    high = diffusion.betas[index]
    for value, expected in ((-1.0, low), (1.0, high), (0.0, (low * high).sqrt())):
        values = torch.full((2, 1, 1), value, dtype=torch.float64)
        torch.testing.assert_close(diffusion.log_variance(values, index).exp().flatten(), expected)


def test_respacing_keeps_the_variance_of_the_data():
    diffusion = Diffusion.of_schedule("ddpm-linear")
    few = diffusion.respaced(250)
    assert few.timesteps[[0, 1, -1]].tolist() == [0, 4, 999]
    torch.testing.assert_close(few.abar, diffusion.abar[few.timesteps])
    assert torch.equal(diffusion.respaced(1000).timesteps, torch.arange(1000))
    with pytest.raises(UserError):
        diffusion.respaced(1001)


def test_divergence_of_gaussians_equals_the_integral():
    mean, deviation, other_mean, other_deviation = 0.4, 0.7, -0.2, 1.1
    p, q = norm(mean, deviation), norm(other_mean, other_deviation)
    expected, _ = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8)
    numbers = (mean, 2 * math.log(deviation), other_mean, 2 * math.log(other_deviation))
    tensors = [torch.tensor(number, dtype=torch.float64) for number in numbers]
    assert gaussian_divergence(*tensors).item() == pytest.approx(expected)


@pytest.mark.parametrize("data", [-1.5, 0.0, 0.29, 0.45])
def test_likelihood_is_that_of_a_bin(data):
    upper, lower = (norm(0.3, 0.05).logcdf(data + shift / 255) for shift in (1, -1))
    expected = upper + np.log1p(-np.exp(lower - upper))
    value = bin_log_likelihood(
        torch.tensor(data), torch.tensor(0.3), torch.tensor(2 * math.log(0.05))
    )
    assert value.item() == pytest.approx(expected, rel=1e-3)


def test_loss_of_the_true_posterior_is_zero():
    """With the true noise, the bound is that of the variance alone, and 0 where it is right."""
    torch.manual_seed(0)
    diffusion = Diffusion.of_schedule("ddpm-linear")
    data, noise = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    index = torch.tensor([5, 400, 999])
    abar = diffusion.abar[index][:, None, None]
    x = abar.sqrt() * data + (1 - abar).sqrt() * noise

    def loss(noise, value):
        values = torch.full_like(x, value)
        return variational_loss(diffusion, data, x, index, noise=noise, values=values)

    torch.testing.assert_close(loss(noise, -1.0), torch.zeros(3, dtype=torch.float64))
    ratio = diffusion.betas[index] / diffusion.posterior_variance[index]
    expected = (ratio.log() + 1 / ratio - 1) / 2 / math.log(2)
    torch.testing.assert_close(loss(noise, 1.0), expected)
    assert (loss(noise + 1, -1.0) > 0.1 * loss(noise, 1.0)).all()


def test_samples_of_a_gaussian_have_its_moments():
    """For Gaussian data the best prediction is known, and the reverse steps must return it."""
    mean, deviation = 1.5, 0.6
    diffusion = Diffusion.of_schedule("ddpm-linear").respaced(200)

    def outputs(x, t):
        step = int((diffusion.timesteps + 1 - 1000 * t).abs().argmin())
        abar = diffusion.abar[step].item()
        variance = abar * deviation**2 + 1 - abar
        noise = math.sqrt(1 - abar) * (x - math.sqrt(abar) * mean) / variance
        # The variance of x before, which the network would learn, as a share of the range.
        low, high = diffusion.log_variance_range[:, step].tolist()
        beta, before = diffusion.betas[step].item(), diffusion.abar_before[step].item()
        of_data = beta * math.sqrt(before) / (1 - abar)
        spread = deviation**2 * (1 - abar) / variance
        true = math.log(math.exp(low) + of_data**2 * spread)
        share = 0.0 if high == low else (true - low) / (high - low)
        return torch.cat([noise, torch.full_like(x, 2 * share - 1)], dim=-1)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 1, 1, generator=generator)
    x = sample_ancestrally(outputs, noise, diffusion, learned_variance=True, generator=generator)
    assert x.mean().item() == pytest.approx(mean, abs=0.04)
    assert x.std().item() == pytest.approx(deviation, rel=0.05)


class ExactNoise(SiT):
    """Predict the noise exactly, for data that is 0.7."""

    def outputs(self, x, t, labels):
        point = interpolant(self.config.path, t)
        return (x - 0.7 * point.alpha) / point.sigma


@each_schedule
@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
@pytest.mark.parametrize("steps", [1, 10])
def test_the_exact_noise_leads_to_the_data(schedule, solver, steps):
    """The noise goes like the root of t near t = 0, where a step along its slope would leave it."""
    model = ExactNoise(SiT.Config(**(DIT | {"path": schedule, "learned_variance": False})))
    sample = model.sample(torch.arange(2), steps=steps, solver=solver).latents
    torch.testing.assert_close(sample, torch.full_like(sample, 0.7), rtol=0, atol=1e-4)
    *_, (_, end) = model.trajectory(torch.arange(2), steps=steps)
    torch.testing.assert_close(end.latents, sample, rtol=0, atol=1e-4)


def test_dit_learns_noise_and_variances():
    torch.manual_seed(0)
    model = SiT(SiT.Config(**DIT))
    latents, labels = torch.randn(64, 4, 3), torch.arange(64) % 2
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(60):
        terms = model.objective(latents, labels).terms
        assert set(terms) == {"noise", "variational"}
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append([term.item() for term in terms.values()])
    before, after = np.mean(history[:15], axis=0), np.mean(history[-15:], axis=0)
    assert (after < before).all()
    sample = model.sample(torch.arange(2), steps=3, guidance=2.0, seed=1)
    assert sample.latents.shape == (2, 4, 3) and sample.latents.isfinite().all()
    torch.testing.assert_close(
        model.sample(torch.arange(2), steps=3, guidance=2.0, seed=1).latents, sample.latents
    )
    assert model.sample(torch.arange(2), steps=3, solver="heun").latents.isfinite().all()


def test_variances_do_not_train_the_mean():
    torch.manual_seed(0)
    model = SiT(SiT.Config(**DIT))
    term = model.objective(torch.randn(8, 4, 3), torch.zeros(8, dtype=torch.int64)).terms
    term["variational"].backward()
    gradient = model.to_velocity.weight.grad
    assert not gradient[:3].any() and gradient[3:].any()


@pytest.mark.parametrize(
    "change",
    [
        {"path": "cosine"},
        {"predict": "velocity"},
        {"times": "uniform"},
        {"learned_variance": False, "path": "linear"},
        {"patch": 2},
    ],
)
def test_settings_that_do_not_fit_are_refused(change):
    with pytest.raises(UserError):
        SiT.Config(**(DIT | change))
