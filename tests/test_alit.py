"""Tests of ALIT: rounds, their losses, and error targets per image."""

import pytest
import torch

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.data import load
from workbench.tokenizers.alit import ALIT, ROUND_WEIGHTS

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 8,
    "dim": 4,
    "width": 24,
    "depth": 1,
    "heads": 2,
    "rounds": 4,
}


def make(**settings) -> ALIT:
    torch.manual_seed(0)
    return ALIT(ALIT.Config(**(SMALL | settings))).eval()


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def error_of(model: ALIT, latents: torch.Tensor, tokens: int, x: torch.Tensor) -> torch.Tensor:
    active = (torch.arange(8) < tokens).expand(len(x), 8)
    return ((model.decode(Tokens(latents, active=active)) - x).abs() / 2).mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def trained() -> tuple[ALIT, torch.Tensor]:
    model, x = make(), load("digits").images(slice(32))
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    return model.eval(), x


def test_each_round_adds_and_rewrites_tokens():
    latents = make().latents_by_round(images(), 4)
    assert latents.shape == (4, 5, 8, 4)
    for index in range(4):
        assert (latents[index, :, : 2 * index + 2].abs().sum(dim=-1) > 0).all()
        assert not latents[index, :, 2 * index + 2 :].any()
    assert not torch.allclose(latents[0, :, :2], latents[3, :, :2])


def test_later_rounds_do_not_change_earlier_ones():
    model, x = make(), images()
    torch.testing.assert_close(model.latents_by_round(x, 2), model.latents_by_round(x, 4)[:2])


def test_one_encoder_reads_its_previous_output():
    """Each block is called R times, on an increasing number of rows."""
    model, rows = make(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda module, arguments, out: rows.append(arguments[0].shape[1])
    )
    model.encode(images())
    assert len(model.encoder.blocks) == 1
    assert rows == [18, 20, 22, 24]  # 16 patches and 2 tokens per round


def test_loss_is_the_weighted_error_of_each_round():
    model, x = make(), images()
    terms, latents = model.objective(x).terms, model.latents_by_round(x, 4)
    assert list(terms) == ["round_1", "round_2", "round_3", "pixel"]
    weights = (2.5, 2.0, 1.5, 1.25)
    for index, (term, weight) in enumerate(zip(terms.values(), weights, strict=True)):
        error = error_of(model, latents[index], 2 * index + 2, x).mean()
        expected = weight * 2 * error  # pixels in [-1, 1]
        torch.testing.assert_close(term, expected)


def test_one_round_is_a_plain_autoencoder():
    model, x = make(rounds=1), images()
    objective = model.objective(x)
    torch.testing.assert_close(model.latents_by_round(x, 1)[0], model.encoder(x))
    torch.testing.assert_close(
        objective.total, ROUND_WEIGHTS[0] * (objective.reconstruction - x).abs().mean()
    )


def test_budget_gives_the_latents_of_its_round():
    model, x = make(), images()
    tokens = model.encode(x, budget=4)
    assert tokens.active.tolist() == [[True] * 4 + [False] * 4] * 5
    torch.testing.assert_close(tokens.latents, model.latents_by_round(x, 2)[1])


def test_error_decreases_with_rounds(trained):
    model, x = trained
    with torch.no_grad():
        latents = model.latents_by_round(x, 4)
        errors = torch.stack([error_of(model, latents[r], 2 * r + 2, x).mean() for r in range(4)])
    assert errors.diff().max() < 0


def test_each_image_stops_at_its_own_error(trained):
    model, x = trained
    with torch.no_grad():
        latents = model.latents_by_round(x, 4)
        errors = torch.stack([error_of(model, latents[r], 2 * r + 2, x) for r in range(4)])
        target = errors[1].median().item()
        tokens = model.encode(x, error=target)
        alone = model.encode(x[3:4], error=target)
    counts = tokens.active.sum(dim=1)
    assert set(counts.tolist()) == {2, 4, 6, 8}
    for image, count in enumerate(counts.tolist()):
        image_errors, stop = errors[:, image], count // 2 - 1
        assert (image_errors[:stop] > target).all()
        assert image_errors[stop] <= target or count == 8
        torch.testing.assert_close(tokens.latents[image], latents[stop, image])
    assert torch.equal(alone.active[0], tokens.active[3])


def test_extreme_errors_use_all_or_fewest_tokens():
    model, x = make(), images()
    assert model.encode(x, error=1e-6).active.all()
    assert model.encode(x, error=9.0).active.sum(dim=1).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("target", "fragments"),
    [
        ({"budget": 3}, ("budget", "multiple of 2", "3")),
        ({"budget": 10}, ("budget", "multiple of 2", "10")),
        ({"budget": 0}, ("budget", "multiple of 2", "0")),
        ({"error": 0.0}, ("error", "0.0")),
        ({"error": 0.1, "budget": 4}, ("error", "budget")),
    ],
)
def test_invalid_targets_raise(target, fragments):
    with pytest.raises(UserError) as error:
        make().encode(images(), **target)
    assert all(fragment in str(error.value) for fragment in fragments)


@pytest.mark.parametrize(
    "rounds",
    [3, 9, 0],
)
def test_invalid_rounds_raise(rounds):
    with pytest.raises(UserError) as error:
        make(rounds=rounds)
    assert "rounds" in str(error.value) and str(rounds) in str(error.value)
