"""Tests of the arrays that `collect` writes for each kind of tokenizer and generator."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.analysis.generation.fidelity import fidelity
from workbench.analysis.tokens.budget import token_budget
from workbench.collect import collect, load_images
from workbench.collect.batches import HeldOutImages
from workbench.collect.collectors.base import CollectContext
from workbench.collect.collectors.interpolation import spherical_interpolation
from workbench.collect.collectors.noise import image_noise
from workbench.collect.perturbed import latent_deviation
from workbench.core.errors import UserError
from workbench.core.types import Tokens
from workbench.features import get_feature_extractor
from workbench.launch.in_process import train
from workbench.storage.evidence import ARRAYS
from workbench.storage.evidence_writer import EvidenceWriter
from workbench.storage.run import Run

pytestmark = pytest.mark.slow
SMALL = {"width": 16, "depth": 1, "batch_size": 16, "warmup_steps": 2}


@pytest.fixture(scope="module")
def collected_runs(tmp_path_factory):
    """Train one run per kind of model that has arrays of its own."""
    folder = tmp_path_factory.mktemp("runs")
    train(
        "vqvae-digits",
        folder / "vq",
        codebook_size=16,
        num_tokens=4,
        steps=200,
        save_every=100,
        **SMALL,
    )
    train("karl-digits", folder / "karl", num_tokens=4, steps=30, save_every=30, **SMALL)
    train("unicode2-digits", folder / "uni", codebook_size=32, steps=30, save_every=30, **SMALL)
    larger = SMALL | {"width": 32, "batch_size": 64}
    train("ar-digits", folder / "ar", tokenizer=folder / "vq", steps=250, save_every=250, **larger)
    return folder


def to_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(np.array(array), -1, 1)).float() / 127.5 - 1


def test_features_match_the_feature_extractor(trained):
    evidence, hog = Run(trained / "plain").evidence(), get_feature_extractor("hog", channels=1)
    assert evidence.feature_extractor == "hog" == evidence.teacher
    for images, features in (
        (evidence.images, evidence.features),
        (evidence.reconstructions, evidence.reconstruction_features),
        (evidence.train_images, evidence.train_features),
    ):
        np.testing.assert_allclose(
            features[:20], hog.features(to_tensor(images[:20]), (1, 1))[:, 0], atol=1e-5
        )
    expected = hog.features(to_tensor(evidence.images[:20]), (4, 4))
    np.testing.assert_allclose(evidence.teacher_features[:20], expected, atol=1e-3)
    training_images = load_images(Run(trained / "plain"), "train").pixels
    assert {image.tobytes() for image in evidence.train_images} <= {
        image.tobytes() for image in training_images
    }


def test_skip_leaves_out_one_collector(trained, tmp_path):
    shutil.copytree(trained / "plain", tmp_path / "plain")
    complete = Run(trained / "plain").evidence()
    partial = collect(Run(tmp_path / "plain"), skip=["prefixes"])
    for name in ARRAYS:
        if name.startswith("prefix"):
            assert getattr(complete, name) is not None
            assert getattr(partial, name) is None
        else:
            np.testing.assert_array_equal(getattr(complete, name), getattr(partial, name))
    assert {point.kind for point in token_budget([complete]).points} == {"all tokens", "prefix"}
    assert {point.kind for point in token_budget([partial]).points} == {"all tokens"}


def test_collect_with_another_feature_extractor(trained):
    evidence = collect(Run(trained / "plain"), step=30, limit=10, feature_extractor="random")
    assert evidence.feature_extractor == "random" and evidence.features.shape == (10, 64)
    with pytest.raises(UserError):
        collect(Run(trained / "plain"), feature_extractor="resnet56:/nowhere")


def test_noise_error_grows_with_the_level(trained):
    run = Run(trained / "plain")
    evidence, model = run.evidence(), run.load()
    assert (np.diff(evidence.noise_mse.mean(axis=0)) > 0).all()
    latents = torch.from_numpy(np.array(evidence.latents))
    noise = torch.from_numpy(image_noise(latents.shape, 0, seed=0)[:, 0])
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert not torch.allclose(noise[0], noise[1])
    deviation = latents.var(dim=(0, 1), correction=0).mean().sqrt()
    with torch.no_grad():
        noisy = latents + evidence.noise_levels[0].item() * deviation * noise
        reconstructions = model.decode(Tokens(noisy)).clamp(-1, 1)
    error = ((reconstructions - to_tensor(evidence.images)) / 2).square().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(evidence.noise_mse[:, 0], error, rtol=1e-4)


def context_of(run: Run, folder: Path, limit: int = 2000) -> CollectContext:
    device = torch.device("cpu")
    model = run.load()
    images = load_images(run, sample=limit)
    EvidenceWriter.start(folder, {})
    lengths = {"image": len(images), "picture": len(images), "sample": 0}
    return CollectContext(
        run=run,
        step=run.steps[-1],
        source=run,
        tokenizer=model,
        images=HeldOutImages(images, model, device, num_pictures=len(images), seed=0),
        feature_extractor=get_feature_extractor("hog", channels=1),
        device=device,
        writer=EvidenceWriter(folder, lengths),
        limit=limit,
        seed=0,
        guidance=1.0,
    )


def test_noise_is_in_units_of_deviations_around_the_means_of_channels(trained, tmp_path):
    context = context_of(Run(trained / "plain"), tmp_path / "evidence")
    random = np.random.default_rng(0)
    latents = random.normal(size=(len(context.images), 4, 3)).astype(np.float32)
    active = random.random(latents.shape[:2]) < 0.5
    moved = np.where(active[..., None], latents + np.float32([0, 10, -5]), np.float32(1000))
    context.writer.write({"latents": moved, "active": active})
    expected = np.sqrt(latents[active].var(axis=0).mean())
    assert latent_deviation(context) == pytest.approx(expected, rel=1e-5)


def test_training_latents_are_in_random_order(trained, tmp_path):
    """The first of a folder with one class after another would have few classes."""
    run = Run(trained / "plain")
    train = load_images(run, "train")
    with torch.no_grad():
        training = context_of(run, tmp_path / "evidence").training_latents
        latents = run.load().encode(train.images()).latents.numpy()
    order = np.random.default_rng(1).permutation(len(train))
    np.testing.assert_array_equal(training.labels, train.labels[order])
    np.testing.assert_allclose(training.latents, latents[order], atol=1e-5)


def test_training_latents_are_not_those_of_the_compared_images(trained, tmp_path):
    run = Run(trained / "plain")
    compared = load_images(run, "train", sample=100, seed=0)
    with torch.no_grad():
        latents = run.load().encode(compared.images()).latents.numpy()
        training = context_of(run, tmp_path / "evidence", limit=100).training_latents.latents
    is_shared = np.isclose(training[:, None], latents, atol=1e-5).all(axis=(2, 3)).any(axis=1)
    assert len(training) == 100 and is_shared.mean() < 0.25


def test_only_pictures_of_training_images_are_capped(trained, tmp_path, monkeypatch):
    """A distance of all sets would otherwise have as few images as there are pictures."""
    shutil.copytree(trained, tmp_path / "runs")
    module = importlib.import_module("workbench.collect.collectors.training_images")
    monkeypatch.setattr(module, "MAX_ARRAY_BYTES", 5 * 8 * 8)
    evidence = collect(Run(tmp_path / "runs" / "flow"), limit=120)
    assert len(evidence.train_images) == 5
    assert len(evidence.train_features) == 120
    result = fidelity(**evidence.kwargs_for(fidelity), splits=10)
    assert result.n == len(evidence.sample_features) == len(evidence.gaussian_features) == 120


def test_interpolation_with_a_training_latent(trained):
    run = Run(trained / "plain")
    evidence, model = run.evidence(), run.load()
    training = load_images(run, "train")
    order = np.random.default_rng(1).permutation(len(training))
    with torch.no_grad():
        near = model.encode(training.images(order[evidence.interpolation_partners])).latents
        point = spherical_interpolation(torch.from_numpy(np.array(evidence.latents)), near, 0.5)
        image = ((model.decode(Tokens(point[:1])).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    expected = get_feature_extractor("hog", channels=1).features(image, (1, 1))[0, 0]
    np.testing.assert_allclose(evidence.interpolation_features[0], expected, atol=1e-4)


def test_midpoints_of_nearest_latents(trained, tmp_path):
    shutil.copytree(trained / "plain", tmp_path / "plain")
    run = Run(tmp_path / "plain")
    evidence = collect(run, only=["midpoints"])
    model = run.load()
    flat = np.array(evidence.latents).reshape(len(evidence.latents), -1)
    distances = np.linalg.norm(flat[:1] - flat, axis=1)
    near = int(np.argsort(distances)[1])
    middle = torch.from_numpy((evidence.latents[0] + evidence.latents[near]) / 2)[None]
    with torch.no_grad():
        image = ((model.decode(Tokens(middle)).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    expected = get_feature_extractor("hog", channels=1).features(image, (1, 1))[0, 0]
    np.testing.assert_allclose(evidence.midpoint_features[0], expected, atol=1e-4)


def test_previous_codes_and_untrained_latents(collected_runs):
    run = Run(collected_runs / "vq")
    evidence = run.evidence()
    images = load_images(run).images()
    with torch.no_grad():
        before = run.load(100).encode(images).codes
        assert (evidence.previous_codes == before.numpy()).all()
        torch.manual_seed(run.config.training["seed"])
        untrained = run.build().eval().encode(images).latents
    np.testing.assert_allclose(evidence.untrained_latents, untrained, atol=1e-5)
    assert collect(run, step=100).previous_codes is None


def test_requested_errors_of_an_adaptive_tokenizer(collected_runs):
    evidence = Run(collected_runs / "karl").evidence()
    m, n = len(evidence.requested), len(evidence.images)
    assert evidence.reached.shape == evidence.spent.shape == (m, n)
    assert evidence.spent.min() >= 1 and evidence.spent.max() <= 4
    model, images = (
        Run(collected_runs / "karl").load(),
        load_images(Run(collected_runs / "karl")).images(),
    )
    with torch.no_grad():
        tokens = model.encode(images, error=evidence.requested[2].item())
        error = ((model.decode(tokens).clamp(-1, 1) - images) / 2).abs().mean(dim=(1, 2, 3))
    assert (evidence.spent[2] == tokens.active.sum(dim=1).numpy()).all()
    np.testing.assert_allclose(evidence.reached[2], error, rtol=1e-4)
    assert evidence.budgets.tolist() == [1, 2, 3, 4]
    with torch.no_grad():
        decoded = model.decode(model.encode(images, budget=3)).clamp(-1, 1)
    expected = ((decoded - images) / 2).abs().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(evidence.budget_l1[2], expected, rtol=1e-4)


def test_posterior_and_initial_codebook(collected_runs, trained):
    posterior = Run(trained / "soft-4").evidence().posterior
    assert posterior.shape == (360, 4, 2)
    assert (
        posterior[..., 0].min() >= 1
        and posterior[..., 0].max() <= 32
        and posterior[..., 1].max() <= 1
    )
    mean = Run(trained / "soft-4").evidence().mean_posterior
    assert mean.shape == (1, 32) and mean.sum() == pytest.approx(1)
    cascade = Run(collected_runs / "uni").evidence()
    assert cascade.cascade_start.shape == cascade.codebook.shape
    moved = (cascade.cascade_start != cascade.codebook).any(axis=2)[0]
    assert moved.sum() > 0 and cascade.grid == (4, 4)


def test_evidence_of_an_autoregressive_generator(collected_runs):
    evidence = Run(collected_runs / "ar").evidence()
    assert (
        evidence.samples.shape == (640, 8, 8, 1) and evidence.sampling["solver"] == "autoregressive"
    )
    assert 0 < evidence.code_bits[0] < np.log2(16)
    accuracy = (evidence.predicted == evidence.labels).mean()
    assert accuracy > 0.3  # of ten classes


def test_evidence_of_a_flow(trained):
    evidence = Run(trained / "flow").evidence()
    assert evidence.loss_times.shape == evidence.loss_by_time.shape == (20,)
    assert (evidence.loss_by_time > 0).all() and (np.diff(evidence.loss_times) > 0).all()
    assert (
        evidence.sample_features.shape[1]
        == evidence.features.shape[1]
        == evidence.train_features.shape[1]
    )
