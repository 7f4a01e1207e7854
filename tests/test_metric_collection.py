"""Collecting with networks of metrics: Inception, LPIPS and reference files."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from seeded_weights import seeded_images, seeded_weights

from workbench.analysis.generation.fidelity import fidelity
from workbench.analysis.images.reconstruction import reconstruction
from workbench.collect import collect
from workbench.collect.networks import metric_networks
from workbench.collect.statistics import (
    image_statistics,
    reference_statistics,
    write_statistics,
)
from workbench.core.errors import UserError
from workbench.core.moments import Moments
from workbench.features import FeatureExtractor, lpips
from workbench.features.inception import InceptionV3
from workbench.storage import adm
from workbench.storage.run import Run


@pytest.fixture
def inception(tmp_path, monkeypatch) -> Path:
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    torch.save(seeded_weights(state), tmp_path / "inception.pth")
    monkeypatch.setenv("WORKBENCH_INCEPTION", str(tmp_path / "inception.pth"))
    return tmp_path / "inception.pth"


@pytest.fixture
def run(trained, tmp_path) -> Run:
    shutil.copytree(trained / "plain", tmp_path / "plain")
    return Run(tmp_path / "plain")


@pytest.mark.slow
def test_inception_gives_fid_sfid_and_scores_with_a_protocol(run, inception, tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_FEATURE_EXTRACTOR")
    np.savez(tmp_path / "images.npz", arr_0=seeded_images(12, 8, 8))
    write_statistics(str(tmp_path / "images.npz"), tmp_path / "VIRTUAL_small.npz")
    evidence = collect(
        run,
        limit=10,
        reference=tmp_path / "VIRTUAL_small.npz",
        only=["features", "reconstruction_features"],
    )
    assert evidence.feature_extractor == "inception"
    assert "Inception-v3" in evidence.feature_extractor_reason
    assert evidence.features.shape == (10, 2048)
    assert evidence.spatial_features.shape == (10, 2023)
    assert evidence.reconstruction_logits.shape == (10, 1008)
    written = adm.read_statistics(tmp_path / "VIRTUAL_small.npz")
    assert written.features.count == 12
    np.testing.assert_array_equal(evidence.reference_covariance, written.features.covariance)
    assert "Inception-v3" in evidence.protocol and torch.__version__ in evidence.protocol
    assert evidence.reference.startswith("ADM reference VIRTUAL_small, sha256 ")


@pytest.mark.slow
def test_similarities_are_collected_per_image(run, tmp_path, monkeypatch):
    heads = lpips._Heads(lpips.NETWORKS["vgg"].widths)
    backbone = torch.nn.ModuleDict({"features": lpips._vgg16()})
    for name, module in (("VGG16", backbone), ("LPIPS_VGG", heads)):
        torch.save(seeded_weights(module.state_dict()), tmp_path / f"{name}.pth")
        monkeypatch.setenv(f"WORKBENCH_{name}", str(tmp_path / f"{name}.pth"))
    # The digits of 8 x 8 pixels are too small for every network and window.
    evidence = collect(run, limit=10, only=["structural_similarity", "perceptual_distance"])
    assert evidence.lpips_vgg is None and evidence.ssim is None
    monkeypatch.setattr("workbench.collect.collectors.similarity.GAUSSIAN_WINDOW", 8)
    monkeypatch.setattr("workbench.collect.ssim.GAUSSIAN_WINDOW", 8)
    evidence = collect(run, limit=10, only=["structural_similarity"])
    assert evidence.ssim.shape == (10,) and (evidence.ssim < 1).all()


def test_statistics_in_blocks_are_those_of_all_images(tmp_path):
    pixels = seeded_images(300, 8, 8)
    np.savez(tmp_path / "images.npz", arr_0=pixels)
    written = write_statistics(
        str(tmp_path / "images.npz"), tmp_path / "statistics.npz", feature_extractor="hog"
    )
    from workbench.collect.images import pooled_features
    from workbench.features import get_feature_extractor

    whole = Moments.from_rows(
        pooled_features(get_feature_extractor("hog"), pixels, torch.device("cpu"))
    )
    np.testing.assert_allclose(written.features.covariance, whole.covariance, atol=1e-12)
    assert written.features.count == 300 and written.spatial_features is None


def test_statistics_state_how_images_were_resized(tmp_path, run):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(seeded_images(12, 32, 32)):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    for resize in ("adm", "lanczos"):
        write_statistics(
            str(tmp_path / "images"),
            tmp_path / f"{resize}.npz",
            feature_extractor="hog",
            side=8,
            resize=resize,
        )
    read = [adm.read_statistics(tmp_path / f"{resize}.npz") for resize in ("adm", "lanczos")]
    assert [statistics.resize for statistics in read] == ["adm", "lanczos"]
    assert not np.allclose(read[0].features.mean, read[1].features.mean)
    moments = Moments.from_rows(np.random.default_rng(0).normal(size=(100, 36)))
    only = {"limit": 12, "only": ["reference"], "feature_extractor": "hog"}
    for resize in ("adm", "lanczos"):
        statistics = adm.ReferenceStatistics(moments, None, "hog", resize)
        adm.write_statistics(tmp_path / f"{resize}.npz", statistics)
    with pytest.warns(UserWarning, match="resized by adm"):
        collect(run, reference=tmp_path / "adm.npz", **only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collect(run, reference=tmp_path / "lanczos.npz", **only)


class Means(FeatureExtractor):
    """The mean of every channel, with another number of channels for patches."""

    dim, pooled_dim, directional = 7, 3, False

    def __init__(self, name: str) -> None:
        self.name = name

    def features(self, images, grid):
        return torch.zeros(len(images), grid[0] * grid[1], 7)

    def pooled(self, images):
        return images.mean(dim=(2, 3))


def test_statistics_state_their_network_and_fit_no_other_of_the_same_dimension(tmp_path):
    pixels, device = seeded_images(20, 8, 8), torch.device("cpu")
    statistics = image_statistics([pixels], Means("a"), device)
    adm.write_statistics(tmp_path / "a.npz", statistics)
    opened = reference_statistics(tmp_path / "a.npz", Means("a"), device)
    assert opened.feature_extractor == "a" and opened.features.dim == 3
    with pytest.raises(UserError):
        reference_statistics(tmp_path / "a.npz", Means("b"), device)
    # From the images of the file, the statistics of every network can be computed.
    with np.load(tmp_path / "a.npz") as archive:
        np.savez(tmp_path / "both.npz", arr_0=pixels, **archive)
    computed = reference_statistics(tmp_path / "both.npz", Means("b"), device)
    assert computed.feature_extractor == "b"
    np.testing.assert_array_equal(computed.features.mean, statistics.features.mean)
    # A file of another program does not name its network.
    np.savez(tmp_path / "adm.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert not reference_statistics(tmp_path / "adm.npz", Means("b"), device).feature_extractor
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(3), feature_extractor=np.eye(2))
    with pytest.raises(UserError):
        reference_statistics(tmp_path / "odd.npz", Means("b"), device)


@pytest.mark.slow
def test_reference_of_another_network_is_refused(run, tmp_path):
    adm.write_statistics(
        tmp_path / "inception.npz",
        adm.ReferenceStatistics(Moments(np.zeros(2048), np.eye(2048), None), None),
    )
    with pytest.raises(UserError, match="2,048"):
        collect(run, limit=10, reference=tmp_path / "inception.npz", only=["features"])


def test_reconstruction_reports_collected_similarities():
    images = np.full((4, 8, 8, 3), 100, np.uint8)
    result = reconstruction(
        images, images + 10, lpips_vgg=np.array([0.1, 0.2, 0.3, 0.4]), ssim=np.full(4, 0.9)
    )
    assert "LPIPS (VGG-16) 0.2500" in result.summary() and "SSIM" in result.summary()
    assert result.table()["lpips_vgg"].tolist() == [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(UserError, match="3 .* 4"):
        reconstruction(images, images, ssim=np.ones(3))


def test_state_of_networks_names_files_and_places(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("WORKBENCH_INCEPTION", raising=False)
    states = metric_networks()
    assert str(tmp_path) in states["Inception-v3"]
    assert "pt_inception-2015-12-05-6726825d.pth" in states["Inception-v3"]
    monkeypatch.setenv("WORKBENCH_INCEPTION", str(tmp_path / "none.pth"))
    assert "none.pth" in metric_networks()["Inception-v3"]
    assert states["default features"].startswith("hog")


def test_fidelity_of_a_fidelity_table_has_one_protocol():
    random = np.random.default_rng(0)
    result = fidelity(
        random.normal(size=(40, 3)),
        reconstruction_features=random.normal(size=(40, 3)),
        feature_extractor="efficientnet",
        protocol="EfficientNet-Lite0",
    )
    assert "fd_efficientnet" in result.table() and "FID" not in result.summary()
    assert result.distances[0].name == "rFD"
