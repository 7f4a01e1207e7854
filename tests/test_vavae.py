"""VA-VAE: its two losses at their closed-form points, the weight that equalises gradients, and the controls."""

import math

import pytest
import torch

from workbench.core.errors import UserError
from workbench.tokenizers.vavae import VAVAE, adaptive_weight, marginal_cosine, marginal_distance

SMALL = {"side": 16, "channels": 1, "dim": 4, "width": 8, "multipliers": (1, 2), "teacher": "hog"}


def make(**settings) -> VAVAE:
    torch.manual_seed(0)
    return VAVAE(VAVAE.Config(**(SMALL | settings))).train()


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_features_that_agree_cost_nothing():
    f = torch.randn(2, 5, 8)
    assert marginal_cosine(3 * f, f, 0.0).item() == pytest.approx(
        0, abs=1e-6
    )  # only the direction counts
    assert marginal_distance(3 * f, f, 0.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("angle", "margin", "cost"),
    [(0.0, 0.0, 0.0), (90.0, 0.0, 1.0), (180.0, 0.0, 2.0), (60.0, 0.5, 0.0), (90.0, 0.5, 0.5)],
)
def test_the_cosine_loss_is_one_minus_margin_minus_cosine(angle, margin, cost):
    turned = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    loss = marginal_cosine(turned.expand(1, 3, 2), torch.tensor([1.0, 0.0]).expand(1, 3, 2), margin)
    assert loss.item() == pytest.approx(cost, abs=1e-6)


def test_pairs_within_the_margin_cost_nothing_and_beyond_it_their_excess():
    apart, together = torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # Similarities differ by 1 in the two off-diagonal entries of four.
    assert marginal_distance(apart, together, 0.0).item() == pytest.approx(0.5)
    assert marginal_distance(apart, together, 0.25).item() == pytest.approx(0.375)
    assert marginal_distance(apart, together, 1.0).item() == 0


def test_the_distance_loss_agrees_with_a_double_loop_over_pairs_of_one_image():
    z, f = torch.randn(2, 4, 3), torch.randn(2, 4, 6)
    cos = torch.nn.functional.cosine_similarity
    total = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(4):
                gap = abs(cos(z[b, i], z[b, j], dim=0) - cos(f[b, i], f[b, j], dim=0))
                total += max(0.0, gap.item() - 0.25)
    assert marginal_distance(z, f, 0.25).item() == pytest.approx(total / (2 * 16), rel=1e-5)


def test_the_cosine_losss_gradient_turns_tokens_without_lengthening_them():
    z, f = torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 5, 8)
    marginal_cosine(z, f, 0.0).backward()
    assert (z.grad * z).sum(dim=-1).abs().max() < 1e-6


def test_the_adaptive_weight_equalises_gradient_norms_at_the_weight_it_is_given():
    weight, x = torch.randn(3, 3, requires_grad=True), torch.randn(5, 3)
    reference, loss = 100 * (x @ weight).square().mean(), 0.1 * (x @ weight).abs().mean()
    factor = adaptive_weight(reference, loss, weight)
    lengths = [
        torch.autograd.grad(one, weight, retain_graph=True)[0].norm()
        for one in (reference, factor * loss)
    ]
    assert lengths[1].item() == pytest.approx(lengths[0].item(), rel=1e-2)
    assert not factor.requires_grad


def test_alignment_at_weight_one_has_as_long_a_gradient_as_the_pixels():
    model = make(align_weight=1.0, margin_cosine=0.0, margin_distance=0.0)
    terms = model.objective(images()).terms
    at = model.encoder.last.weight
    pixel, align = (
        torch.autograd.grad(terms[n], at, retain_graph=True)[0].norm().item()
        for n in ("pixel", "align")
    )
    assert align == pytest.approx(pixel, rel=0.02)


def test_training_samples_the_posterior_and_looking_takes_its_mean():
    model, x = make(), images()
    assert not torch.equal(model.objective(x).reconstruction, model.objective(x).reconstruction)
    assert torch.equal(model.encode(x).latents, model.encode(x).latents)
    assert model.encode(x).grid == (8, 8)


def test_without_alignment_it_is_a_plain_kl_autoencoder_with_no_teacher():
    model = make(align_weight=0.0, teacher="none such")
    assert model.objective(images()).terms.keys() == {"pixel", "kl"} and model.teacher is None


def test_the_kl_term_is_in_the_papers_unit():
    """1e-6 of a nat against an error summed over pixels; ours is a mean, so both are divided by their number."""
    one, thousand = (
        make(align_weight=0.0, kl_weight=w).eval().objective(images()).terms["kl"]
        for w in (1e-6, 1e-3)
    )
    assert thousand.item() == pytest.approx(1000 * one.item(), rel=1e-4)
    moments = make(align_weight=0.0).encoder(images())
    mean, log_variance = moments.chunk(2, dim=-1)
    nats = ((mean**2 + log_variance.exp() - 1 - log_variance) / 2).sum(dim=(1, 2)).mean()
    assert one.item() == pytest.approx(1e-6 * nats.item() / 256, rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"project": "down"},
        {"align": "mean"},
        {"adaptive": False},
        {"teacher": "shuffled:hog"},
        {"teacher": "random"},
        {"noise": 0.5},
    ],
)
def test_every_control_trains(settings):
    model = make(**settings)
    model.objective(images()).total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_teacher_is_neither_saved_nor_trained():
    model = make(teacher="random")
    assert not [name for name in model.state_dict() if "teacher" in name]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"side": 30, "multipliers": (1, 2, 4)},
            "image side 30 is not a multiple of factor 4. Use 28 or 32.",
        ),
        ({"multipliers": ()}, "give one whole number a level"),
        ({"noise": -1.0}, "noise is -1.0; it must not be below 0."),
        ({"teacher": "hogg"}, "Did you mean `hog`"),
    ],
)
def test_what_does_not_fit_is_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        make(**settings)
