"""Regularizers of latents against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from workbench.core.errors import UserError
from workbench.tokenizers.klvae import KLVAE
from workbench.tokenizers.latent_regularizers import (
    LatentDisturbance,
    LatentDisturbanceConfig,
    LatentRegularizerConfig,
    masked_tokens,
    regularization_terms,
    turned,
    window_correlation,
)
from workbench.tokenizers.vavae import VAVAE

GRID = (4, 4)
SMALL = {"side": 16, "width": 8, "multipliers": (1, 2, 2), "dim": 4, "align_weight": 0.0}


def terms_of(images, latents, decode, **settings):
    config = LatentRegularizerConfig(**settings)
    return regularization_terms(config, images, latents, GRID, decode)


def noise_of_deviation(gamma):
    return LatentDisturbance(LatentDisturbanceConfig(interpolative_noise=gamma), 3)


def pooled(images):
    """Encode by the means of patches: equivariant to all moves of the grid."""
    return rearrange(F.avg_pool2d(images, 4), "b d h w -> b (h w) d")


def enlarged(latents, grid):
    maps = rearrange(latents, "b (h w) d -> b d h w", h=grid[0])
    return F.interpolate(maps, scale_factor=4)


def test_equivariant_autoencoder_has_no_equivariance_error():
    images = enlarged(torch.randn(8, 16, 3), GRID)
    latents = pooled(images)
    terms = terms_of(images, latents, enlarged, equivariance_weight=2.0)
    assert terms["equivariance"] < 1e-6
    # A decoder that ignores its latents errs by the distance to each moved image.
    gray = lambda z, grid: torch.zeros(8, 3, 16, 16)  # noqa: E731
    blank = terms_of(images, latents, gray, equivariance_weight=2.0)
    assert blank["equivariance"].item() == pytest.approx(2 * images.abs().mean().item())


def test_every_move_is_used_and_moves_pixels_like_tokens():
    maps = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(4, 1, 1, 1)
    moves = turned(maps, torch.tensor([0.0, 0.3, 0.6, 0.9]))
    corners = moves[:, 0, 0, 0].tolist()
    assert corners == [3.0, 3.0, 15.0, 12.0]
    assert torch.equal(moves[0, 0], maps[0, 0].flip(1))


def test_half_size_decoding():
    smooth = F.interpolate(torch.randn(5, 3, 2, 2), scale_factor=8)
    terms = terms_of(smooth, pooled(smooth), enlarged, half_size_weight=1.0)
    assert terms["half size"] < 1e-6
    # Neighboring tokens average to gray, whereas the image of half the size keeps its stripes.
    stripes = torch.ones(2, 3, 16, 16)
    stripes[..., 4:8] = stripes[..., 12:] = -1
    terms = terms_of(stripes, pooled(stripes), enlarged, half_size_weight=0.5)
    assert terms["half size"].item() == pytest.approx(0.5)


def test_local_correlation():
    token = torch.randn(1, 8, 1, 1)
    constant = token.expand(2, 8, 4, 4)
    assert window_correlation(constant) == pytest.approx(torch.ones(2, 9))
    # Signs alternate as on a chessboard: of six pairs two are equal and four opposite.
    board = torch.tensor([1.0, -1.0]).repeat(2)[:, None] * torch.tensor([1.0, -1.0]).repeat(2)
    assert window_correlation(token * board) == pytest.approx(torch.full((1, 9), -1 / 3))
    flat = rearrange(token * board, "b d h w -> b (h w) d")
    blank = torch.zeros(1, 3, 16, 16)
    terms = terms_of(blank, flat, enlarged, local_correlation_weight=0.5)
    assert terms["local correlation"].item() == pytest.approx(0.5 * (0.75 + 1 / 3))


def test_masking_and_interpolative_noise():
    torch.manual_seed(0)
    masked = masked_tokens(torch.zeros(4000, 16, 1), 0.3).float().mean(dim=1)[:, 0]
    assert sorted(set(masked.tolist())) == [0.0, 0.25, 0.5, 0.75]
    assert masked.mean().item() == pytest.approx(0.15, abs=0.01)
    latents = torch.full((6000, 4, 3), 2.0)
    noisy = noise_of_deviation(3.0)(latents)
    # Means of 1 - tau, (1 - tau)^2 and tau^2 are 1/2, 1/3 and 1/3.
    assert noisy.mean().item() == pytest.approx(1.0, abs=0.05)
    assert noisy.square().mean().item() == pytest.approx((4 + 9) / 3, rel=0.03)
    assert torch.equal(noise_of_deviation(3.0).eval()(latents), latents)


def test_autoencoders_train_with_all_regularizers_and_are_unchanged_without():
    images = torch.randn(4, 3, 16, 16).clamp(-1, 1)
    everything = {
        "equivariance_weight": 0.5,
        "half_size_weight": 0.25,
        "local_correlation_weight": 0.02,
        "latent_mask": 0.5,
        "interpolative_noise": 1.0,
    }
    model = VAVAE(VAVAE.Config(**SMALL, **everything)).train()
    objective = model.objective(images)
    assert {"equivariance", "half size", "local correlation"} <= set(objective.terms)
    sum(objective.terms.values()).backward()
    assert model.disturbance.mask_vector.grad is not None
    plain = VAVAE(VAVAE.Config(**SMALL))
    assert set(plain.objective(images).terms) == {"pixel", "kl"}
    assert not any(name.startswith("disturbance") for name in plain.state_dict())


def test_wrong_settings_are_refused():
    for wrong in ({"latent_mask": 2.0}, {"half_size_weight": -1.0}):
        with pytest.raises(UserError):
            VAVAE.Config(**wrong)
    assert KLVAE.Config(latent_mask=0.3).interpolative_noise == 0
