"""ALIT: rounds of one encoder add tokens, each round's image is scored, and an image stops at its own error."""

import pytest
import torch

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.data import load
from workbench.tokenizers.alit import ALIT, WEIGHTS

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


def test_each_round_adds_tokens_and_rewrites_the_ones_before():
    latents = make().roll(images(), 4)
    assert latents.shape == (4, 5, 8, 4)
    for now in range(4):
        assert (latents[now, :, : 2 * now + 2].abs().sum(dim=-1) > 0).all()
        assert not latents[now, :, 2 * now + 2 :].any()
    assert not torch.allclose(latents[0, :, :2], latents[3, :, :2])


def test_later_rounds_change_nothing_of_earlier_ones():
    model, x = make(), images()
    torch.testing.assert_close(model.roll(x, 2), model.roll(x, 4)[:2])


def test_one_encoder_is_run_each_round_on_what_it_made_of_the_last():
    """Its blocks are as many as a plain tokenizer's, and each is called R times, on ever more rows."""
    model, rows = make(), []
    model.encoder.blocks[0].register_forward_hook(
        lambda module, given, out: rows.append(given[0].shape[1])
    )
    model.encode(images())
    assert len(model.encoder.blocks) == 1 and rows == [
        18,
        20,
        22,
        24,
    ]  # 16 patches and 2 tokens a round


def test_the_loss_is_each_rounds_mean_absolute_error_times_its_weight():
    model, x = make(), images()
    terms, latents = model.objective(x).terms, model.roll(x, 4)
    assert list(terms) == ["round_1", "round_2", "round_3", "pixel"]
    for now, (term, weight) in enumerate(zip(terms.values(), (2.5, 2.0, 1.5, 1.25), strict=True)):
        expected = (
            weight * 2 * error_of(model, latents[now], 2 * now + 2, x).mean()
        )  # pixels in [-1, 1]
        torch.testing.assert_close(term, expected)


def test_one_round_is_a_plain_autoencoder_with_the_first_weight():
    model, x = make(rounds=1), images()
    objective = model.objective(x)
    torch.testing.assert_close(model.roll(x, 1)[0], model.encoder(x))
    torch.testing.assert_close(
        objective.total, WEIGHTS[0] * (objective.reconstruction - x).abs().mean()
    )


def test_a_budget_is_what_its_rounds_make():
    model, x = make(), images()
    tokens = model.encode(x, budget=4)
    assert tokens.active.tolist() == [[True] * 4 + [False] * 4] * 5
    torch.testing.assert_close(tokens.latents, model.roll(x, 2)[1])


def test_more_rounds_make_fewer_errors(trained):
    model, x = trained
    with torch.no_grad():
        latents = model.roll(x, 4)
        errors = torch.stack([error_of(model, latents[r], 2 * r + 2, x).mean() for r in range(4)])
    assert errors.diff().max() < 0


def test_each_image_stops_at_its_own_first_round_that_meets_the_error(trained):
    model, x = trained
    with torch.no_grad():
        latents = model.roll(x, 4)
        errors = torch.stack([error_of(model, latents[r], 2 * r + 2, x) for r in range(4)])
        target = errors[1].median().item()
        tokens = model.encode(x, error=target)
        alone = model.encode(x[3:4], error=target)
    counts = tokens.active.sum(dim=1)
    assert set(counts.tolist()) == {2, 4, 6, 8}
    for image, count in enumerate(counts.tolist()):
        mine, stop = errors[:, image], count // 2 - 1
        assert (mine[:stop] > target).all() and (mine[stop] <= target or count == 8)
        torch.testing.assert_close(tokens.latents[image], latents[stop, image])
    assert torch.equal(alone.active[0], tokens.active[3])


def test_an_error_nobody_reaches_takes_every_token_and_one_that_all_reach_the_fewest():
    model, x = make(), images()
    assert model.encode(x, error=1e-6).active.all()
    assert model.encode(x, error=9.0).active.sum(dim=1).tolist() == [2] * 5


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"budget": 3}, "budget is 3; it must be a multiple of 2, what a round adds, up to 8."),
        ({"budget": 10}, "budget is 10; it must be a multiple of 2"),
        ({"budget": 0}, "budget is 0; it must be a multiple of 2"),
        ({"error": 0.0}, "error is 0.0; it must be above 0"),
        ({"error": 0.1, "budget": 4}, "not for both"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, sentence):
    with pytest.raises(UserError, match=sentence):
        make().encode(images(), **asked)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rounds": 3}, "8 tokens do not divide into 3 rounds."),
        ({"rounds": 9}, "rounds is 9; it must lie between 1 and 8."),
        ({"rounds": 0}, "rounds is 0; it must lie between 1 and 8."),
    ],
)
def test_rounds_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        make(**settings)
