"""Tests of VA-VAE: its losses in closed form, the adaptive weight, and the controls."""

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


def test_equal_directions_have_no_loss():
    f = torch.randn(2, 5, 8)
    assert marginal_cosine(3 * f, f, 0.0).item() == pytest.approx(
        0, abs=1e-6
    )  # only the direction counts
    assert marginal_distance(3 * f, f, 0.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("angle", "margin", "cost"),
    [(0.0, 0.0, 0.0), (90.0, 0.0, 1.0), (180.0, 0.0, 2.0), (60.0, 0.5, 0.0), (90.0, 0.5, 0.5)],
)
def test_cosine_loss_at_known_angles(angle, margin, cost):
    rotated = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    loss = marginal_cosine(
        rotated.expand(1, 3, 2), torch.tensor([1.0, 0.0]).expand(1, 3, 2), margin
    )
    assert loss.item() == pytest.approx(cost, abs=1e-6)


def test_distance_loss_counts_the_excess_over_the_margin():
    apart, together = torch.eye(2)[None], torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # Similarities differ by 1 in the two off-diagonal entries of four.
    assert marginal_distance(apart, together, 0.0).item() == pytest.approx(0.5)
    assert marginal_distance(apart, together, 0.25).item() == pytest.approx(0.375)
    assert marginal_distance(apart, together, 1.0).item() == 0


def test_distance_loss_agrees_with_a_loop_over_pairs():
    z, f = torch.randn(2, 4, 3), torch.randn(2, 4, 6)
    cos = torch.nn.functional.cosine_similarity
    total = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(4):
                gap = abs(cos(z[b, i], z[b, j], dim=0) - cos(f[b, i], f[b, j], dim=0))
                total += max(0.0, gap.item() - 0.25)
    assert marginal_distance(z, f, 0.25).item() == pytest.approx(total / (2 * 16), rel=1e-5)


def test_cosine_loss_only_rotates_tokens():
    z, f = torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 5, 8)
    marginal_cosine(z, f, 0.0).backward()
    assert (z.grad * z).sum(dim=-1).abs().max() < 1e-6


def test_adaptive_weight_equalizes_gradient_norms():
    weight, x = torch.randn(3, 3, requires_grad=True), torch.randn(5, 3)
    reference, loss = 100 * (x @ weight).square().mean(), 0.1 * (x @ weight).abs().mean()
    factor = adaptive_weight(reference, loss, weight)
    lengths = [
        torch.autograd.grad(term, weight, retain_graph=True)[0].norm()
        for term in (reference, factor * loss)
    ]
    assert lengths[1].item() == pytest.approx(lengths[0].item(), rel=1e-2)
    assert not factor.requires_grad


def test_alignment_gradient_is_as_long_as_the_pixel_gradient():
    model = make(align_weight=1.0, margin_cosine=0.0, margin_distance=0.0)
    terms = model.objective(images()).terms
    parameter = model.encoder.last.weight
    pixel, align = (
        torch.autograd.grad(terms[n], parameter, retain_graph=True)[0].norm().item()
        for n in ("pixel", "align")
    )
    assert align == pytest.approx(pixel, rel=0.02)


def test_training_samples_and_encoding_uses_the_mean():
    model, x = make(), images()
    assert not torch.equal(model.objective(x).reconstruction, model.objective(x).reconstruction)
    assert torch.equal(model.encode(x).latents, model.encode(x).latents)
    assert model.encode(x).grid == (8, 8)


def test_without_alignment_there_is_no_teacher():
    model = make(align_weight=0.0, teacher="none such")
    assert model.objective(images()).terms.keys() == {"pixel", "kl"} and model.teacher is None


def test_kl_term_has_the_unit_of_the_paper():
    """The paper's error is a sum over pixels and ours a mean, so the weight is divided as well."""
    small, large = (
        make(align_weight=0.0, kl_weight=w).eval().objective(images()).terms["kl"]
        for w in (1e-6, 1e-3)
    )
    assert large.item() == pytest.approx(1000 * small.item(), rel=1e-4)
    moments = make(align_weight=0.0).encoder(images())
    mean, log_variance = moments.chunk(2, dim=-1)
    nats = ((mean**2 + log_variance.exp() - 1 - log_variance) / 2).sum(dim=(1, 2)).mean()
    assert small.item() == pytest.approx(1e-6 * nats.item() / 256, rel=1e-4)


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


def test_teacher_is_not_in_the_state():
    model = make(teacher="random")
    assert not [name for name in model.state_dict() if "teacher" in name]


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"side": 30, "multipliers": (1, 2, 4)}, ("side", "30", "28 or 32")),
        ({"multipliers": ()}, ("multipliers",)),
        ({"noise": -1.0}, ("noise", "-1.0")),
        ({"teacher": "hogg"}, ("hogg", "`hog`")),
    ],
)
def test_invalid_settings_raise(settings, fragments):
    with pytest.raises(UserError) as error:
        make(**settings)
    assert all(fragment in str(error.value) for fragment in fragments)
