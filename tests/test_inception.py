"""Inception-v3 of the FID: equal to torch-fidelity's extractor on seeded random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seeded_weights import seeded_images, seeded_weights

from workbench.core.errors import UserError
from workbench.features import get_feature_extractor
from workbench.features.inception import DIM, Inception, InceptionV3, resize_like_tensorflow

# Made by torch-fidelity 0.4.0 from `seeded_weights` and `seeded_images`. `spatial_features` are the
# first 7 channels of the output of its Mixed_6d.branch1x1, in the order height, width, channels.
FIXTURE = Path(__file__).parent / "fixtures" / "metrics" / "inception.npz"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    torch.save(seeded_weights(state), path)
    return path


def as_images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_outputs_equal_torch_fidelity(weights_file):
    extractor = get_feature_extractor(f"inception:{weights_file}")
    outputs = extractor.outputs(as_images(seeded_images()))
    reference = np.load(FIXTURE)
    assert extractor.dim == DIM == outputs["features"].shape[1]
    for name in ("features", "spatial_features", "logits"):
        expected = reference[name]
        assert outputs[name].shape == expected.shape
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-4 * expected.std())


def test_grid_features_pool_to_the_features_of_the_image(weights_file):
    extractor = Inception(weights_file)
    images = as_images(seeded_images(1))
    cells = extractor.features(images, (8, 8))
    assert cells.shape == (1, 64, DIM)
    torch.testing.assert_close(cells.mean(dim=1), extractor.pooled(images))


def test_resize_keeps_positions_of_tensorflow():
    """Doubling a ramp interpolates half-way and repeats the last pixel, without a shift."""
    ramp = torch.arange(3.0).expand(1, 1, 3, 3)
    resized = resize_like_tensorflow(ramp, 6)
    assert resized[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert resize_like_tensorflow(resized, 3).equal(ramp)


def test_weights_are_found_by_variable_and_in_the_cache(weights_file, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_INCEPTION", str(weights_file))
    by_variable = get_feature_extractor("inception")
    monkeypatch.delenv("WORKBENCH_INCEPTION")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / weights_file.name).symlink_to(weights_file)
    in_cache = get_feature_extractor("inception")
    assert by_variable.fingerprint == in_cache.fingerprint
    assert in_cache.fingerprint.removeprefix("inception-") in in_cache.protocol


@pytest.mark.parametrize("damage", ["truncated", "other network", "missing"])
def test_bad_weights_end_in_one_sentence(weights_file, tmp_path, damage):
    path = tmp_path / "weights.pth"
    if damage == "truncated":
        path.write_bytes(weights_file.read_bytes()[:100_000])
    elif damage == "other network":
        torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError) as error:
        Inception(path).outputs(as_images(seeded_images(1)))
    assert "weights.pth" in str(error.value)


def test_missing_weights_name_the_file_and_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        torch.hub,
        "download_url_to_file",
        lambda *_, **__: (_ for _ in ()).throw(OSError("offline")),
    )
    with pytest.raises(UserError) as error:
        get_feature_extractor("inception")
    message = str(error.value)
    assert "pt_inception-2015-12-05-6726825d.pth" in message and str(tmp_path) in message
    assert "WORKBENCH_INCEPTION" in message and "\n" not in message
