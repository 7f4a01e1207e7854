"""Gaussian references, interpolation, equivariance and perturbed codes, against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from workbench.analysis.diagnosis.checks import checks
from workbench.analysis.diagnosis.generator_rules import tk042_no_better_than_gaussians
from workbench.analysis.generation.fidelity import fidelity
from workbench.analysis.learnability.decoded_neighborhoods import interpolation_distance
from workbench.analysis.learnability.decoder_noise import decoder_noise
from workbench.collect.class_gaussians import fit_class_gaussians
from workbench.collect.collectors.equivariance import TRANSFORMS, latent_errors
from workbench.collect.collectors.interpolation import (
    TrainingNeighbors,
    nearest_partners,
    spherical_interpolation,
)
from workbench.collect.collectors.perturbed_codes import nearest_codes, perturb_codes
from workbench.core.errors import NotApplicable
from workbench.core.separable import fit_separable
from workbench.storage.evidence import Evidence


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# Class Gaussians


def test_separable_fit_recovers_both_factors():
    tokens = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.2], [0.0, 0.2, 1.0]])
    channels = np.diag([4.0, 1.0])
    rows = np.linalg.cholesky(tokens) @ normal(20_000, 3, 2) @ np.sqrt(channels)
    fitted = fit_separable(rows)
    np.testing.assert_allclose(fitted.tokens, tokens, atol=0.03)
    np.testing.assert_allclose(fitted.channels, channels, atol=0.1)
    assert fitted.eigenvalues.sum() == pytest.approx(np.square(rows).sum() / len(rows))


@pytest.mark.parametrize("num_images", [4000, 20])  # more and fewer than the 24 dimensions
def test_class_gaussians_have_the_moments_of_the_latents(num_images):
    labels = np.arange(num_images) % 2
    mixing = normal(24, 24, seed=1) * np.linspace(0.1, 2, 24)  # no product of tokens and channels
    latents = (normal(num_images, 24) @ mixing).reshape(num_images, 12, 2)
    latents += 10 * labels[:, None, None]
    gaussians = fit_class_gaussians(latents, labels)
    draws = gaussians.sample(np.repeat([0, 1, 7], 20_000), seed=1).reshape(3, 20_000, 24)
    means = np.stack([latents[labels == 0].mean(0), latents[labels == 1].mean(0), latents.mean(0)])
    np.testing.assert_allclose(draws.mean(axis=1).reshape(means.shape), means, atol=0.5)
    residuals = (latents - means[labels]).reshape(num_images, 24)
    covariance = residuals.T @ residuals / (num_images - 2)
    scale = np.abs(covariance).max()
    for drawn in draws:
        np.testing.assert_allclose(np.cov(drawn.T) / scale, covariance / scale, atol=0.05)


@pytest.mark.parametrize("num_per_class", [1, 9])
def test_class_gaussians_refuse_few_images_per_class(num_per_class):
    """The variance of draws around few images is far above that of the latents."""
    with pytest.raises(NotApplicable):
        fit_class_gaussians(normal(20 * num_per_class, 2, 2), np.arange(20 * num_per_class) % 20)


@pytest.mark.parametrize("tokens", [2, 80])  # fewer and more dimensions than images
def test_class_gaussians_refuse_latents_that_are_not_finite(tokens):
    latents = normal(100, tokens, 2)
    latents[7, 1] = np.nan
    with pytest.raises(NotApplicable):
        fit_class_gaussians(latents, np.arange(100) % 2)


def generator_evidence(samples: np.ndarray) -> Evidence:
    return Evidence(
        {"run": "g", "step": 1, "tokenizer": {"run": "a"}, "feature_extractor": "hog"},
        features=normal(400, 3),
        train_features=normal(400, 3, seed=1),
        sample_features=samples,
        gaussian_features=normal(400, 3, seed=2) + 1,
    )


@pytest.mark.parametrize(("shift", "is_flagged"), [(0.5, False), (2.0, True)])
def test_generator_has_to_beat_the_class_gaussians(shift, is_flagged):
    """The distance of translated sets is the squared length of the translation."""
    evidence = generator_evidence(normal(400, 3, seed=2) + shift)
    result = fidelity(**evidence.kwargs_for(fidelity), splits=10)
    assert result.class_gaussians.value == pytest.approx(3, rel=0.1)
    assert result.samples_distance.value == pytest.approx(3 * shift**2, rel=0.1)
    assert set(result.table()["distance"]) >= {"class Gaussians", "gFD"}
    codes = {check.code for check in checks([evidence]).findings}
    assert ("TK042" in codes) == is_flagged


def test_same_draws_have_the_distance_of_the_samples():
    evidence = generator_evidence(normal(400, 3, seed=2) + 1)
    result = fidelity(**evidence.kwargs_for(fidelity), splits=10)
    assert result.class_gaussians.value == pytest.approx(result.samples_distance.value, rel=1e-9)


def test_samples_and_fewer_gaussians_are_compared_at_equal_n():
    """A distance falls with n, so that 300 draws are farther than 3,000 of the same law."""
    result = fidelity(
        train_features=normal(3000, 32),
        sample_features=normal(3000, 32, seed=1),
        gaussian_features=normal(300, 32, seed=2),
        splits=10,
    )
    gaussians = result.class_gaussians
    assert gaussians.n == 300
    assert gaussians.value > 5 * result.samples_distance.value
    assert gaussians.samples == pytest.approx(gaussians.value, rel=0.1)


def test_guidance_is_named_instead_of_the_training():
    guided, unguided = (generator_evidence(normal(400, 3, seed=2) + 2.0) for _ in range(2))
    guided.provenance["sampling"] = {"guidance": 2.0}
    unguided.provenance["sampling"] = {"guidance": 1.0}
    findings = [tk042_no_better_than_gaussians(evidence) for evidence in (guided, unguided)]
    assert findings[0].numbers == findings[1].numbers
    assert "--guidance 1" in findings[0].advice and "guidance" not in findings[1].advice
    result = fidelity(**guided.kwargs_for(fidelity), splits=10)
    assert "guidance 2" in result.full_name(result.samples_distance)


# Interpolation


def test_interpolation_at_zero_is_the_latent_and_midway_bisects_the_arc():
    start = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]]])
    end = torch.tensor([[[0.0, 1.0]], [[4.0, 0.0]]])
    torch.testing.assert_close(spherical_interpolation(start, end, 0.0), start)
    half = torch.tensor([[[0.5**0.5, 0.5**0.5]], [[3.0, 0.0]]])
    torch.testing.assert_close(spherical_interpolation(start, end, 0.5), half)


def test_partners_are_among_the_nearest_of_centered_latents():
    training = normal(50, 2, 3) + 100.0
    is_scaled = np.array([1.0, 1.0, 50.0])
    held_out = training[::-1] + 0.0
    centered = ((training - training.mean(0)) / training.std((0, 1))).reshape(50, -1)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    nearest = np.argsort(-(unit[::-1] @ unit.T), axis=1)[:, :10]
    partners = nearest_partners(
        held_out * is_scaled, TrainingNeighbors.of(training * is_scaled), seed=0
    )
    assert all(partner in row for partner, row in zip(partners, nearest, strict=True))


# Equivariance


def tokens_of(maps: torch.Tensor) -> torch.Tensor:
    return rearrange(maps, "b d h w -> b (h w) d")


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_mean_pooling_is_equivariant(name):
    images = torch.from_numpy(normal(8, 3, 8, 8))
    transform = TRANSFORMS[name]
    transformed = tokens_of(transform(F.avg_pool2d(images, 2)))
    expected = tokens_of(F.avg_pool2d(transform(images), 2))
    assert max(latent_errors(transformed, expected)) == pytest.approx(0, abs=1e-12)


def test_unrelated_latents_have_an_error_of_two_only_without_position_means():
    position_means = normal(1, 16, 4, seed=3)
    first, second = (torch.from_numpy(normal(3000, 16, 4, seed=seed)) for seed in (1, 2))
    raw, centered = latent_errors(first + 5 * torch.from_numpy(position_means), second)
    assert centered == pytest.approx(2, rel=0.02)
    assert raw == pytest.approx(2 + 25 * np.square(position_means).mean(), rel=0.02)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_unrelated_latents_have_an_error_of_two_by_every_transform(name):
    """Averaged latents have a quarter of the variance, and would seem to be related."""
    first, second = (torch.from_numpy(normal(3000, 4, 4, 4, seed=seed)) for seed in (1, 2))
    moved = TRANSFORMS[name](first)
    expected = second[..., : moved.shape[2], : moved.shape[3]]
    rows = [rearrange(maps, "b d h w -> b (h w) d") for maps in (moved, expected)]
    assert latent_errors(*rows)[1] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(("num_features", "is_too_high"), [(4, False), (64, True)])
def test_excess_of_few_images_is_too_high(num_features, is_too_high):
    """An ideal decoder has no excess, but sets that are not paired differ by chance."""
    features, decoded = (normal(400, num_features, seed=seed) for seed in (1, 2))
    partners, latents = np.zeros(400, int), np.zeros((400, 1, 2))
    result = interpolation_distance(features, features, decoded, partners, latents)
    assert (result.neighborhoods[0].excess > 1) == is_too_high
    assert result.num_features == num_features
    assert ("too high" in result.summary()) == is_too_high


# Perturbed codes


def test_perturbed_codes_are_near_and_as_many_as_requested():
    codebook = torch.arange(32.0)[None, :, None].expand(2, 32, 1).clone()
    codebook[1] = codebook[1].flip(0)
    neighbors = nearest_codes(codebook)
    assert neighbors.shape == (2, 32, 2)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 32, (500, 8)))
    generator = torch.Generator().manual_seed(0)
    perturbed = perturb_codes(codes, neighbors, 0.25, generator)
    is_changed = perturbed != codes
    assert is_changed.double().mean().item() == pytest.approx(0.25, abs=0.02)
    assert (perturbed - codes).abs().max() <= 2
    assert torch.equal(perturb_codes(codes, neighbors, 0.0, generator), codes)


# Noise


def test_slope_of_an_orthonormal_decoder():
    """Slope: variance of the latents per pixel. Doubling level: root of lost over held variance."""
    n, side, rank, level = 400, 4, 6, 0.25
    basis = np.linalg.qr(normal(side**2, side**2))[0]
    variances = np.linspace(0.002, 0.0005, side**2)
    coordinates = normal(n, side**2, seed=1) * np.sqrt(variances)
    held = coordinates[:, :rank] @ basis[:, :rank].T
    lost = coordinates[:, rank:] @ basis[:, rank:].T
    deviation = coordinates[:, :rank].std()
    noise = level * deviation * normal(n, rank, seed=2) @ basis[:, :rank].T
    pixels = np.round(255 * np.stack([held + lost + 0.5, held + 0.5])).astype(np.uint8)
    images, reconstructions = pixels.reshape(2, n, side, side, 1)
    result = decoder_noise(
        images,
        reconstructions,
        np.zeros((n, 1, rank)),
        np.array([level]),
        np.square(noise - lost).mean(axis=1)[:, None],
    )
    assert result.slope == pytest.approx(rank * deviation**2 / side**2, rel=0.1)
    expected = np.sqrt(np.square(lost).sum() / (n * rank * deviation**2))
    assert result.doubling_level == pytest.approx(expected, rel=0.1)
    assert result.doubling_low < result.doubling_level < result.doubling_high


@pytest.mark.parametrize("distance, ignored", [(2.0, 0.2), (100.0, 0.8)])
def test_a_decoder_that_snaps_to_codewords_has_no_slope(distance, ignored):
    """Pixels are codewords at multiples of `distance`: noise below half of it changes nothing."""
    n, pixels = 200, 16
    levels = np.array([0.1, 0.2, 0.8])
    error = 5 / 255 * (normal(n, pixels, seed=1) > 0)
    moved = np.rint(levels[:, None, None] * normal(3, n, pixels, seed=2) / distance)
    noise_mse = np.square(0.1 * moved - error).mean(axis=2).T
    reconstructions = np.full((n, 4, 4, 1), 100, np.uint8)
    images = np.round(reconstructions + 255 * error.reshape(n, 4, 4, 1)).astype(np.uint8)
    result = decoder_noise(images, reconstructions, np.zeros((n, 4, 4)), levels, noise_mse)
    assert result.ignored_level == ignored
    assert np.isnan(result.doubling_level) and result.has_slope == (ignored == 0.8)
    if result.has_slope:  # noise never moves a token to another codeword
        assert abs(result.slope) < 1e-3


def test_noise_of_a_lossless_decoder_has_no_ratio():
    images = np.full((60, 4, 4, 1), 100, np.uint8)
    levels = np.array([0.1, 0.2])
    result = decoder_noise(
        images,
        images,
        np.zeros((60, 4, 4)),
        levels,
        np.full((60, 2), 0.01),
        levels,
        np.ones((60, 2)),
    )
    assert "squared error is 1." in result.summary()


def test_missing_arrays_name_the_command_that_collects_them():
    """Evidence of earlier versions, and 1-D tokens with the stored reason."""
    from workbench.analysis.learnability.decoded_neighborhoods import perturbed_codes
    from workbench.analysis.learnability.equivariance import equivariance

    old = Evidence({"run": "a", "step": 1}, features=normal(4, 2), codes=np.zeros((4, 2), int))
    with pytest.raises(NotApplicable, match="workbench collect runs/a --also perturbed_codes"):
        old.kwargs_for(perturbed_codes)
    reasons = {"equivariance_mse": "a has 1-D tokens."}
    with pytest.raises(NotApplicable, match="1-D tokens"):
        Evidence(old.provenance | {"not_collected": reasons}).kwargs_for(equivariance)
