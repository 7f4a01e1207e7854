"""SiT, DiT and LightningDiT: paths, solvers with known solutions, guidance, losses and settings."""

import dataclasses
import math
import warnings

import forked_python
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import workbench.storage.latent_stats as stats_module
from workbench.collect.sampling import guidance_scale
from workbench.core.errors import UserError
from workbench.generators import transformer
from workbench.generators.embeddings import sinusoidal_embedding
from workbench.generators.interpolants import interpolant, sample_times, shift_times, time_at
from workbench.generators.losses import loss_by_time
from workbench.generators.presets import PRESETS
from workbench.generators.samplers import (
    euler,
    euler_maruyama,
    guided_velocity,
    heun,
    sample_latents,
    sampling_times,
)
from workbench.generators.transformer import SiT, direction_loss
from workbench.launch.latent_dataset import LatentDataset
from workbench.nn.transformer import SwiGLU, apply_rotary, rotary_angles
from workbench.storage.run import Run
from workbench.training import TrainConfig, fit

SMALL = {"num_tokens": 4, "dim": 3, "classes": 5, "width": 16, "depth": 2, "heads": 2}
OTHER = {
    "num_tokens": 6,
    "dim": 2,
    "classes": 7,
    "mean": 0.5,
    "std": 2.0,
    "width": 32,
    "depth": 1,
    "heads": 1,
}
OTHER |= {
    "drop_class": 0.9,
    "path": "cosine",
    "predict": "noise",
    "times": "uniform",
    "norm": "rms",
    "mlp": "swiglu",
}
OTHER |= {"positions": "rope", "rows": 2, "qk_norm": True, "direction_weight": 0.5, "shift": 3.0}
OTHER |= {"interval": (0.0, 0.6), "guided_channels": 1, "solver": "euler", "sampling_steps": 4}
OTHER |= {"stored_positions": True, "norm_eps": 0.1}
OTHER |= {"time_embedding": "unscaled", "reversed_time": True, "uniform_after": 0.5}
OTHER |= {"init": "xavier", "learned_variance": True, "patch": 2}
# Settings that are only valid with others.
COMPANIONS = {
    "learned_variance": {"path": "ddpm-linear", "predict": "noise", "times": "timesteps"},
    "patch": {"rows": 2},
}
paths = pytest.mark.parametrize("path", ["linear", "cosine"])
each = pytest.mark.parametrize("preset", PRESETS)


def small(**settings) -> SiT:
    torch.manual_seed(0)
    return SiT(SiT.Config(**(SMALL | settings)))


def perturbed(**settings) -> SiT:
    """A network whose zero-initialized gates have moved, so that its output is not zero."""
    model = small(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def double(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# The path


@paths
def test_path_starts_at_data_and_ends_at_noise(path):
    data, noise = double(2, 4, 3), double(2, 4, 3)
    torch.testing.assert_close(interpolant(path, torch.zeros(2).double()).mix(data, noise), data)
    torch.testing.assert_close(interpolant(path, torch.ones(2).double()).mix(data, noise), noise)


@paths
def test_velocity_is_the_derivative_of_the_path(path):
    data, noise, t = double(2, 4, 3), double(2, 4, 3), torch.rand(2).double()
    after, before = interpolant(path, t + 1e-6), interpolant(path, t - 1e-6)
    step = (after.mix(data, noise) - before.mix(data, noise)) / 2e-6
    torch.testing.assert_close(step, interpolant(path, t).slope(data, noise), atol=1e-6, rtol=0)


@paths
def test_data_noise_and_velocity_give_each_other(path):
    data, noise, at = (
        double(5, 4, 3),
        double(5, 4, 3),
        interpolant(path, torch.linspace(0.1, 0.9, 5).double()),
    )
    x, velocity = at.mix(data, noise), at.slope(data, noise)
    torch.testing.assert_close(at.data(x, velocity), data)
    torch.testing.assert_close(at.noise(x, velocity), noise)
    torch.testing.assert_close(at.velocity(x, noise), velocity)


@paths
def test_score_of_a_gaussian(path):
    """Data N(0, 4): x is N(0, 4 alpha^2 + sigma^2), and the velocity is the slope of E[. | x]."""
    at, x = interpolant(path, torch.tensor([0.3]).double()), double(1, 6, 1)
    variance = 4 * at.alpha**2 + at.sigma**2
    velocity = (4 * at.alpha * at.alpha_slope + at.sigma * at.sigma_slope) / variance * x
    torch.testing.assert_close(at.score(x, velocity), -x / variance)


def test_cosine_path_is_the_cosine_schedule():
    """The schedule without offset is alpha_bar(t) = cos^2(pi t / 2), and preserves variance."""
    at = interpolant("cosine", torch.linspace(0, 1, 1000))
    torch.testing.assert_close(
        at.alpha.flatten() ** 2, (1 + torch.cos(math.pi * at.t)) / 2, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(at.alpha**2 + at.sigma**2, torch.ones(1000, 1, 1))


@paths
def test_time_at_a_noise_ratio(path):
    ratios = torch.tensor([0.01, 0.5, 1.0, 30.0])
    at = interpolant(path, time_at(path, ratios.log()))
    torch.testing.assert_close((at.sigma / at.alpha).flatten(), ratios)


@paths
def test_logit_normal_times(path):
    torch.manual_seed(0)
    at = interpolant(path, sample_times("logit-normal", path, 20_000, torch.zeros(1)))
    logs = (at.sigma / at.alpha).log()
    assert logs.mean().abs() < 0.03 and (logs.std() - 1).abs() < 0.03  # 4 standard errors


def test_uniform_times():
    torch.manual_seed(0)
    counts = torch.histc(sample_times("uniform", "linear", 20_000, torch.zeros(1)), 10, 0, 1)
    assert (counts - 2000).abs().max() < 170  # 4 standard deviations


def test_shift_is_lightningdits():
    at = [shift_times(i / 100, 3.0) for i in range(101)]
    assert at[0] == 0 and at[-1] == 1 and at == sorted(at) and shift_times(0.4, 1.0) == 0.4
    # Its code's map with s = 0.3, in its time, which runs the other way: a table of known values.
    reference_times = [1 - shift_times(1 - t, 1 / 0.3) for t in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert reference_times == pytest.approx([0.032, 0.091, 0.231, 0.474, 0.730], abs=5e-4)


# Solvers


def test_sampling_times():
    assert sampling_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert sampling_times(2, shift=3.0) == [1.0, 0.75, 0.0]
    assert sampling_times(3, first=0.9, last=0.1) == pytest.approx([0.9, 0.5, 0.1, 0.0])
    assert sampling_times(1) == [1.0, 0.0] == sampling_times(1, last=0.04)


@pytest.mark.parametrize("solve", [euler, heun])
@pytest.mark.parametrize("steps", [1, 7])
def test_constant_velocity_is_integrated_exactly(solve, steps):
    noise = torch.randn(2, 4, 3)
    torch.testing.assert_close(
        solve(lambda x, t: torch.full_like(x, 0.5), noise, sampling_times(steps)), noise - 0.5
    )


@pytest.mark.parametrize("solve", [euler, heun])
def test_flow_to_a_point_ends_there(solve):
    """For data that is one point c the exact velocity is (x - c) / t, and every line leads to c."""
    end = solve(lambda x, t: (x - 0.7) / t, double(3, 4, 3), sampling_times(10, shift=2.0))
    torch.testing.assert_close(end, torch.full_like(end, 0.7))


def test_orders_of_the_solvers():
    noise, exact = torch.ones(1, 1, 1).double(), math.exp(-1)

    def wrong(solve, steps: int) -> float:  # dx/dt = x from t = 1 to 0
        return abs(solve(lambda x, t: x, noise, sampling_times(steps)).item() - exact)

    assert wrong(euler, 20) / wrong(euler, 40) == pytest.approx(2, rel=0.1)
    assert wrong(heun, 20) / wrong(heun, 40) == pytest.approx(4, rel=0.1)


def gaussian_velocity(path: str, deviation: float):
    """The exact velocity for data N(0, deviation^2), as a function of x and t."""

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        at, v = interpolant(path, x.new_full((1,), t)), deviation**2
        return (
            (v * at.alpha * at.alpha_slope + at.sigma * at.sigma_slope)
            / (v * at.alpha**2 + at.sigma**2)
            * x
        )

    return velocity


@paths
def test_ode_of_a_gaussian_has_its_deviation(path):
    noise = double(1, 50, 1)
    torch.testing.assert_close(
        heun(gaussian_velocity(path, 0.5), noise, sampling_times(400)),
        0.5 * noise,
        rtol=1e-2,
        atol=0,
    )


@paths
def test_sde_of_a_gaussian_for_any_diffusion(path):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 20_000, 1, generator=generator)
    for diffusion in (0.5, 2.0):
        grid = sampling_times(150, last=0.02)
        drawn = euler_maruyama(
            gaussian_velocity(path, 0.5),
            noise,
            grid,
            path=path,
            generator=generator,
            diffusion=diffusion,
        )
        assert drawn.std().item() == pytest.approx(0.5, rel=0.03)
        assert drawn.mean().abs() < 0.02
    assert (
        torch.corrcoef(torch.stack([drawn.flatten(), noise.flatten()]))[0, 1] < 0.6
    )  # the ODE's is 1


def test_sde_without_diffusion_is_euler():
    noise, field, grid = (
        double(2, 4, 3),
        gaussian_velocity("linear", 0.5),
        sampling_times(9, last=0.04),
    )
    drawn = euler_maruyama(
        field, noise, grid, path="linear", generator=torch.Generator(), diffusion=0.0
    )
    torch.testing.assert_close(drawn, euler(field, noise, grid))


def test_euler_on_the_linear_path_is_ddim():
    """DDIM: the data the noise points to, mixed again with that noise at the next time."""
    model, x, labels = perturbed(predict="noise"), torch.randn(2, 4, 3), torch.tensor([1, 3])
    stepped = euler(guided_velocity(model, labels, 1.0), x, [0.8, 0.5])
    noise = model(x, torch.tensor([0.8, 0.8]), labels)
    torch.testing.assert_close(stepped, 0.5 * (x - 0.8 * noise) / 0.2 + 0.5 * noise)


# Guidance


def rows_seen(model: SiT) -> list[int]:
    seen: list[int] = []
    model.label.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    return seen


def test_guidance_of_one_is_conditional():
    model, x, labels = perturbed(), torch.randn(2, 4, 3), torch.tensor([1, 3])
    assert torch.equal(
        guided_velocity(model, labels, 1.0)(x, 0.4), model(x, torch.full((2,), 0.4), labels)
    )


def test_guidance_outside_its_interval_is_conditional():
    model, x, labels = perturbed(), torch.randn(2, 4, 3), torch.tensor([1, 3])
    velocity, seen = guided_velocity(model, labels, 3.0, (0.3, 0.7)), rows_seen(model)
    for t in (0.29, 0.71):
        assert torch.equal(velocity(x, t), model.velocity(x, torch.full((2,), t), labels))
    assert seen == [2, 2, 2, 2]


def test_guidance_extrapolates_from_the_null_class():
    model, x, labels = perturbed(), torch.randn(2, 4, 3), torch.tensor([1, 3])
    for t in (0.3, 0.5, 0.7):
        at = torch.full((2,), t)
        null, conditional = model(x, at, torch.tensor([5, 5])), model(x, at, labels)
        torch.testing.assert_close(
            guided_velocity(model, labels, 3.0, (0.3, 0.7))(x, t), null + 3 * (conditional - null)
        )
        torch.testing.assert_close(guided_velocity(model, labels, 0.0, (0.3, 0.7))(x, t), null)
    seen = rows_seen(model)
    sample_latents(
        model, labels, steps=10, solver="euler", guidance=3.0, interval=(0.35, 0.75)
    )  # 4 of t = 1, 0.9 .. 0.1
    assert sorted(seen) == [2] * 6 + [4] * 4


# The network


@each
def test_losses_of_untrained_models(preset):
    """For unit variance E|noise - data|^2 = 1 + 1 and E|noise|^2 = 1; zero has no direction."""
    torch.manual_seed(1)
    terms = (
        small(**PRESETS[preset])
        .objective(torch.randn(4096, 4, 3), torch.zeros(4096, dtype=torch.int64))
        .terms
    )
    expected = {
        "sit": {"velocity": 2},
        "dit": {"noise": 1},
        "lightningdit": {"velocity": 2, "direction": 1},
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        expected[preset], abs=0.06
    )


def test_loss_of_an_untrained_cosine_model():
    torch.manual_seed(1)
    terms = (
        small(path="cosine")
        .objective(torch.randn(4096, 4, 3), torch.zeros(4096, dtype=torch.int64))
        .terms
    )
    assert terms["velocity"].item() == pytest.approx(math.pi**2 / 4, abs=0.07)


def test_parameter_names_of_stored_runs():
    names = {"embed", "time.0", "time.2", "modulation", "to_velocity"}
    names |= {
        f"blocks.0.{part}"
        for part in ("attention.project_in", "attention.project_out", "mlp.0", "mlp.2")
    }
    names = {
        f"{name}.{kind}" for name in names | {"blocks.0.modulation"} for kind in ("weight", "bias")
    }
    assert set(small(depth=1).state_dict()) == names | {"label.weight"}
    assert PRESETS["sit"] == {}


def test_latents_are_standardized_and_back():
    model, latents = small(mean=3.0, std=0.1), 3 + 0.1 * torch.randn(64, 4, 3)
    seen = model.standardize(latents)
    assert seen.mean().abs() < 0.1 and (seen.std() - 1).abs() < 0.1
    torch.testing.assert_close(model.destandardize(seen), latents)


@pytest.mark.parametrize("positions", ["sines", "rope", "sines+rope"])
def test_class_time_and_position_matter(positions):
    model, x, t = perturbed(positions=positions), torch.randn(1, 4, 3), torch.tensor([0.3])
    base = model(x, t, torch.tensor([0]))
    assert not torch.allclose(model(x, t, torch.tensor([1])), base)
    assert not torch.allclose(model(x, t + 0.3, torch.tensor([0])), base)
    assert not torch.allclose(model(x.flip(1), t, torch.tensor([0])).flip(1), base)


def test_rope_alone_does_not_distinguish_equal_tokens():
    """Rotations change what is attended to; where all tokens hold the same, that is the same."""
    x, t, label = torch.ones(1, 4, 3), torch.tensor([0.3]), torch.tensor([0])
    alone, both = (
        perturbed(positions=positions)(x, t, label)[0] for positions in ("rope", "sines+rope")
    )
    torch.testing.assert_close(alone[1:], alone[:1].expand(3, 3))
    assert not torch.allclose(both[1], both[0])


@each
def test_items_are_independent_and_parameters_learn(preset):
    model, x, t, labels = (
        perturbed(**PRESETS[preset]),
        torch.randn(3, 4, 3),
        torch.rand(3),
        torch.tensor([0, 4, 2]),
    )
    torch.testing.assert_close(model(x[1:2], t[1:2], labels[1:2]), model(x, t, labels)[1:2])
    model.objective(torch.randn(64, 4, 3), torch.arange(64) % 5).total.backward()
    assert not [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]


def test_label_dropout_rate():
    seen = []
    model = small(drop_class=0.25)
    model.label.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.objective(torch.randn(8000, 4, 3), torch.zeros(8000, dtype=torch.int64))
    assert (seen[0] == 5).float().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("settings", [{"drop_class": 0.0}, {"classes": 1}])
def test_model_without_a_null_class_is_not_guided(settings):
    model = perturbed(**settings)
    assert not model.supports_guidance and perturbed().supports_guidance
    assert guidance_scale(model, 2.0) == 1.0 and guidance_scale(perturbed(), 2.0) == 2.0
    labels = torch.zeros(2, dtype=torch.int64)
    if not model.config.drop_class:
        with pytest.raises(UserError):
            sample_latents(model, labels, guidance=2.0)
        with pytest.raises(UserError):
            next(model.trajectory(labels, guidance=2.0))
    assert len(sample_latents(model, labels, steps=2)) == 2


def test_learned_variances_are_computed_in_float32():
    """In bfloat16 the smallest and largest log variance are equal at most timesteps."""
    settings = {"path": "ddpm-linear", "predict": "noise", "learned_variance": True}
    model = perturbed(**settings, times="timesteps")
    latents, labels = torch.randn(256, 4, 3), torch.arange(256) % 5

    def gradient() -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(0)
        model.objective(latents, labels).terms["variational"].backward()
        return model.to_velocity.bias.grad[3:].clone()

    expected = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gradient(), expected, rtol=0.05, atol=1e-6)


def test_every_setting_changes_something():
    """No decorative options: each field, changed alone, changes a loss term or the samples."""

    def behaviour(**settings) -> list[torch.Tensor]:
        model = perturbed(**settings)
        torch.manual_seed(1)
        latents = torch.randn(64, model.config.num_tokens, model.config.dim)
        terms = model.objective(latents, torch.arange(64) % 5).terms
        return [*terms.values(), sample_latents(model, torch.arange(5), guidance=2.0)]

    for field in dataclasses.fields(SiT.Config):
        if field.name == "by_channel":  # a setting of data preparation, which is tested below
            continue
        settings = {"sampling_steps": 3} | COMPANIONS.get(field.name, {})
        usual = behaviour(**settings)
        now = behaviour(**(settings | {field.name: OTHER[field.name]}))
        same = len(now) == len(usual) and all(map(torch.equal, now, usual))
        assert not same, f"{field.name} changes nothing"


def test_moments_per_channel(monkeypatch):
    mean, std = torch.tensor([3.0, -1.0, 0.0]), torch.tensor([0.1, 2.0, 1.0])
    model, latents = (
        small(mean=mean.tolist(), std=std.tolist()),
        mean + std * torch.randn(512, 4, 3),
    )
    seen = model.standardize(latents).flatten(0, 1)
    assert seen.mean(dim=0).abs().max() < 0.1 and (seen.std(dim=0) - 1).abs().max() < 0.1
    torch.testing.assert_close(model.destandardize(model.standardize(latents)), latents)
    assert not {"mean", "std"} & {*model.state_dict()}  # they are settings
    monkeypatch.setattr(stats_module, "MAX_VALUES_IN_MEMORY", 1200)
    all_alike, each = (
        LatentDataset(latents.numpy(), np.zeros(512)).moments(by_channel=by) for by in (False, True)
    )
    np.testing.assert_allclose(all_alike, (latents.mean(), latents.std()), rtol=1e-5)
    np.testing.assert_allclose(
        each, (latents.mean((0, 1)), latents.flatten(0, 1).std(0)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": (1.0, 2.0)},
        {"std": (1.0, 0.0, 1.0)},
        {"depth": 0},
        {"std": 0.0},
        {"shift": -1.0},
        {"drop_class": 1.5},
        {"direction_weight": 1.0, "predict": "noise"},
        {"rows": 3},
        {"heads": 3},
        {"width": 18, "rows": 2},
        {"width": 18, "positions": "rope"},
        {"positions": "rope", "stored_positions": True},
        {"norm_eps": 0.0},
        {"guided_channels": 4},
    ],
)
def test_invalid_settings_raise(settings):
    with pytest.raises(UserError) as error:
        SiT.Config(**(SMALL | settings))
    assert any(name in str(error.value).lower() for name in settings)


@pytest.mark.slow
def test_misspelled_choice_raises():
    """In a separate process, because the type checker of the tests would raise first."""
    code = "from workbench.generators.transformer import SiT\n"
    code += "SiT.Config(num_tokens=4, dim=3, classes=5, path='linaer')"
    assert "`linear`" in forked_python.message_of(code)


def test_direction_loss_is_one_minus_cosine():
    a, b = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[[6.0, 8.0], [5.0, 0.0]]])
    assert direction_loss(a, b).item() == pytest.approx(
        0.5
    )  # one token agrees, the other is at a right angle
    assert direction_loss(-a, 2 * a).item() == pytest.approx(2)


def test_first_gradient_of_the_direction_loss_is_bounded():
    """The first prediction is 0, where torch's own cosine has a gradient of 1e8."""
    nothing, velocity = torch.zeros(1, 1, 3, requires_grad=True), torch.randn(1, 1, 3)
    assert direction_loss(nothing, velocity).item() == 1
    direction_loss(nothing, velocity).backward()
    assert 0 < nothing.grad.norm() < 11


# Its parts


def test_rope_products_depend_on_position_differences():
    torch.manual_seed(0)
    q, k = (torch.randn(8).expand(1, 1, 6, 8) for _ in range(2))
    at = rotary_angles(torch.arange(6.0)[:, None], 8)
    products = apply_rotary(q, at)[0, 0] @ apply_rotary(k, at)[0, 0].T
    for offset in range(-5, 6):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].std() > 0.01
    torch.testing.assert_close(apply_rotary(q, at).norm(dim=-1), q.norm(dim=-1))


def test_rope_in_two_axes_tells_a_row_from_a_column():
    q = k = torch.ones(1, 1, 3, 8)
    at = rotary_angles(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), 8)
    a, b = apply_rotary(q, at)[0, 0], apply_rotary(k, at)[0, 0]
    torch.testing.assert_close(
        a[0] @ b[1], a[0] @ b[2]
    )  # as far, and alike for channels that are all alike
    assert (a[1] @ b[2]) < (a[0] @ b[1])
    assert not torch.allclose(a[1], a[2])


def test_qk_norm_bounds_what_attention_sees():
    """Queries and keys have root mean square 1, so scaling them cannot make attention harder."""
    model, loud = perturbed(qk_norm=True), perturbed(qk_norm=True)
    for block in loud.blocks:
        block.attention.project_in.weight.data[:32] *= 50
        block.attention.project_in.bias.data[:32] *= 50
    x, t, labels = torch.randn(2, 4, 3), torch.rand(2), torch.tensor([0, 1])
    torch.testing.assert_close(loud(x, t, labels), model(x, t, labels), atol=1e-4, rtol=1e-3)


@each
def test_mixed_precision_trains_without_a_warning(preset):
    model = perturbed(**PRESETS[preset], qk_norm=True)
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error")
        torch.manual_seed(1)
        low = model.objective(torch.randn(64, 4, 3), torch.arange(64) % 5).total
        low.backward()
    torch.manual_seed(1)
    assert low.item() == pytest.approx(
        model.objective(torch.randn(64, 4, 3), torch.arange(64) % 5).total.item(), rel=0.02
    )


def test_swiglu_gates_one_half_by_the_swish_of_the_other():
    part, x = SwiGLU(6), torch.randn(2, 4, 6)
    a, b = (
        F.linear(x, part.project_in.weight[h], part.project_in.bias[h])
        for h in (slice(16), slice(16, 32))
    )
    torch.testing.assert_close(part(x), part.project_out(a / (1 + torch.exp(-a)) * b))


def test_swiglu_has_about_as_many_weights_as_the_plain_mlp():
    def count(**settings) -> int:
        return sum(
            p.numel()
            for block in small(width=96, **settings).blocks
            for p in block.mlp.parameters()
        )

    assert count(mlp="swiglu") == pytest.approx(count(), rel=0.01)


def test_sines_tell_values_apart():
    codes = sinusoidal_embedding(torch.arange(50.0), 16)
    distances = torch.cdist(codes, codes) + 9 * torch.eye(50)
    assert distances.min() > 0.05


# Sampling


@pytest.mark.parametrize("solver", ["euler", "heun", "euler-maruyama"])
def test_one_seed_gives_the_same_samples_and_another_others(solver):
    model, labels = perturbed(), torch.arange(5)
    first = sample_latents(model, labels, steps=3, solver=solver, seed=1)
    assert torch.equal(first, sample_latents(model, labels, steps=3, solver=solver, seed=1))
    assert not torch.allclose(first, sample_latents(model, labels, steps=3, solver=solver, seed=2))


def test_sampling_uses_the_shift_of_the_model_by_default():
    model, labels = perturbed(shift=3.0), torch.arange(5)
    assert torch.equal(
        sample_latents(model, labels, steps=3), sample_latents(model, labels, steps=3, shift=3.0)
    )
    assert not torch.allclose(
        sample_latents(model, labels, steps=3), sample_latents(model, labels, steps=3, shift=1.0)
    )


@each
@pytest.mark.parametrize("solver", ["heun", "euler-maruyama"])
def test_generator_overfits_one_point(preset, solver, learned):
    """Trained on a single latent, every sample is that latent."""
    model, target = learned(preset)
    drawn = sample_latents(model, torch.zeros(16, dtype=torch.int64), steps=20, solver=solver)
    assert (drawn - target).abs().mean() < 0.15


@pytest.fixture(scope="module")
def learned():
    """Each preset, trained on one point, once."""
    made: dict[str, tuple[SiT, torch.Tensor]] = {}

    def train(preset: str) -> tuple[SiT, torch.Tensor]:
        if preset not in made:
            model, target = (
                small(width=32, **PRESETS[preset]),
                torch.tensor([[[1.0, -1.0, 0.5]] * 4]),
            )
            torch.manual_seed(0)
            data, labels = target.expand(32, 4, 3), torch.zeros(32, dtype=torch.int64)
            optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
            for _ in range(200):
                optimizer.zero_grad()
                model.objective(data, labels).total.backward()
                optimizer.step()
            made[preset] = model.eval(), target
        return made[preset]

    return train


@pytest.mark.parametrize(
    "options",
    [
        {"labels": [5]},
        {"labels": [-1, 2]},
        {"steps": 0},
        {"solver": "hoin"},
        {"interval": (0.7, 0.2)},
        {"shift": 0.0},
        {"guided_channels": 0},
    ],
)
def test_invalid_sampling_options_raise(options):
    labels = torch.tensor(options.get("labels", [0]))
    others = {"steps": 4} | {name: options[name] for name in options if name != "labels"}
    with pytest.raises(UserError) as error:
        sample_latents(small(), labels, **others)
    assert any(name in str(error.value).lower() for name in options)


# The loss by time


def untrained_loss(bins: int = 5, **settings):
    latents = torch.randn(2000, 4, 3, generator=torch.Generator().manual_seed(3))
    return loss_by_time(small(**settings), latents, torch.zeros(2000, dtype=torch.int64), bins=bins)


def test_loss_by_time_of_an_untrained_sit():
    loss = untrained_loss()
    torch.testing.assert_close(loss.t, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    torch.testing.assert_close(loss.velocity, torch.full((5,), 2.0), atol=0.06, rtol=0)
    assert loss.numbers == 12 and loss.mean == pytest.approx(2, abs=0.06)


def test_loss_by_time_has_one_scale_for_all_paths():
    """For Gaussian latents the best cosine velocity is 0, and 0 noise makes x all data."""
    best = untrained_loss(path="cosine")
    torch.testing.assert_close(
        best.velocity, 1 / (best.t**2 + (1 - best.t) ** 2), rtol=0.04, atol=0
    )
    for path in ("linear", "cosine"):
        loss = untrained_loss(path=path, predict="noise")
        torch.testing.assert_close(loss.velocity, 1 / (1 - loss.t) ** 2, rtol=0.04, atol=0)


def test_loss_by_time_standardizes_and_repeats():
    model, labels = perturbed(), torch.arange(700) % 5
    latents = torch.randn(700, 4, 3)
    loss = loss_by_time(model, latents, labels, bins=2)
    assert torch.equal(loss.velocity, loss_by_time(model, latents, labels, bins=2).velocity)
    assert not torch.equal(
        loss.velocity, loss_by_time(model, latents, labels, bins=2, seed=1).velocity
    )
    scaled = perturbed(mean=3.0, std=0.1)
    torch.testing.assert_close(
        loss_by_time(scaled, 3 + 0.1 * latents, labels, bins=2).velocity, loss.velocity
    )
    noise = torch.randn(700, 4, 3, generator=torch.Generator().manual_seed(0))
    quarter = model(0.75 * latents + 0.25 * noise, torch.full((700,), 0.25), labels)
    assert loss.velocity[0].item() == pytest.approx(
        F.mse_loss(quarter, noise - latents).item(), rel=1e-4
    )


def test_loss_by_time_without_latents_raises():
    with pytest.raises(UserError):
        loss_by_time(small(), torch.zeros(0, 4, 3), torch.zeros(0, dtype=torch.int64), bins=3)


def test_times_are_uniform_after_a_fraction_of_the_training(monkeypatch):
    """As in LightningDiT's 800 epochs; by default they never are."""
    kinds: list[str] = []

    def record(times, path, count, like):
        kinds.append(times)
        return sample_times(times, path, count, like)

    monkeypatch.setattr(transformer, "sample_times", record)
    sizes = {"num_tokens": 4, "dim": 2, "classes": 3, "width": 16, "depth": 1}
    for settings in ({"uniform_after": 0.6}, {}):
        model = SiT(SiT.Config(**sizes, **settings))
        for progress in (0.0, 0.6, 0.61, 1.0):
            model.set_progress(progress)
            model.objective(torch.randn(5, 4, 2), torch.zeros(5, dtype=torch.long))
    late = ["logit-normal"] * 2 + ["uniform"] * 2
    assert kinds == late + ["logit-normal"] * 4
    with pytest.raises(UserError, match="uniform_after"):
        SiT.Config(**sizes, uniform_after=1.5)


def test_held_out_loss_has_the_times_of_the_training(monkeypatch, tmp_path):
    kinds: list[tuple[bool, str]] = []
    model = small(uniform_after=0.5)

    def record(times, path, count, like):
        kinds.append((torch.is_grad_enabled(), times))
        return sample_times(times, path, count, like)

    monkeypatch.setattr(transformer, "sample_times", record)
    data = LatentDataset(rows=np.ones((8, 4, 3), np.float32), labels=np.zeros(8, np.int64))
    run = Run.create(tmp_path / "run", {"class": "workbench.tests:SiT", "settings": {}})
    config = TrainConfig(steps=4, batch_size=4, log_every=1)
    list(fit(model, data, config, run, held_out=data.batch(torch.arange(8))))
    for is_training in (True, False):
        times = [kind for training, kind in kinds if training == is_training]
        assert times == ["logit-normal"] * 3 + ["uniform"]


def test_xavier_init_has_the_published_spread():
    """Uniform weights by the sizes of a layer; outputs and gates of zero, as without it."""
    torch.manual_seed(0)
    model = small(width=64, depth=1, init="xavier", time_embedding="unscaled")
    weight = model.blocks[0].attention.project_in.weight
    bound = (6 / (64 + 192)) ** 0.5
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(
        bound / 3**0.5, rel=0.05
    )
    assert model.time[2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.to_velocity.weight.any() and not model.blocks[0].modulation.weight.any()
