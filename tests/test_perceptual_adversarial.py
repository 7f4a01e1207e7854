"""Tests of the perceptual, adversarial and alignment terms: gradients, schedules, weights."""

import pytest
import torch
import torch.nn.functional as F

from workbench.core.errors import UserError
from workbench.features import get_feature_extractor
from workbench.nn.diff_augment import change_colors, cut_out, diff_augment, translate
from workbench.nn.dino_discriminator import DINODiscriminator, SpectralConv1d
from workbench.nn.discriminator import AdversarialLoss, PatchDiscriminator, PatchGAN
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
    adversary, reconstruction = AdversarialLoss(PatchDiscriminator(1)), images().requires_grad_()
    loss = adversary.generator_loss(reconstruction)
    torch.testing.assert_close(loss, -adversary.discriminator(reconstruction).mean())
    loss.backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())


def test_discriminator_loss_has_no_generator_gradient():
    adversary, reconstruction = (
        AdversarialLoss(PatchDiscriminator(1), lecam=0.0),
        images(seed=2).requires_grad_(),
    )
    real, fake = adversary.discriminator(images()), adversary.discriminator(reconstruction)
    loss = adversary.discriminator_loss(images(), reconstruction)
    torch.testing.assert_close(loss, 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean()))
    loss.backward()
    assert reconstruction.grad is None
    assert all(p.grad is not None for p in adversary.parameters())


def test_lecam_pulls_logits_towards_running_means():
    adversary = AdversarialLoss(PatchDiscriminator(1), lecam=2.0)
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
    adversary, fake = (
        AdversarialLoss(PatchDiscriminator(1)),
        torch.zeros(4, 1, 8, 8, requires_grad=True),
    )
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


def test_discriminator_loss_is_weighted_except_for_consistency():
    """Without augmentation of the logits, consistency compares with strongly augmented images."""
    torch.manual_seed(0)
    plain = AdversarialLoss(PatchDiscriminator(1), lecam=0.5)
    adversary = AdversarialLoss(
        plain.discriminator, lecam=0.5, weight=0.2, augmentation=0.5, consistency=4.0
    )
    fake = images(seed=2)
    torch.manual_seed(3)
    loss = adversary.discriminator_loss(images(), fake)
    torch.manual_seed(3)
    seen = [diff_augment(x, probability=0.5) for x in (images(), fake)]
    strong = [diff_augment(x, probability=1.0, cutout=0.5) for x in (images(), fake)]
    real, real_strong, fake_logits, fake_strong = (
        plain.discriminator(x) for x in (seen[0], strong[0], seen[1], strong[1])
    )
    difference = torch.cat([real - real_strong, fake_logits - fake_strong])
    expected = 0.2 * plain.discriminator_loss(*seen) + 4 * difference.square().mean()
    torch.testing.assert_close(loss, expected)


# The discriminators of the papers


def test_patchgan_has_the_size_and_the_field_of_the_paper():
    discriminator = PatchGAN(3)
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_633  # 2.77 M
    first, second = (discriminator.body[i].weight for i in (0, 2))
    assert first.std().item() == pytest.approx(0.02, rel=0.1)
    assert second.std().item() == pytest.approx(0.02, rel=0.02)
    image = torch.zeros(1, 3, 128, 128, requires_grad=True)
    linear = torch.nn.Sequential(
        *(part for part in discriminator.body if isinstance(part, torch.nn.Conv2d))
    )
    linear(image)[0, 0, 7, 7].backward()
    seen = image.grad.abs().sum(dim=(0, 1)) > 0
    assert seen.any(dim=0).sum() == seen.any(dim=1).sum() == 70
    assert discriminator(torch.zeros(2, 3, 256, 256)).shape == (2, 1, 30, 30)
    with pytest.raises(UserError, match="24"):
        discriminator(torch.zeros(2, 3, 23, 64))


def test_patchgan_normalizes_by_the_batch():
    """Written out with functions, on the same weights."""
    torch.manual_seed(0)
    discriminator, x = PatchGAN(1), torch.randn(3, 1, 32, 32)
    weights = dict(discriminator.body.named_parameters())
    h = F.leaky_relu(F.conv2d(x, weights["0.weight"], weights["0.bias"], 2, 1), 0.2)
    for index, stride in ((2, 2), (5, 2), (8, 1)):
        h = F.conv2d(h, weights[f"{index}.weight"], None, stride, 1)
        mean, variance = h.mean(dim=(0, 2, 3)), h.var(dim=(0, 2, 3), unbiased=False)
        h = (h - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        gain, bias = weights[f"{index + 1}.weight"], weights[f"{index + 1}.bias"]
        h = F.leaky_relu(gain[:, None, None] * h + bias[:, None, None], 0.2)
    expected = F.conv2d(h, weights["11.weight"], weights["11.bias"], 1, 1)
    torch.testing.assert_close(discriminator(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(discriminator.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_spectral_norm_is_the_largest_singular_value():
    torch.manual_seed(0)
    convolution = SpectralConv1d(6, 4, 3)
    for _ in range(200):
        convolution.update_norm()
    largest = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2)
    x = torch.randn(2, 6, 5)
    padded = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)
    expected = F.conv1d(padded, convolution.weight / largest, convolution.bias)
    torch.testing.assert_close(convolution(x), expected)


class Rows:
    """A frozen network whose rows are patches of 2 x 2 pixels, at two depths."""

    resolution, dim, num_readouts = 8, 4, 2

    def readouts(self, seen):
        rows = F.unfold(seen, 2, stride=2).mT
        return [rows, 2 * rows]


def test_dino_discriminator_crops_or_resizes_and_trains_heads_only():
    torch.manual_seed(0)
    discriminator = DINODiscriminator(Rows())
    x = torch.randn(3, 1, 16, 16)
    logits = {discriminator(x).sum().item() for _ in range(30)}
    assert len(logits) > 3
    shrunk = F.avg_pool2d(x, 2)
    torch.testing.assert_close(discriminator.eval()(x), discriminator(shrunk))
    assert discriminator(x).shape == (3, 2 * 16)
    assert {name.split(".")[0] for name in discriminator.state_dict()} == {"heads"}
    before = discriminator.heads[0].first[0].left.clone()
    with torch.no_grad():
        discriminator.heads[0].first[0].weight.normal_()
    adversary = AdversarialLoss(discriminator)
    loss = adversary.discriminator_loss(images(), images(seed=2))
    assert not torch.equal(discriminator.heads[0].first[0].left, before)
    loss.backward()  # the loss is that of the weights before the update
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_readouts_of_dino_are_those_of_its_blocks(tmp_path):
    """Embedded patches, and rows after the blocks 3, 6, 9 and 12, each plus the class row."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 12, "num_attention_heads": 2}
    config = transformers.ViTConfig(**sizes, intermediate_size=16, image_size=32)
    network = transformers.ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path)
    extractor = get_feature_extractor(f"dino:{tmp_path}")
    x = 2 * torch.rand(2, 3, 32, 32) - 1
    mean, std = torch.tensor([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)])[..., None, None]
    output = network(pixel_values=((x + 1) / 2 - mean) / std, output_hidden_states=True)
    readouts = extractor.readouts(x)
    assert len(readouts) == extractor.num_readouts
    for rows, depth in zip(readouts, (0, 3, 6, 9, 12), strict=True):
        state = output.hidden_states[depth]
        torch.testing.assert_close(rows, state[:, 1:] + state[:, :1])
    torch.testing.assert_close(network.layernorm(state), output.last_hidden_state)
    torch.testing.assert_close(extractor.pooled(x), output.last_hidden_state[:, 0])
    out_of_range = (3 * x).requires_grad_()
    sum(rows.square().sum() for rows in extractor.readouts(out_of_range)).backward()
    assert (out_of_range.grad != 0).all()


# DiffAugment


def test_colors_are_those_of_the_formula():
    x = images()
    torch.manual_seed(0)
    seen = change_colors(x.expand(-1, 3, -1, -1) * torch.tensor([1.0, 0.5, 0.2])[:, None, None])
    torch.manual_seed(0)
    brightness, saturation, contrast = (torch.rand(4, 1, 1, 1) for _ in range(3))
    colors = x.expand(-1, 3, -1, -1) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    colors = colors + (brightness - 0.5)
    gray = colors.mean(1, keepdim=True)
    colors = (colors - gray) * (2 * saturation) + gray
    mean = colors.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(seen, (colors - mean) * (contrast + 0.5) + mean)


def test_translation_shifts_and_fills_with_zeros():
    torch.manual_seed(0)
    x = torch.randn(40, 2, 8, 16)
    moved, offsets = translate(x, fraction=1 / 8), set()
    padded = F.pad(x, (2, 2, 1, 1))
    for image, source in zip(moved, padded, strict=True):
        shifts = [
            (down, right)
            for down in (-1, 0, 1)
            for right in (-2, -1, 0, 1, 2)
            if torch.equal(image, source[:, 1 - down : 9 - down, 2 - right : 18 - right])
        ]
        assert len(shifts) == 1
        offsets.update(shifts)
    assert len(offsets) > 10


def test_cutout_removes_a_square_that_may_leave_the_image():
    torch.manual_seed(0)
    cut = cut_out(torch.ones(200, 1, 10, 20), fraction=0.2)
    areas = (cut == 0).sum(dim=(1, 2, 3))
    assert areas.max() == 2 * 4 and areas.min() < 8
    rows, columns = ((cut[areas == 8] == 0).any(dim=axis)[:, 0].sum(dim=1) for axis in (3, 2))
    assert (rows == 2).all() and (columns == 4).all()


def test_augmentations_are_drawn_for_the_batch_and_are_differentiable():
    assert diff_augment(images(), probability=0.0) is not None
    torch.manual_seed(0)
    unchanged = sum(
        bool(torch.equal(diff_augment(images(), probability=0.5), images())) for _ in range(200)
    )
    assert unchanged == pytest.approx(200 / 8, abs=15)
    x = images().requires_grad_()
    diff_augment(x, probability=1.0).square().sum().backward()
    assert x.grad.abs().sum() > 0


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adversarial_start", 2.0),
        ("perceptual_rise", -0.1),
        ("lecam", -1.0),
        ("discriminator_augmentation", 1.5),
        ("discriminator", "patch"),
    ],
)
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
