"""KARL and its baseline: errors become bins, surplus tokens are never seen, the head learns a posterior CDF."""

import pytest
import torch

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.tokenizers.karl import KARL, halting_loss
from workbench.tokenizers.taildrop import GradientEnergyLength, TailDrop, gradient_energy

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 6,
    "dim": 4,
    "width": 24,
    "depth": 1,
    "heads": 2,
}


def make(kind=KARL, **settings):
    torch.manual_seed(0)
    return kind(kind.Config(**(SMALL | settings))).eval()


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_an_error_goes_to_the_smallest_bin_that_is_not_below_it():
    model = make(bins=3, least=0.01, most=0.04)
    torch.testing.assert_close(model.edges, torch.tensor([0.01, 0.02, 0.04]))
    found = model.bin_of(torch.tensor([0.001, 0.0100001, 0.015, 0.03, 0.9]))
    assert found.tolist() == [0, 1, 1, 2, 2]


def test_two_error_bins_differ_after_the_first_norm():
    """The released code starts them as constants, which a norm maps to one and the same point."""
    model = make()
    seen = model.encoder.blocks[0].norm_1(model.errors)
    assert torch.pdist(seen).min() > 0.5


def test_a_budget_keeps_exactly_its_first_tokens():
    active = make().encode(images(), budget=4).active
    assert active.tolist() == [[True] * 4 + [False] * 2] * 5


def test_slots_beyond_the_budget_are_hidden_from_the_encoder_too():
    model, x = make(), images()
    shown = model.encode(x, budget=3).latents[:, :3]
    with torch.no_grad():
        model.encoder.tokens[3:] += 10
    torch.testing.assert_close(model.encode(x, budget=3).latents[:, :3], shown)


def test_each_image_has_its_own_mask_whatever_its_place_in_the_batch():
    """A head-major mask in a batch-major attention, the released code's bug, fails this."""
    model, x, order = make(heads=4), images(), torch.tensor([2, 4, 0, 1, 3])
    wanted, visible = torch.tensor([0, 3, 5, 9, 15]), torch.rand(5, 6) < 0.6
    latents, logits = model.write(x, wanted, visible)
    permuted = model.write(x[order], wanted[order], visible[order])
    torch.testing.assert_close(permuted[0], latents[order])
    torch.testing.assert_close(permuted[1], logits[order])
    alone = torch.cat(
        [model.write(x[i : i + 1], wanted[i : i + 1], visible[i : i + 1])[0] for i in range(5)]
    )
    torch.testing.assert_close(alone, latents)


def test_the_first_token_is_kept_even_where_all_are_halted():
    kept = make().kept(torch.full((2, 6), 9.0))
    assert kept.tolist() == [[True] + [False] * 5] * 2


def test_a_token_is_dropped_exactly_above_the_threshold():
    logits = torch.tensor([[0.0, 0.8, 0.9, 1.1, 1.2, 3.0]])
    assert make(threshold=0.75).kept(logits).tolist() == [
        [True, True, True, False, False, False]
    ]  # logit of .75: 1.0986


def test_the_balanced_loss_weighs_both_sides_alike():
    logits, surplus = torch.zeros(1, 6), torch.tensor([[False] * 5 + [True]])
    assert halting_loss(logits, surplus, "plain").item() == pytest.approx(0.6931, abs=1e-4)
    assert halting_loss(logits, surplus, "balanced").item() == pytest.approx(2 * 0.6931, abs=1e-4)
    sure = torch.tensor([[9.0] * 5 + [-9.0]])
    assert (
        halting_loss(-sure, surplus, "balanced").item()
        < 1e-3
        < halting_loss(sure, surplus, "plain").item()
    )
    nobody = torch.zeros(1, 6, dtype=torch.bool)
    assert halting_loss(logits, nobody, "balanced").item() == pytest.approx(0.6931, abs=1e-4)


def test_the_halting_head_learns_the_posterior_of_the_budget():
    """One image and one bin: the budget is uniform on 1..6 whatever the error, so P(budget <= i) = i / 6."""
    model, x = make(bins=1), images(1).expand(64, 1, 8, 8)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    with torch.no_grad():
        everything = torch.ones(1, 6, dtype=torch.bool)
        halted = (
            model.eval().write(x[:1], torch.zeros(1, dtype=torch.int64), everything)[1].sigmoid()
        )
    torch.testing.assert_close(halted[0], torch.arange(6) / 6, atol=0.08, rtol=0)


def test_run_two_hides_by_label_or_by_prediction():
    torch.manual_seed(0)
    by_label = make().objective(images()).terms
    torch.manual_seed(0)
    predicted = make(hide="predicted").objective(images()).terms
    assert by_label["pixel"] != predicted["pixel"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"budget": 7}, "budget is 7; it must lie between 1 and 6"),
        ({"error": 0.0}, "error is 0.0; it must be above 0"),
        ({"error": 0.1, "budget": 3}, "not for both"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, sentence):
    with pytest.raises(UserError, match=sentence):
        make().encode(images(), **asked)


# The discrete bottleneck


def test_with_codes_every_latent_is_a_unit_codeword_and_the_codes_alone_rebuild_it():
    model, x = make(codebook_size=16), images()
    model.quantizer.codebook.data *= 3  # compared as unit vectors, whatever their length
    assert make().codebook is None and make().encode(x).codes is None
    for tokens in (model.encode(x), model.encode(x, budget=3)):
        assert model.codebook.shape == (1, 16, 4) and tokens.codes.shape == (5, 6)
        assert torch.equal(model.codebook[0][tokens.codes], tokens.latents)
        torch.testing.assert_close(tokens.latents.norm(dim=-1), torch.ones(5, 6))


def test_with_codes_every_parameter_learns_and_both_runs_are_decoded_from_their_codes_and_pay_for_them():
    model, found, shown = make(codebook_size=16).train(), [], []
    model.quantizer.register_forward_hook(lambda module, given, out: found.append(out.losses))
    model.decoder.register_forward_hook(lambda module, given, out: shown.append(given[0]))
    objective = model.objective(images(32))
    objective.total.backward()
    assert list(objective.terms) == ["estimate", "pixel", "halt", "commitment", "codebook"]
    for name, factor in (("commitment", 1.0), ("codebook", 4.0)):
        expected = sum(losses["commitment"] for losses in found) * factor
        torch.testing.assert_close(objective.terms[name], expected)
    assert len(found) == len(shown) == 2
    for tokens in shown:
        norms = tokens.latents[tokens.active].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert not [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]


def test_a_token_beyond_the_budget_teaches_the_codebook_nothing():
    model, latents = (
        make(codebook_size=16),
        torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2)),
    )
    within = torch.arange(6) < torch.tensor([[2], [5]])
    some, loud = model.quantize(latents, within), torch.where(within[..., None], latents, 1e3)
    assert torch.equal(model.quantize(loud, within).losses["commitment"], some.losses["commitment"])
    everything = model.quantize(latents)
    assert (
        torch.equal(some.latents[within], everything.latents[within])
        and not some.latents[~within].any()
    )
    assert some.losses["commitment"] != everything.losses["commitment"]


def test_a_small_codebook_still_learns_to_reconstruct():
    from workbench.data import load

    x, model = load("digits").images(slice(32)), make(codebook_size=32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    before = model.objective(x).terms["pixel"].item()
    for _ in range(100):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    tokens = model.eval().encode(x, budget=6)
    assert (model.decode(tokens) - x).abs().mean().item() < 0.6 * before
    assert len(tokens.codes.unique()) > 8


def test_fewer_than_no_codes_are_refused_and_one_is_enough():
    with pytest.raises(
        UserError,
        match="codebook_size is -1; it must be at least 1, or 0 for a continuous bottleneck.",
    ):
        make(codebook_size=-1)
    assert not make(codebook_size=1).encode(images()).codes.any()


# Tail drop


def test_tail_drop_decodes_prefixes_and_search_agrees_with_trying_every_length():
    from workbench.data import load

    x = load("digits").images(slice(32))
    model = make(TailDrop).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        latents = model.encode(x).latents
        tried = []
        for k in range(1, 7):
            active = torch.arange(6) < k
            shown = model.decode(Tokens(latents, active=active.expand(32, 6)))
            tried.append(((shown - x).abs() / 2).mean(dim=(1, 2, 3)))
        errors = torch.stack(tried, dim=1)
        falls = (errors.diff(dim=1) <= 0).all(dim=1)  # where bisection is promised to be right
        target = errors[:, 3].median().item()
        found, decodings = model.search(latents, x, target)
    met = errors <= target
    fewest = torch.where(met.any(dim=1), met.int().argmax(dim=1) + 1, 6)
    assert falls.sum() > 5 and torch.equal(found[falls], fewest[falls])
    assert decodings <= 3  # log2 of 6 lengths, rounded up
    assert errors.mean(dim=0).diff().max() < 0  # more tokens, lower error


def test_tail_drop_takes_one_budget_for_all_images_or_one_for_each():
    model, x, lengths = make(TailDrop), images(), torch.tensor([1, 6, 3, 2, 6])
    assert model.encode(x, budget=lengths).active.sum(dim=1).tolist() == [1, 6, 3, 2, 6]
    assert torch.equal(
        model.encode(x, budget=torch.full((5,), 4)).active, model.encode(x, budget=4).active
    )
    with pytest.raises(UserError, match="budget is 7; it must lie between 1 and 6."):
        model.encode(x, budget=lengths + 1)


# Lengths from gradient energy


def striped(amplitudes: list[float]) -> torch.Tensor:
    """Vertical stripes, one pixel wide: every pixel differs from those beside it by twice the amplitude."""
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 8, 8)
    return torch.stack([amplitude * stripes for amplitude in amplitudes])


def test_gradient_energy_is_the_mean_squared_step_across_plus_down():
    assert gradient_energy(striped([0.0, 0.5, 1.0])).tolist() == [0.0, 1.0, 4.0]
    turned = striped([0.5]).transpose(2, 3)
    both = (striped([0.5]) + turned) / 2  # half the step, both ways
    assert gradient_energy(turned).tolist() == [1.0] and gradient_energy(both).tolist() == [0.5]


def test_lengths_are_read_off_a_rising_curve_of_the_images_it_was_fitted_on():
    """Energies 0, 1, 4 needed 2, 5, 9 tokens: in between straight lines, beyond the ends the ends."""
    length = GradientEnergyLength.fit(striped([0.0, 0.5, 1.0]), torch.tensor([2, 5, 9]))
    asked = striped([0.0, 0.5, 1.0, 0.75**0.5, 3.0])  # the fourth has energy 3: 5 + 2 * 4 / 3
    assert length.predict(asked).tolist() == [2, 5, 9, 8, 9]


def test_a_curve_that_would_fall_is_flattened_to_the_mean():
    length = GradientEnergyLength.fit(striped([0.25, 0.5, 1.0]), torch.tensor([2, 8, 4]))
    assert length.predict(striped([0.25, 0.5, 1.0])).tolist() == [2, 6, 6]


def test_lengths_from_gradient_energy_are_budgets_that_tail_drop_takes():
    from workbench.data import load

    x, model = load("digits").images(slice(32)), make(TailDrop)
    with torch.no_grad():
        needed = model.search(model.encode(x).latents, x, 0.2)[0]
        predicted = GradientEnergyLength.fit(x, needed).predict(x)
        assert model.encode(x, budget=predicted).active.sum(dim=1).tolist() == predicted.tolist()
    assert (
        predicted.dtype == torch.int64
        and needed.min() <= predicted.min()
        and predicted.max() <= needed.max()
    )


def test_no_images_teach_no_lengths():
    with pytest.raises(UserError, match="a length cannot be learned from no images."):
        GradientEnergyLength.fit(images(0), torch.zeros(0, dtype=torch.int64))
