"""The flow decoder: its first loss, its conditions, and memorizing two images."""

import pytest
import torch

from workbench.core.errors import UserError
from workbench.generators.flow_decoder import FlowDecoder

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 16,
    "dim": 3,
    "width": 16,
    "depth": 2,
    "heads": 2,
}
kinds = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_tokens": 4},
        {"num_tokens": 64},
        {"num_tokens": 5, "line": True},
        {"patch": 8, "num_tokens": 1},
    ],
    ids=["a latent a patch", "a coarser grid", "a finer grid", "on a line", "one patch"],
)


def small(**settings) -> FlowDecoder:
    torch.manual_seed(0)
    return FlowDecoder(**(SMALL | settings))


def perturbed(**settings) -> FlowDecoder:
    """A network whose zero-initialized gates have moved, so that its output is not zero."""
    model = small(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def random_latents(model: FlowDecoder, count: int = 3) -> torch.Tensor:
    return torch.randn(count, model.num_tokens, 3, generator=torch.Generator().manual_seed(1))


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_untrained_decoder_returns_noise():
    """Velocity zero: the loss is E|noise - data|^2 = 1 + E|data|^2, here 1 + 1/3."""
    model, many = small(), torch.rand(2000, 1, 8, 8) * 2 - 1
    assert model.loss(torch.randn(2000, 16, 3), many).item() == pytest.approx(4 / 3, abs=0.03)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(model(random_latents(model), seed=5), noise.expand(3, 1, 8, 8))


@kinds
def test_images_do_not_depend_on_the_batch(settings):
    model = perturbed(**settings)
    latents = random_latents(model)
    drawn = model(latents, steps=3)
    assert drawn.shape == (3, 1, 8, 8)
    torch.testing.assert_close(model(latents[1:2], steps=3), drawn[1:2])
    torch.testing.assert_close(model(latents.flip(0), steps=3), drawn.flip(0))
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3  # the latents matter


@kinds
def test_parameters_and_latents_have_gradients(settings):
    model = perturbed(**settings)
    latents = random_latents(model).requires_grad_()
    model.loss(latents, images()).backward()
    assert not [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert (latents.grad.abs().sum(dim=-1) > 0).all()


def test_the_seed_decides_the_image():
    model = perturbed()
    latents = random_latents(model)
    assert torch.equal(model(latents, steps=3, seed=1), model(latents, steps=3, seed=1))
    assert not torch.allclose(model(latents, steps=3, seed=1), model(latents, steps=3, seed=2))


def test_latents_on_a_grid_affect_nearby_patches():
    """Without attention a latent affects its own patch alone; on a coarser grid, nearby ones."""
    for tokens, affected in (
        (16, {5}),
        (4, {0, 1, 2, 4, 5, 6, 8, 9, 10}),
    ):  # patches of 4 x 4; latent 0 is at the top left
        model = perturbed(num_tokens=tokens)
        for block in model.blocks:
            torch.nn.init.zeros_(block.modulation.weight)
            torch.nn.init.zeros_(block.modulation.bias)
        latents, at = torch.zeros(1, tokens, 3), 5 if tokens == 16 else 0
        other = latents.clone()
        other[0, at] = 1.0
        x, t = torch.zeros(1, 16, 4), torch.tensor([0.5])
        moved = (model.velocity(x, t, latents) - model.velocity(x, t, other)).abs().sum(dim=-1)[
            0
        ] > 1e-6
        assert set(moved.nonzero()[:, 0].tolist()) == affected


def test_two_images_are_memorized():
    """Each of two latents is decoded to its image, from any noise."""
    torch.manual_seed(0)
    model, latents, two = small(width=32, depth=1), torch.randn(2, 16, 3), images(2).sign() * 0.8
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model.loss(latents.repeat(16, 1, 1), two.repeat(16, 1, 1, 1)).backward()
        optimizer.step()
    with torch.no_grad():
        for seed in (0, 1):
            assert (model(latents, seed=seed) - two).abs().mean() < 0.15


@pytest.mark.parametrize(
    "settings",
    [
        {"num_tokens": 5},
        {"patch": 3},
        {"heads": 3},
    ],
)
def test_invalid_sizes_raise(settings):
    with pytest.raises(UserError) as error:
        small(**settings)
    assert any(name in str(error.value).lower() for name in settings)


def test_zero_steps_raise():
    with pytest.raises(UserError):
        small()(torch.zeros(1, 16, 3), steps=0)
