"""EfficientNet-Lite0, and the choice of a feature extractor that needs no download."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seeded_weights import seeded_images, seeded_weights

from workbench.core.errors import UserError
from workbench.features import default, get_feature_extractor
from workbench.features.default import default_feature_extractor
from workbench.features.efficientnet import EfficientNetLite0, preprocess

# Made by efficientnet-lite-pytorch 0.1.0 from `seeded_weights` and `seeded_images`.
FIXTURE = Path(__file__).parent / "fixtures" / "metrics" / "efficientnet.npz"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "efficientnet.pth"
    torch.save(seeded_weights(EfficientNetLite0().state_dict()), path)
    return path


@pytest.fixture
def bare_machine(tmp_path, monkeypatch) -> None:
    """A machine without any weights."""
    monkeypatch.delenv(default.VARIABLE)
    for name in ("WORKBENCH_INCEPTION", "WORKBENCH_EFFICIENTNET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("workbench.features.weights._inside_package", lambda file: tmp_path / file)


def test_outputs_equal_the_public_implementation(weights_file):
    extractor = get_feature_extractor(f"efficientnet:{weights_file}")
    images = torch.from_numpy(seeded_images(1)).permute(0, 3, 1, 2).float() / 127.5 - 1
    reference = np.load(FIXTURE)
    pooled = extractor.pooled(images)
    logits = extractor.network.classify(preprocess(images))
    for values, expected in ((pooled, reference["features"]), (logits, reference["logits"])):
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4 * expected.std())
    cells = extractor.features(images, (7, 7))
    torch.testing.assert_close(cells.mean(dim=1), pooled)
    assert cells.shape == (1, 49, extractor.dim)


def test_order_of_the_default(bare_machine, weights_file, tmp_path, monkeypatch):
    assert default_feature_extractor().name == "hog"
    monkeypatch.setenv("WORKBENCH_EFFICIENTNET", str(weights_file))
    assert default_feature_extractor().name == "efficientnet"
    monkeypatch.setattr("workbench.features.hub.is_cached", lambda family: family == "dinov2")
    assert default_feature_extractor().name == "dinov2"
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "pt_inception-2015-12-05-6726825d.pth").touch()
    assert default_feature_extractor().name == "inception"
    monkeypatch.setenv(default.VARIABLE, "random:3")
    assert default_feature_extractor().name == "random:3"


def test_reason_names_what_is_missing(bare_machine, weights_file, monkeypatch):
    monkeypatch.setenv("WORKBENCH_EFFICIENTNET", str(weights_file))
    reason = default_feature_extractor().reason
    assert "Inception-v3" in reason and "DINOv2" in reason and "EfficientNet-Lite0" in reason


def test_missing_weights_name_the_package(bare_machine):
    with pytest.raises(UserError, match="metrics"):
        get_feature_extractor("efficientnet")


def test_variable_of_a_missing_file_is_an_error(bare_machine, monkeypatch):
    monkeypatch.setenv("WORKBENCH_INCEPTION", "/none/inception.pth")
    with pytest.raises(UserError, match="/none/inception"):
        default_feature_extractor()
