"""Tests of soft codebooks and of codebooks that are a grid."""

import numpy as np
import pytest
from scipy.special import iv

from workbench.analysis.codebook.levels import level_usage
from workbench.analysis.codebook.softness import codebook_softness, vmf_norm
from workbench.core.errors import NotApplicable, UserError


def grid(*levels: int) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in levels), indexing="ij")
    return np.stack(axes, axis=-1).reshape(1, -1, len(levels)).astype(np.float32)


def test_vmf_norm_in_three_dimensions():
    for kappa in (0.5, 3.0, 40.0):
        assert vmf_norm(3, kappa) == pytest.approx(1 / np.tanh(kappa) - 1 / kappa)
    assert vmf_norm(8, 5) == pytest.approx(iv(4, 5) / iv(3, 5))


def test_uniform_mixture_has_vmf_norm():
    """A soft mixture over 200,000 random directions reaches the limit."""
    random = np.random.default_rng(0)
    codewords = random.normal(size=(200_000, 16))
    codewords /= np.linalg.norm(codewords, axis=1, keepdims=True)
    weights = np.exp(codewords @ codewords[0] / 0.2)
    mixture = weights @ codewords / weights.sum()
    assert np.linalg.norm(mixture) == pytest.approx(vmf_norm(16, 1 / 0.2), abs=0.01)


def soft(posterior: np.ndarray, **kwargs):
    codes = np.tile(np.arange(4), (len(posterior), 1))
    codewords = np.eye(4, dtype=np.float32)[None]
    return codebook_softness(posterior, codewords[0][codes] / 2, codes, codewords, **kwargs)


def test_softness_of_constant_posteriors():
    posterior = np.tile(np.array([2.0, 0.5], np.float32), (10, 4, 1))
    result = soft(posterior, mean_posterior=np.array([[0.5, 0.5, 0, 0]]), temperature=0.07)
    assert result.codes_mixed[0] == pytest.approx(2)
    assert result.marginal_perplexity == (pytest.approx(2),)
    assert result.hard_perplexity == (pytest.approx(4),)
    assert result.norm[0] == pytest.approx(0.5)
    assert result.norm_limit == pytest.approx(vmf_norm(4, 1 / 0.07))
    assert "2.00 of 4 codes" in result.summary()


def test_norm_limit_needs_temperature():
    result = soft(np.ones((10, 4, 2), np.float32))
    assert np.isnan(result.norm_limit)
    assert result.norm[0] == pytest.approx(0.5)


def test_softness_ignores_inactive_tokens():
    posterior = np.ones((10, 4, 2), np.float32)
    posterior[:, 3] = 100
    active = np.ones((10, 4), bool)
    active[:, 3] = False
    assert soft(posterior, active=active).codes_mixed[0] == pytest.approx(1)


def test_posteriors_of_other_shape_raise():
    with pytest.raises(UserError, match="10 × 3"):
        soft(np.ones((10, 3, 2), np.float32))


def test_nan_posteriors_raise():
    with pytest.raises(UserError):
        soft(np.full((10, 4, 2), np.nan, np.float32))


def test_level_shares_per_channel():
    codes = np.array([[0, 1], [1, 5]])  # of 3 x 2 levels: (0, 0), (0, 1), (0, 1), (2, 1)
    result = level_usage(codes, grid(3, 2))
    assert result.levels == (3, 2)
    assert [share.tolist() for share in result.shares] == [[0.75, 0, 0.25], [0.25, 0.75]]
    assert "level 1 of channel 0" in result.summary()


def test_shared_bits_of_independent_and_equal_channels():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 8, (2, 20_000, 1))
    independent = level_usage(8 * a + b, grid(8, 8))
    assert sum(independent.bits) == pytest.approx(6, abs=0.01)
    assert independent.shared_bits == pytest.approx(0, abs=0.01)
    assert level_usage(8 * a + a, grid(8, 8)).shared_bits == pytest.approx(3, abs=0.01)


def test_shared_bits_of_few_tokens_are_unknown():
    codes = np.random.default_rng(0).integers(0, 4096, (1000, 1))
    few = level_usage(codes, grid(64, 64))
    assert np.isnan(few.shared_bits) and "redundant" in few.summary()
    collapsed = level_usage(codes % 16, grid(64, 64))  # few codes are well known
    assert np.isfinite(collapsed.shared_bits)


def test_learned_codebook_has_no_levels():
    codewords = np.random.default_rng(0).normal(size=(1, 16, 2)).astype(np.float32)
    with pytest.raises(NotApplicable):
        level_usage(np.zeros((3, 4), int), codewords)
