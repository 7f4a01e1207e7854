"""Perceptual and adversarial terms: who learns from which, when they begin, and how much they weigh."""

import pytest
import torch
import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.features import get_feature_extractor
from workbench.nn.discriminator import AdversarialLoss
from workbench.nn.perceptual import feature_distance
from workbench.nn.weighting import adaptive_weight
from workbench.tokenizers.perceptual_adversarial import (
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)
from workbench.tokenizers.softvq import SoftVQ, alignment
from workbench.tokenizers.vavae import VAVAE

SMALL = {
    "side": 8,
    "channels": 1,
    "patch": 2,
    "num_tokens": 4,
    "dim": 6,
    "width": 16,
    "depth": 1,
    "heads": 2,
}
GRID = {"side": 8, "channels": 1, "dim": 4, "width": 8, "multipliers": (1, 2)}


def images(count: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# The adversary


def test_the_generators_loss_is_the_mean_verdict_and_teaches_the_discriminator_nothing():
    adversary, shown = AdversarialLoss(1), images().requires_grad_()
    loss = adversary.fool(shown)
    torch.testing.assert_close(loss, -adversary.discriminator(shown).mean())
    loss.backward()
    assert shown.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())


def test_the_discriminators_loss_is_the_hinge_and_teaches_the_generator_nothing():
    adversary, shown = AdversarialLoss(1, lecam=0.0), images(seed=2).requires_grad_()
    real, fake = adversary.discriminator(images()), adversary.discriminator(shown)
    loss = adversary.judge(images(), shown)
    torch.testing.assert_close(loss, 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean()))
    loss.backward()
    assert shown.grad is None
    assert all(p.grad is not None for p in adversary.parameters())


def test_lecam_pulls_verdicts_towards_the_others_running_mean():
    adversary = AdversarialLoss(1, lecam=2.0)
    adversary.real.fill_(0.7)
    adversary.fake.fill_(-0.4)
    real, fake = (adversary.discriminator(x).detach() for x in (images(), images(seed=2)))
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    pull = F.relu(real + 0.4).square().mean() + F.relu(0.7 - fake).square().mean()
    torch.testing.assert_close(adversary.judge(images(), images(seed=2)).detach(), hinge + 2 * pull)
    assert adversary.real.item() == pytest.approx(
        0.7 + 0.001 * (real.mean().item() - 0.7), abs=1e-6
    )


def test_a_discriminator_learns_to_tell_and_a_generator_to_fool_it():
    torch.manual_seed(0)
    adversary, fake = AdversarialLoss(1), torch.zeros(4, 1, 8, 8, requires_grad=True)
    judge = torch.optim.Adam(adversary.parameters(), lr=2e-3)
    for _ in range(40):
        judge.zero_grad()
        adversary.judge(images(), fake).backward()
        judge.step()
    assert (
        adversary.discriminator(images()).mean() > 0.5 > -0.5 > adversary.discriminator(fake).mean()
    )
    fooling = torch.optim.Adam([fake], lr=0.05)
    before = adversary.fool(fake).item()
    for _ in range(20):
        fooling.zero_grad()
        adversary.fool(fake).backward()
        fooling.step()
    assert adversary.fool(fake).item() < before - 0.5


# The distance in features


def test_the_distance_is_0_for_equal_images_symmetric_and_blind_to_a_features_length():
    maps = [torch.randn(2, 5, 3, 3), torch.randn(2, 7, 2, 2)]
    others = [torch.randn_like(m) for m in maps]
    assert feature_distance(maps, maps) == 0
    torch.testing.assert_close(feature_distance(maps, others), feature_distance(others, maps))
    torch.testing.assert_close(
        feature_distance([3 * m for m in maps], others), feature_distance(maps, others)
    )
    opposite = feature_distance(maps, [-m for m in maps])
    torch.testing.assert_close(opposite, torch.tensor(4.0))


def test_gradients_reach_the_reconstruction_through_the_frozen_network_and_not_its_weights():
    network, shown = get_feature_extractor("random", channels=1), images(seed=3).requires_grad_()
    feature_distance(network.layers(shown), network.layers(images())).backward()
    assert shown.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.network.parameters())


def test_a_teacher_without_layers_is_refused_with_those_that_have_them():
    terms = PerceptualAdversarialLoss(
        PerceptualAdversarialConfig(perceptual_weight=1.0, perceptual="hog"), channels=1
    )
    with pytest.raises(UserError, match="hog has no layers to compare images in; random"):
        looked(terms, 1.0)


# Both terms in a tokenizer


def looked(terms: PerceptualAdversarialLoss, progress: float) -> dict[str, torch.Tensor]:
    weight = torch.ones(1, requires_grad=True)
    shown = images(seed=2) * weight
    pixel = F.mse_loss(shown, images())
    return terms(images(), shown, pixel=pixel, last=weight, progress=torch.tensor(progress))


def test_nothing_is_added_where_nothing_was_asked_for():
    assert looked(PerceptualAdversarialLoss(PerceptualAdversarialConfig(), channels=1), 1.0) == {}


def test_the_adversary_waits_for_its_start_and_the_perceptual_term_rises():
    settings = PerceptualAdversarialConfig(
        perceptual_weight=2.0, adversarial_weight=0.5, adversarial_start=0.3
    )
    torch.manual_seed(0)
    terms = PerceptualAdversarialLoss(settings, channels=1)
    early, half, late = (looked(terms, progress) for progress in (0.0, 0.02, 0.31))
    assert early["perceptual"] == early["adversarial"] == early["discriminator"] == 0
    torch.testing.assert_close(2 * half["perceptual"], late["perceptual"])
    assert half["discriminator"] == 0 < late["discriminator"] and late["adversarial"] != 0


def test_the_adaptive_weight_makes_the_verdicts_gradient_as_long_as_the_errors_times_its_weight():
    settings = PerceptualAdversarialConfig(adversarial_weight=0.5, lecam=0.0)
    torch.manual_seed(0)
    terms, weight = (
        PerceptualAdversarialLoss(settings, channels=1),
        torch.ones(1, requires_grad=True),
    )
    shown = images(seed=2) * weight
    pixel = F.mse_loss(shown, images())
    found = terms(images(), shown, pixel=pixel, last=weight, progress=torch.tensor(1.0))
    (verdict,) = torch.autograd.grad(found["adversarial"], weight, retain_graph=True)
    (error,) = torch.autograd.grad(pixel, weight)
    torch.testing.assert_close(
        verdict.abs(), 0.5 * error.abs(), rtol=2e-2, atol=1e-5
    )  # the weight's 1e-4 in Eq. 7
    assert adaptive_weight(torch.tensor(0.0) * weight.sum(), weight.sum(), weight) == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"adversarial_start": 2.0}, "adversarial_start is 2.0"), ({"lecam": -1.0}, "lecam is -1.0")],
)
def test_settings_that_do_not_fit_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        PerceptualAdversarialConfig(**settings)


# SoftVQ-VAE's alignment


def test_each_way_to_align_is_its_double_loop():
    z, f = torch.randn(2, 4, 5), torch.randn(2, 8, 5)
    each = [F.cosine_similarity(z[b, p // 2], f[b, p], dim=0) for b in range(2) for p in range(8)]
    torch.testing.assert_close(alignment(z, f, "repeat"), torch.stack(each).mean())
    pooled = [
        F.cosine_similarity(z[b, n], f[b, 2 * n : 2 * n + 2].mean(0), dim=0)
        for b in range(2)
        for n in range(4)
    ]
    torch.testing.assert_close(alignment(z, f, "pool"), torch.stack(pooled).mean())
    whole = [F.cosine_similarity(z[b].mean(0), f[b].mean(0), dim=0) for b in range(2)]
    torch.testing.assert_close(alignment(z, f, "global"), torch.stack(whole).mean())


def test_alignment_is_maximised_and_reaches_the_encoder():
    torch.manual_seed(0)
    model = SoftVQ(SoftVQ.Config(**SMALL, codebook_size=16, align_weight=0.5)).train()
    optimizer, x = torch.optim.Adam(model.parameters(), lr=3e-3), images(16)
    before = model.objective(x).terms["align"].item()
    for _ in range(60):
        optimizer.zero_grad()
        model.objective(x).terms["align"].backward()
        optimizer.step()
    assert model.objective(x).terms["align"].item() < before - 0.1
    assert model.encoder.embed.weight.grad.abs().sum() > 0


def test_tokens_that_do_not_divide_the_patches_are_refused_unless_alignment_is_global():
    odd = SMALL | {"num_tokens": 5, "align_weight": 0.1}
    with pytest.raises(
        UserError, match="16 patches do not divide among 5 tokens, as align=repeat needs"
    ):
        SoftVQ.Config(**odd)
    assert SoftVQ.Config(**odd, align="global")


# VA-VAE's stages


def test_the_three_stages_align_hard_then_relax_then_add_margins():
    torch.manual_seed(0)
    staged = VAVAE(VAVAE.Config(**GRID, stages=True, adaptive=False)).eval()
    found = []
    for progress in (0.0, 0.8, 0.95):
        staged.progress.fill_(progress)
        torch.manual_seed(1)
        found.append(staged.objective(images()).terms["align"].item())
    hard, relaxed, margins = found
    assert hard == pytest.approx(5 * relaxed)
    assert margins < relaxed
    plain = VAVAE(VAVAE.Config(**GRID, adaptive=False)).eval()
    plain.load_state_dict(staged.state_dict())
    torch.manual_seed(1)
    assert plain.objective(images()).terms["align"].item() == pytest.approx(margins)


def test_features_that_were_computed_before_give_the_same_objective():
    torch.manual_seed(0)
    for model in (
        VAVAE(VAVAE.Config(**GRID)),
        SoftVQ(SoftVQ.Config(**SMALL, codebook_size=16, align_weight=0.5)),
    ):
        ready = [teacher.features(images(), model.cells) for teacher in model.teachers]
        torch.manual_seed(1)
        expected = model.objective(images()).terms
        torch.manual_seed(1)
        assert model.objective(images(), *ready).terms == expected
