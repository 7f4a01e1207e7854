"""LPIPS: equal to the `lpips` package on seeded weights; MS-SSIM: equal to its definition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from seeded_weights import seeded_images, seeded_weights
from skimage.metrics import structural_similarity

from workbench.collect.ssim import MS_SSIM_WEIGHTS, gaussian_ssim, ms_ssim
from workbench.core.errors import UserError
from workbench.features import get_feature_extractor, lpips
from workbench.tokenizers.perceptual_adversarial import (
    PerceptualAdversarialConfig,
    PerceptualAdversarialLoss,
)

# Made by lpips 0.1.4 with networks of torchvision's configurations, from `seeded_weights` and
# `seeded_images(4)`: the distances of images 0 and 1 to images 2 and 3.
FIXTURE = Path(__file__).parent / "fixtures" / "metrics" / "lpips.npz"
BUILDERS = {"vgg": lpips._vgg16, "alex": lpips._alexnet}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Write seeded weights of both networks, with classifiers, and of the heads."""
    folder = tmp_path_factory.mktemp("lpips")
    for name, build in BUILDERS.items():
        backbone = seeded_weights(torch.nn.ModuleDict({"features": build()}).state_dict())
        torch.save(backbone | {"classifier.0.weight": torch.zeros(2, 2)}, folder / f"{name}.pth")
        heads = lpips._Heads(lpips.NETWORKS[name].widths)
        torch.save(seeded_weights(heads.state_dict()), folder / f"{name}-heads.pth")
    return folder


@pytest.fixture(params=["vgg", "alex"])
def network(request, weights, monkeypatch) -> str:
    name = request.param
    spec = lpips.NETWORKS[name]
    monkeypatch.setenv(spec.backbone.variable, str(weights / f"{name}.pth"))
    monkeypatch.setenv(spec.heads.variable, str(weights / f"{name}-heads.pth"))
    return name


def images(count: int, side: tuple[int, int] = (40, 56)) -> torch.Tensor:
    return torch.from_numpy(seeded_images(count, *side)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_distances_equal_the_package(network):
    extractor = get_feature_extractor(f"lpips:{network}")
    x = images(4)
    np.testing.assert_allclose(
        extractor.distances(x[:2], x[2:]).detach(), np.load(FIXTURE)[network], rtol=1e-4
    )
    assert lpips.is_present(network)


def test_distance_of_equal_images_is_zero_and_has_gradients(network):
    extractor = get_feature_extractor(f"lpips:{network}")
    x = images(2)
    assert extractor.distances(x, x).tolist() == [0, 0]
    flat = torch.zeros(1, 1, 40, 40, requires_grad=True)
    extractor.perceptual_distance(flat, x[:1, :1, :, :40]).backward()
    assert torch.isfinite(flat.grad).all() and flat.grad.abs().sum() > 0


def test_images_that_are_too_small_are_refused(network):
    extractor = get_feature_extractor(f"lpips:{network}")
    side = extractor.spec.min_side
    x = images(2, (side, side))
    assert torch.isfinite(extractor.distances(x[:1], x[1:])).all()
    with pytest.raises(UserError, match=f"{side} pixels.*{side - 1}"):
        extractor.distances(x[..., :-1], x[..., :-1])


@pytest.mark.parametrize("network", ["vgg"], indirect=True)
def test_lpips_is_a_perceptual_term(network):
    config = PerceptualAdversarialConfig(perceptual_weight=2.0, perceptual="lpips")
    loss = PerceptualAdversarialLoss(config, channels=3)
    x = images(4)
    terms = loss(
        x[:2],
        x[2:],
        pixel_loss=torch.tensor(1.0),
        last_weight=torch.ones(1),
        progress=torch.tensor(1.0),
    )
    expected = get_feature_extractor("lpips").distances(x[2:], x[:2]).mean()
    assert terms["perceptual"].item() == pytest.approx(2 * expected.item())
    assert not loss.state_dict()


def test_missing_networks_are_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(UserError, match=r"vgg16-397923af\.pth"):
        get_feature_extractor("lpips")
    with pytest.raises(UserError, match="`vgg`"):
        get_feature_extractor("lpips:vgh")
    assert not lpips.is_present("vgg")


# SSIM with a Gaussian window, and MS-SSIM


def distorted(side: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = seeded_images(2, side, side)
    noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
    return pixels, np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def to_images(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_gaussian_ssim_equals_scikit_image():
    a, b = distorted(48)
    expected = []
    for x, y in zip(a, b, strict=True):
        _, full = structural_similarity(
            x,
            y,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        # Only windows inside of the image.
        expected.append(full[5:-5, 5:-5].mean())
    np.testing.assert_allclose(gaussian_ssim(to_images(a), to_images(b)), expected, atol=1e-6)


def test_ms_ssim_follows_its_definition():
    """Wang et al. 2003: contrast at four scales, and the whole index at the fifth."""
    a, b = distorted(200)
    kernel = np.exp(-np.square(np.arange(-5, 6) / 1.5) / 2)
    kernel /= kernel.sum()

    def window_mean(x):
        for axis in (0, 1):
            x = correlate1d(x, kernel, axis=axis)
        return x[5:-5, 5:-5]

    expected = []
    for pair in zip(a, b, strict=True):
        x, y = (pixels.astype(np.float64) / 255 for pixels in pair)
        value = 1.0
        for scale, weight in enumerate(MS_SSIM_WEIGHTS):
            mean_x, mean_y = window_mean(x), window_mean(y)
            variances = window_mean(x * x) - mean_x**2 + window_mean(y * y) - mean_y**2
            covariance = window_mean(x * y) - mean_x * mean_y
            index = (2 * covariance + 0.03**2) / (variances + 0.03**2)
            if scale == 4:
                luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
                index = index * luminance
            value = value * index.mean(axis=(0, 1)) ** weight
            height, width = (size // 2 * 2 for size in x.shape[:2])
            x, y = (
                v[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
                for v in (x, y)
            )
        expected.append(value.mean())
    np.testing.assert_allclose(ms_ssim(to_images(a), to_images(b)), expected, atol=1e-6)


def test_ms_ssim_of_small_images_is_refused():
    x = torch.zeros(1, 3, 175, 200)
    with pytest.raises(UserError, match="176.*175"):
        ms_ssim(x, x)
    assert ms_ssim(torch.zeros(1, 3, 176, 200), torch.zeros(1, 3, 176, 200)).tolist() == [1.0]
