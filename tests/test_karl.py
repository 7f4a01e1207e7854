"""Tests of KARL and of its baselines, tail drop and gradient energy."""

import pytest
import torch

from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.tokenizers.karl import (
    KARL,
    halting_loss,
    keeping_loss,
    smallest_budget_labels,
)
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


def test_error_bin_is_the_first_not_below_the_error():
    model = make(bins=3, min_error=0.01, max_error=0.04)
    torch.testing.assert_close(model.edges, torch.tensor([0.01, 0.02, 0.04]))
    bins = model.error_bin(torch.tensor([0.001, 0.0100001, 0.015, 0.03, 0.9]))
    assert bins.tolist() == [0, 1, 1, 2, 2]


def test_error_embeddings_differ_after_the_first_norm():
    """The released code starts them constant, and a norm maps constants to one point."""
    model = make()
    normalized = model.encoder.blocks[0].norm_1(model.errors)
    assert torch.pdist(normalized).min() > 0.5


def test_budget_keeps_the_first_tokens():
    active = make().encode(images(), budget=4).active
    assert active.tolist() == [[True] * 4 + [False] * 2] * 5


def test_encoder_ignores_tokens_beyond_the_budget():
    model, x = make(), images()
    latents = model.encode(x, budget=3).latents[:, :3]
    with torch.no_grad():
        model.encoder.tokens[3:] += 10
    torch.testing.assert_close(model.encode(x, budget=3).latents[:, :3], latents)


def test_masks_follow_images_in_a_batch():
    """The released code fails this: its mask is ordered by head, its attention by batch."""
    model, x, order = make(heads=4), images(), torch.tensor([2, 4, 0, 1, 3])
    bins, visible = torch.tensor([0, 3, 5, 9, 15]), torch.rand(5, 6) < 0.6
    latents, logits = model.encode_for_target(x, bins, visible)
    permuted = model.encode_for_target(x[order], bins[order], visible[order])
    torch.testing.assert_close(permuted[0], latents[order])
    torch.testing.assert_close(permuted[1], logits[order])
    alone = torch.cat(
        [
            model.encode_for_target(x[i : i + 1], bins[i : i + 1], visible[i : i + 1])[0]
            for i in range(5)
        ]
    )
    torch.testing.assert_close(alone, latents)


def test_first_token_is_never_halted():
    needed = make().needed_tokens(torch.full((2, 6), 9.0))
    assert needed.tolist() == [[True] + [False] * 5] * 2


def test_tokens_above_the_threshold_are_dropped():
    logits = torch.tensor([[0.0, 0.8, 0.9, 1.1, 1.2, 3.0]])
    assert make(threshold=0.75).needed_tokens(logits).tolist() == [
        [True, True, True, False, False, False]
    ]  # logit of .75: 1.0986


def test_balanced_halting_loss_weights_both_classes_equally():
    logits, surplus = torch.zeros(1, 6), torch.tensor([[False] * 5 + [True]])
    assert halting_loss(logits, surplus, "plain").item() == pytest.approx(0.6931, abs=1e-4)
    assert halting_loss(logits, surplus, "balanced").item() == pytest.approx(2 * 0.6931, abs=1e-4)
    confident = torch.tensor([[9.0] * 5 + [-9.0]])
    assert (
        halting_loss(-confident, surplus, "balanced").item()
        < 1e-3
        < halting_loss(confident, surplus, "plain").item()
    )
    no_token = torch.zeros(1, 6, dtype=torch.bool)
    assert halting_loss(logits, no_token, "balanced").item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.slow
def test_halting_head_learns_the_budget_posterior():
    """With one image and one bin, the budget is uniform on 1..6, so P(budget <= i) = i / 6."""
    model, x = make(bins=1), images(1).expand(64, 1, 8, 8)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model.objective(x).total.backward()
        optimizer.step()
    with torch.no_grad():
        everything = torch.ones(1, 6, dtype=torch.bool)
        halted = (
            model.eval()
            .encode_for_target(x[:1], torch.zeros(1, dtype=torch.int64), everything)[1]
            .sigmoid()
        )
    torch.testing.assert_close(halted[0], torch.arange(6) / 6, atol=0.08, rtol=0)


def test_hide_by_label_or_by_prediction():
    torch.manual_seed(0)
    by_label = make().objective(images()).terms
    torch.manual_seed(0)
    predicted = make(hide="predicted").objective(images()).terms
    assert by_label["pixel"] != predicted["pixel"]


@pytest.mark.parametrize(
    ("target", "fragment"),
    [
        ({"budget": 7}, "between 1 and 6, got 7"),
        ({"error": 0.0}, "error must be above 0"),
        ({"error": 0.1, "budget": 3}, "budget"),
    ],
)
def test_invalid_targets_raise(target, fragment):
    with pytest.raises(UserError) as error:
        make().encode(images(), **target)
    assert fragment in str(error.value)


# Settings of the halting head


def test_listed_bins_contain_what_is_requested():
    model = make(error_bins=(0.03, 0.05, 0.07, 0.2))
    bins = model.error_bin(torch.tensor([0.001, 0.03, 0.05, 0.0501, 0.07, 0.9]))
    assert bins.tolist() == [0, 0, 1, 2, 2, 3]
    assert model.errors.shape[0] == 4
    for invalid in ((0.05, 0.03), (0.0, 0.1), (0.1, 0.1)):
        with pytest.raises(UserError):
            make(error_bins=invalid)


def test_fraction_of_ends_is_checked():
    with pytest.raises(UserError):
        make(ends=1.5)


def test_smallest_budget_labels_agree_with_every_possible_need():
    """A label is known where it is the same for every smallest budget that is still possible.

    The first token is never halted, whatever its label is.
    """
    for budget in range(1, 7):
        for is_met in (True, False):
            possible = range(1, budget + 1) if is_met else range(budget + 1, 8)
            # Token i lies beyond the smallest budget k if i >= k; with k = 7, none does.
            labels = torch.tensor([[i >= k for i in range(6)] for k in possible])
            is_known = (labels == labels[0]).all(dim=0)
            within = (torch.arange(6) < budget)[None]
            surplus, known = smallest_budget_labels(within, torch.tensor([is_met]))
            assert known[0, 1:].tolist() == is_known[1:].tolist(), (budget, is_met)
            is_known[0] &= known[0, 0]
            assert surplus[0][is_known].tolist() == labels[0][is_known].tolist()


def test_halting_loss_counts_known_tokens_only():
    logits, surplus = torch.tensor([[2.0, -1.0, 0.5, 3.0]]), torch.tensor([[0, 0, 1, 1]]).bool()
    known = torch.tensor([[True, False, True, False]])
    cost = [torch.nn.functional.softplus(torch.tensor(x)) for x in (2.0, -0.5)]
    assert halting_loss(logits, surplus & known, "plain", known) == sum(cost) / 2
    assert halting_loss(logits, surplus & known, "balanced", known) == sum(cost)


def test_estimate_keeps_the_tokens_of_its_budget():
    logits, within = torch.tensor([[1.0, -2.0, 9.0]]), torch.tensor([[True, True, False]])
    expected = torch.log1p(torch.tensor([1.0, -2.0]).exp()).mean()
    torch.testing.assert_close(keeping_loss(logits, within), expected)
    torch.manual_seed(0)
    without = make().train().objective(images()).terms["halt"]
    torch.manual_seed(0)
    model = make(halt_estimate=True).train()
    terms = model.objective(images()).terms
    assert terms["halt"] > without
    (gradient,) = torch.autograd.grad(keeping_loss(*self_estimate(model)), model.halting[2].bias)
    assert gradient > 0


def self_estimate(model):
    """Logits of run 1 with a budget of three tokens."""
    within = (torch.arange(6) < 3).expand(5, 6)
    bins = torch.zeros(5, dtype=torch.int64)
    return model.encode_for_target(images(), bins, within)[1], within


def test_ends_of_the_range_are_trained():
    """All tokens at errors up to the reached one, one token at errors from it on."""
    model, many = make(ends=0.6, bins=8), images(1).expand(4000, 1, 8, 8)
    torch.manual_seed(0)
    budgets = model._draw_budgets(many)
    share = [(budgets == end).float().mean().item() for end in (1, 6)]
    assert share == pytest.approx([0.3 + 0.4 / 6] * 2, abs=0.02)
    reached = torch.full((4000,), model.edges[4].item())
    bins = model._draw_requests(reached, budgets)
    assert set(bins[budgets == 6].tolist()) == {0, 1, 2, 3, 4}
    assert set(bins[budgets == 1].tolist()) == {4, 5, 6, 7}
    assert set(bins[(budgets > 1) & (budgets < 6)].tolist()) == {4}
    plain = make(bins=8)
    assert set(plain._draw_requests(reached, budgets).tolist()) == {4}
    any_error = make(bins=8, labels="smallest")._draw_requests(reached, budgets)
    assert (any_error == 4).float().mean().item() == pytest.approx(0.5 + 0.5 / 8, abs=0.03)
    assert set(any_error.tolist()) == set(range(8))


# The discrete bottleneck


def test_codes_determine_unit_latents():
    model, x = make(codebook_size=16), images()
    model.quantizer.codebook.data *= 3  # only their direction matters
    assert make().codebook is None and make().encode(x).codes is None
    for tokens in (model.encode(x), model.encode(x, budget=3)):
        assert model.codebook.shape == (1, 16, 4) and tokens.codes.shape == (5, 6)
        assert torch.equal(model.codebook[0][tokens.codes], tokens.latents)
        torch.testing.assert_close(tokens.latents.norm(dim=-1), torch.ones(5, 6))


def test_both_runs_train_the_codebook():
    model, losses, decoded = make(codebook_size=16).train(), [], []
    model.quantizer.register_forward_hook(lambda module, arguments, out: losses.append(out.losses))
    model.decoder.register_forward_hook(lambda module, arguments, out: decoded.append(arguments[0]))
    objective = model.objective(images(32))
    objective.total.backward()
    assert list(objective.terms) == ["estimate", "pixel", "halt", "commitment", "codebook"]
    for name, factor in (("commitment", 1.0), ("codebook", 4.0)):
        expected = sum(of_run["commitment"] for of_run in losses) * factor
        torch.testing.assert_close(objective.terms[name], expected)
    assert len(losses) == len(decoded) == 2
    for tokens in decoded:
        norms = tokens.latents[tokens.active].norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert not [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]


def test_tokens_beyond_the_budget_do_not_train_codes():
    model, latents = (
        make(codebook_size=16),
        torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2)),
    )
    within = torch.arange(6) < torch.tensor([[2], [5]])
    partial = model.quantize(latents, within)
    changed = torch.where(within[..., None], latents, 1e3)
    assert torch.equal(
        model.quantize(changed, within).losses["commitment"], partial.losses["commitment"]
    )
    everything = model.quantize(latents)
    assert (
        torch.equal(partial.latents[within], everything.latents[within])
        and not partial.latents[~within].any()
    )
    assert partial.losses["commitment"] != everything.losses["commitment"]


@pytest.mark.slow
def test_small_codebook_learns_to_reconstruct():
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


def test_one_code_is_enough_and_negative_sizes_raise():
    with pytest.raises(UserError) as error:
        make(codebook_size=-1)
    assert "codebook_size" in str(error.value) and "-1" in str(error.value)
    assert not make(codebook_size=1).encode(images()).codes.any()


# Tail drop


@pytest.mark.slow
def test_search_agrees_with_trying_every_length():
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
        errors_by_length = []
        for k in range(1, 7):
            active = torch.arange(6) < k
            decoded = model.decode(Tokens(latents, active=active.expand(32, 6)))
            errors_by_length.append(((decoded - x).abs() / 2).mean(dim=(1, 2, 3)))
        errors = torch.stack(errors_by_length, dim=1)
        is_monotone = (errors.diff(dim=1) <= 0).all(dim=1)  # bisection is exact for these
        target = errors[:, 3].median().item()
        lengths, decodings = model.search(latents, x, target)
    meets_target = errors <= target
    fewest = torch.where(meets_target.any(dim=1), meets_target.int().argmax(dim=1) + 1, 6)
    assert is_monotone.sum() > 5
    assert torch.equal(lengths[is_monotone], fewest[is_monotone])
    assert decodings <= 3  # log2 of 6 lengths, rounded up
    assert errors.mean(dim=0).diff().max() < 0  # more tokens, lower error


def test_tail_drop_budget_per_batch_or_per_image():
    model, x, lengths = make(TailDrop), images(), torch.tensor([1, 6, 3, 2, 6])
    assert model.encode(x, budget=lengths).active.sum(dim=1).tolist() == [1, 6, 3, 2, 6]
    assert torch.equal(
        model.encode(x, budget=torch.full((5,), 4)).active, model.encode(x, budget=4).active
    )
    with pytest.raises(UserError) as error:
        model.encode(x, budget=lengths + 1)
    assert "budget" in str(error.value) and "7" in str(error.value)


# Lengths from gradient energy


def striped(amplitudes: list[float]) -> torch.Tensor:
    """Return stripes one pixel wide: horizontal neighbors differ by twice the amplitude."""
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 8, 8)
    return torch.stack([amplitude * stripes for amplitude in amplitudes])


def test_gradient_energy_of_stripes():
    assert gradient_energy(striped([0.0, 0.5, 1.0])).tolist() == [0.0, 1.0, 4.0]
    turned = striped([0.5]).transpose(2, 3)
    both = (striped([0.5]) + turned) / 2  # half the step in both directions
    assert gradient_energy(turned).tolist() == [1.0] and gradient_energy(both).tolist() == [0.5]


def test_predicted_lengths_interpolate_the_fit():
    """Energies 0, 1, 4 need 2, 5, 9 tokens: linear in between, constant outside."""
    length = GradientEnergyLength.fit(striped([0.0, 0.5, 1.0]), torch.tensor([2, 5, 9]))
    queries = striped([0.0, 0.5, 1.0, 0.75**0.5, 3.0])  # the fourth has energy 3: 5 + 2 * 4 / 3
    assert length.predict(queries).tolist() == [2, 5, 9, 8, 9]


def test_decreasing_curve_is_flattened():
    length = GradientEnergyLength.fit(striped([0.25, 0.5, 1.0]), torch.tensor([2, 8, 4]))
    assert length.predict(striped([0.25, 0.5, 1.0])).tolist() == [2, 6, 6]


def test_predicted_lengths_are_valid_budgets():
    from workbench.data import load

    x, model = load("digits").images(slice(32)), make(TailDrop)
    with torch.no_grad():
        lengths = model.search(model.encode(x).latents, x, 0.2)[0]
        predicted = GradientEnergyLength.fit(x, lengths).predict(x)
        assert model.encode(x, budget=predicted).active.sum(dim=1).tolist() == predicted.tolist()
    assert (
        predicted.dtype == torch.int64
        and lengths.min() <= predicted.min()
        and predicted.max() <= lengths.max()
    )


def test_fitting_without_images_raises():
    with pytest.raises(UserError):
        GradientEnergyLength.fit(images(0), torch.zeros(0, dtype=torch.int64))
