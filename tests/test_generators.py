"""Generators: the path's ends and velocity, solvers on fields with known answers, guidance, the network's promises."""

import math

import pytest
import torch

from workbench.errors import UserError
from workbench.generators.path import linear, logit_normal
from workbench.generators.sampling import euler, guided, heun, sample
from workbench.generators.transformer import SiT, sines


def small(**settings) -> SiT:
    torch.manual_seed(0)
    return SiT(SiT.Config(**({"tokens": 4, "dim": 3, "classes": 5, "width": 16, "depth": 2, "heads": 2} | settings)))


def awake(**settings) -> SiT:
    """A network whose zero-initialised gates have moved, so that it says something."""
    model = small(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_the_path_starts_at_the_data_and_ends_at_the_noise():
    data, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    assert torch.equal(linear(data, noise, torch.zeros(2)).x, data)
    assert torch.equal(linear(data, noise, torch.ones(2)).x, noise)


def test_the_velocity_is_the_derivative_of_the_path():
    data, noise, t = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double(), torch.rand(2).double()
    step = (linear(data, noise, t + 1e-6).x - linear(data, noise, t - 1e-6).x) / 2e-6
    torch.testing.assert_close(step, linear(data, noise, t).velocity, atol=1e-6, rtol=0)


def test_logit_normal_times_have_a_standard_normal_logit():
    torch.manual_seed(0)
    logits = logit_normal(20_000, torch.zeros(1)).logit()
    assert logits.mean().abs() < 0.03 and (logits.std() - 1).abs() < 0.03  # 4 standard errors


@pytest.mark.parametrize("solve", [euler, heun])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_constant_velocity_is_integrated_exactly(solve, steps):
    noise = torch.randn(2, 4, 3)
    torch.testing.assert_close(solve(lambda x, t: torch.full_like(x, 0.5), noise, steps), noise - 0.5)


@pytest.mark.parametrize("solve", [euler, heun])
def test_the_flow_to_a_single_point_ends_in_that_point(solve):
    """For data that is one point c the exact velocity is (x - c) / t, and every line leads to c."""
    c = torch.tensor(0.7)
    end = solve(lambda x, t: (x - c) / t.clamp(min=1e-3)[:, None, None], torch.randn(3, 4, 3), 10)
    torch.testing.assert_close(end, c.expand(3, 4, 3), atol=1e-4, rtol=0)


def test_heun_is_of_second_order_and_euler_of_first():
    noise, exact = torch.ones(1, 1, 1).double(), math.exp(-1)

    def wrong(solve, steps: int) -> float:  # dx/dt = x from t = 1 to 0
        return abs(solve(lambda x, t: x, noise, steps).item() - exact)

    assert wrong(euler, 20) / wrong(euler, 40) == pytest.approx(2, rel=0.1)
    assert wrong(heun, 20) / wrong(heun, 40) == pytest.approx(4, rel=0.1)


def test_guidance_of_scale_one_is_the_conditional_exactly():
    model, x, t, labels = awake(), torch.randn(2, 4, 3), torch.rand(2), torch.tensor([1, 3])
    assert torch.equal(guided(model, labels, 1.0)(x, t), model(x, t, labels))


def test_guidance_extrapolates_from_the_null_class():
    model, x, t, labels = awake(), torch.randn(2, 4, 3), torch.rand(2), torch.tensor([1, 3])
    null, conditional = model(x, t, torch.tensor([5, 5])), model(x, t, labels)
    torch.testing.assert_close(guided(model, labels, 3.0)(x, t), null + 3 * (conditional - null))
    torch.testing.assert_close(guided(model, labels, 0.0)(x, t), null)


def test_an_untrained_network_predicts_nothing_so_its_loss_is_two():
    """E|noise - data|^2 = 1 + 1 a number, for latents of unit variance."""
    torch.manual_seed(1)
    terms = small().objective(torch.randn(4096, 4, 3), torch.zeros(4096, dtype=torch.int64)).terms
    assert terms["velocity"].item() == pytest.approx(2, abs=0.06)


def test_latents_are_standardised_and_restored():
    model, latents = small(mean=3.0, std=0.1), 3 + 0.1 * torch.randn(64, 4, 3)
    seen = model.standardise(latents)
    assert seen.mean().abs() < 0.1 and (seen.std() - 1).abs() < 0.1
    torch.testing.assert_close(model.restore(seen), latents)


def test_the_class_the_time_and_the_place_of_a_token_all_matter():
    model, x, t = awake(), torch.randn(1, 4, 3), torch.tensor([0.3])
    base = model(x, t, torch.tensor([0]))
    assert not torch.allclose(model(x, t, torch.tensor([1])), base)
    assert not torch.allclose(model(x, t + 0.3, torch.tensor([0])), base)
    assert not torch.allclose(model(x.flip(1), t, torch.tensor([0])).flip(1), base)


def test_labels_are_dropped_at_the_set_rate():
    seen = []
    model = small(drop_class=0.25)
    model.label.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    model.objective(torch.randn(8000, 4, 3), torch.zeros(8000, dtype=torch.int64))
    assert (seen[0] == 5).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_one_seed_gives_the_same_samples_and_another_others():
    model, labels = awake(), torch.arange(5)
    first = sample(model, labels, steps=3, seed=1)
    assert torch.equal(first, sample(model, labels, steps=3, seed=1))
    assert not torch.allclose(first, sample(model, labels, steps=3, seed=2))


def test_a_generator_overfits_one_point():
    """Trained on a single latent, every sample is that latent."""
    torch.manual_seed(0)
    model, target = small(width=32), torch.tensor([[[1.0, -1.0, 0.5]] * 4])
    data, labels = target.expand(64, 4, 3), torch.zeros(64, dtype=torch.int64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model.objective(data, labels).total.backward()
        optimizer.step()
    drawn = sample(model.eval(), torch.zeros(16, dtype=torch.int64), steps=20)
    assert (drawn - target).abs().mean() < 0.15


@pytest.mark.parametrize(
    ("labels", "steps", "sentence"),
    [([5], 4, "labels must lie in 0..4; got 5 to 5"), ([-1, 2], 4, "got -1 to 2"), ([0], 0, "at least 1 step; got 0")],
)
def test_sampling_refuses_what_cannot_be(labels, steps, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(small(), torch.tensor(labels), steps=steps)


def test_sines_tell_values_apart():
    codes = sines(torch.arange(50.0), 16)
    distances = torch.cdist(codes, codes) + 9 * torch.eye(50)
    assert distances.min() > 0.05
