"""Tests of the perceptual, adversarial and alignment terms: gradients, schedules, weights."""

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


# The discriminator


def test_generator_loss_has_no_discriminator_gradient():
    adversary, reconstruction = AdversarialLoss(1), images().requires_grad_()
    loss = adversary.generator_loss(reconstruction)
    torch.testing.assert_close(loss, -adversary.discriminator(reconstruction).mean())
    loss.backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())


def test_discriminator_loss_has_no_generator_gradient():
    adversary, reconstruction = AdversarialLoss(1, lecam=0.0), images(seed=2).requires_grad_()
    real, fake = adversary.discriminator(images()), adversary.discriminator(reconstruction)
    loss = adversary.discriminator_loss(images(), reconstruction)
    torch.testing.assert_close(loss, 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean()))
    loss.backward()
    assert reconstruction.grad is None
    assert all(p.grad is not None for p in adversary.parameters())


def test_lecam_pulls_logits_towards_running_means():
    adversary = AdversarialLoss(1, lecam=2.0)
    adversary.real.fill_(0.7)
    adversary.fake.fill_(-0.4)
    real, fake = (adversary.discriminator(x).detach() for x in (images(), images(seed=2)))
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    pull = F.relu(real + 0.4).square().mean() + F.relu(0.7 - fake).square().mean()
    torch.testing.assert_close(
        adversary.discriminator_loss(images(), images(seed=2)).detach(), hinge + 2 * pull
    )
    assert adversary.real.item() == pytest.approx(
        0.7 + 0.001 * (real.mean().item() - 0.7), abs=1e-6
    )


def test_discriminator_and_generator_learn():
    torch.manual_seed(0)
    adversary, fake = AdversarialLoss(1), torch.zeros(4, 1, 8, 8, requires_grad=True)
    discriminator_optimizer = torch.optim.Adam(adversary.parameters(), lr=2e-3)
    for _ in range(40):
        discriminator_optimizer.zero_grad()
        adversary.discriminator_loss(images(), fake).backward()
        discriminator_optimizer.step()
    assert (
        adversary.discriminator(images()).mean() > 0.5 > -0.5 > adversary.discriminator(fake).mean()
    )
    generator_optimizer = torch.optim.Adam([fake], lr=0.05)
    before = adversary.generator_loss(fake).item()
    for _ in range(20):
        generator_optimizer.zero_grad()
        adversary.generator_loss(fake).backward()
        generator_optimizer.step()
    assert adversary.generator_loss(fake).item() < before - 0.5


# The feature distance


def test_feature_distance_properties():
    maps = [torch.randn(2, 5, 3, 3), torch.randn(2, 7, 2, 2)]
    others = [torch.randn_like(m) for m in maps]
    assert feature_distance(maps, maps) == 0
    torch.testing.assert_close(feature_distance(maps, others), feature_distance(others, maps))
    torch.testing.assert_close(
        feature_distance([3 * m for m in maps], others), feature_distance(maps, others)
    )
    opposite = feature_distance(maps, [-m for m in maps])
    torch.testing.assert_close(opposite, torch.tensor(4.0))


def test_feature_distance_gradient_skips_the_network():
    extractor = get_feature_extractor("random", channels=1)
    reconstruction = images(seed=3).requires_grad_()
    feature_distance(extractor.layers(reconstruction), extractor.layers(images())).backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in extractor.network.parameters())


def test_extractor_without_layers_raises():
    loss = PerceptualAdversarialLoss(
        PerceptualAdversarialConfig(perceptual_weight=1.0, perceptual="hog"), channels=1
    )
    with pytest.raises(UserError) as error:
        terms_at(loss, 1.0)
    assert "hog" in str(error.value) and "random" in str(error.value)


# Both terms in a tokenizer


def terms_at(loss: PerceptualAdversarialLoss, progress: float) -> dict[str, torch.Tensor]:
    weight = torch.ones(1, requires_grad=True)
    reconstruction = images(seed=2) * weight
    return loss(
        images(),
        reconstruction,
        pixel_loss=F.mse_loss(reconstruction, images()),
        last_weight=weight,
        progress=torch.tensor(progress),
    )


def test_default_settings_add_no_term():
    assert terms_at(PerceptualAdversarialLoss(PerceptualAdversarialConfig(), channels=1), 1.0) == {}


def test_schedule_of_both_terms():
    settings = PerceptualAdversarialConfig(
        perceptual_weight=2.0, adversarial_weight=0.5, adversarial_start=0.3
    )
    torch.manual_seed(0)
    loss = PerceptualAdversarialLoss(settings, channels=1)
    early, half, late = (terms_at(loss, progress) for progress in (0.0, 0.02, 0.31))
    assert early["perceptual"] == early["adversarial"] == early["discriminator"] == 0
    torch.testing.assert_close(2 * half["perceptual"], late["perceptual"])
    assert half["discriminator"] == 0 < late["discriminator"] and late["adversarial"] != 0


def test_adaptive_weight_scales_the_adversarial_gradient():
    settings = PerceptualAdversarialConfig(adversarial_weight=0.5, lecam=0.0)
    torch.manual_seed(0)
    loss, weight = (
        PerceptualAdversarialLoss(settings, channels=1),
        torch.ones(1, requires_grad=True),
    )
    reconstruction = images(seed=2) * weight
    pixel_loss = F.mse_loss(reconstruction, images())
    terms = loss(
        images(),
        reconstruction,
        pixel_loss=pixel_loss,
        last_weight=weight,
        progress=torch.tensor(1.0),
    )
    (gradient,) = torch.autograd.grad(terms["adversarial"], weight, retain_graph=True)
    (pixel_gradient,) = torch.autograd.grad(pixel_loss, weight)
    torch.testing.assert_close(
        gradient.abs(), 0.5 * pixel_gradient.abs(), rtol=2e-2, atol=1e-5
    )  # because of the 1e-4 of Eq. 7
    assert adaptive_weight(torch.tensor(0.0) * weight.sum(), weight.sum(), weight) == 0


@pytest.mark.parametrize(("name", "value"), [("adversarial_start", 2.0), ("lecam", -1.0)])
def test_invalid_settings_raise(name, value):
    with pytest.raises(UserError) as error:
        PerceptualAdversarialConfig(**{name: value})
    assert name in str(error.value) and str(value) in str(error.value)


# SoftVQ-VAE's alignment


def test_alignment_agrees_with_a_double_loop():
    z, f = torch.randn(2, 4, 5), torch.randn(2, 8, 5)
    by_patch = [
        F.cosine_similarity(z[b, p // 2], f[b, p], dim=0) for b in range(2) for p in range(8)
    ]
    torch.testing.assert_close(alignment(z, f, "repeat"), torch.stack(by_patch).mean())
    pooled = [
        F.cosine_similarity(z[b, n], f[b, 2 * n : 2 * n + 2].mean(0), dim=0)
        for b in range(2)
        for n in range(4)
    ]
    torch.testing.assert_close(alignment(z, f, "pool"), torch.stack(pooled).mean())
    whole = [F.cosine_similarity(z[b].mean(0), f[b].mean(0), dim=0) for b in range(2)]
    torch.testing.assert_close(alignment(z, f, "global"), torch.stack(whole).mean())


def test_alignment_is_maximized_by_the_encoder():
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


def test_global_alignment_needs_no_blocks_of_patches():
    odd = SMALL | {"num_tokens": 5, "align_weight": 0.1}
    with pytest.raises(UserError) as error:
        SoftVQ.Config(**odd)
    assert "16 patches" in str(error.value) and "5" in str(error.value)
    assert SoftVQ.Config(**odd, align="global")


# VA-VAE's stages


def test_stages_of_va_vae():
    torch.manual_seed(0)
    staged = VAVAE(VAVAE.Config(**GRID, stages=True, adaptive=False)).eval()
    values = []
    for progress in (0.0, 0.8, 0.95):
        staged.progress.fill_(progress)
        torch.manual_seed(1)
        values.append(staged.objective(images()).terms["align"].item())
    strong, relaxed, margins = values
    assert strong == pytest.approx(5 * relaxed)
    assert margins < relaxed
    plain = VAVAE(VAVAE.Config(**GRID, adaptive=False)).eval()
    plain.load_state_dict(staged.state_dict())
    torch.manual_seed(1)
    assert plain.objective(images()).terms["align"].item() == pytest.approx(margins)


def test_precomputed_features_give_equal_terms():
    torch.manual_seed(0)
    for model in (
        VAVAE(VAVAE.Config(**GRID)),
        SoftVQ(SoftVQ.Config(**SMALL, codebook_size=16, align_weight=0.5)),
    ):
        precomputed = [teacher.features(images(), model.feature_grid) for teacher in model.teachers]
        torch.manual_seed(1)
        expected = model.objective(images()).terms
        torch.manual_seed(1)
        assert model.objective(images(), *precomputed).terms == expected
