"""Soft codebooks, and those that are a grid."""

import numpy as np
import pytest
from scipy.special import iv

from workbench.analysis.codebook.levels import level_usage
from workbench.analysis.codebook.softness import codebook_softness, vmf_length
from workbench.core.errors import NotApplicable, UserError


def grid(*levels: int) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in levels), indexing="ij")
    return np.stack(axes, axis=-1).reshape(1, -1, len(levels)).astype(np.float32)


def test_in_three_dimensions_the_length_is_langevins_function():
    for kappa in (0.5, 3.0, 40.0):
        assert vmf_length(3, kappa) == pytest.approx(1 / np.tanh(kappa) - 1 / kappa)
    assert vmf_length(8, 5) == pytest.approx(iv(4, 5) / iv(3, 5))


def test_mixing_codes_spread_evenly_on_the_sphere_gives_latents_of_that_length():
    """The limit, reached by computing a soft quantizer's mixture over 200,000 random directions."""
    random = np.random.default_rng(0)
    words = random.normal(size=(200_000, 16))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    weights = np.exp(words @ words[0] / 0.2)
    mixture = weights @ words / weights.sum()
    assert np.linalg.norm(mixture) == pytest.approx(vmf_length(16, 1 / 0.2), abs=0.01)


def soft(posterior: np.ndarray, **more):
    codes = np.tile(np.arange(4), (len(posterior), 1))
    words = np.eye(4, dtype=np.float32)[None]
    return codebook_softness(posterior, words[0][codes] / 2, codes, words, **more)


def test_a_token_mixes_as_many_codes_as_its_posteriors_perplexity():
    posterior = np.tile(np.array([2.0, 0.5], np.float32), (10, 4, 1))
    result = soft(posterior, mean_posterior=np.array([[0.5, 0.5, 0, 0]]), temperature=0.07)
    assert result.mixed[0] == pytest.approx(2)
    assert result.evenness == (pytest.approx(2),)
    assert result.hard == (pytest.approx(4),)
    assert result.norm[0] == pytest.approx(0.5)
    assert result.limit == pytest.approx(vmf_length(4, 1 / 0.07))
    assert "A token mixes 2.00 of 4 codes" in result.summary()


def test_without_a_temperature_there_is_no_limit():
    result = soft(np.ones((10, 4, 2), np.float32))
    assert np.isnan(result.limit)
    assert result.summary().endswith("Latents are 0.50 of a code's length.")


def test_inactive_tokens_are_not_averaged():
    posterior = np.ones((10, 4, 2), np.float32)
    posterior[:, 3] = 100
    active = np.ones((10, 4), bool)
    active[:, 3] = False
    assert soft(posterior, active=active).mixed[0] == pytest.approx(1)


def test_posteriors_of_other_tokens_are_refused():
    with pytest.raises(
        UserError, match="The posteriors are of 10 × 3 tokens and the codes of 10 × 4"
    ):
        soft(np.ones((10, 3, 2), np.float32))


def test_posteriors_of_nan_are_refused_and_not_averaged_as_nothing():
    with pytest.raises(UserError, match="The posteriors hold NaN or infinity"):
        soft(np.full((10, 4, 2), np.nan, np.float32))


def test_levels_are_counted_channel_by_channel():
    codes = np.array([[0, 1], [1, 5]])  # of 3 x 2 levels: (0, 0), (0, 1), (0, 1), (2, 1)
    result = level_usage(codes, grid(3, 2))
    assert result.levels == (3, 2)
    assert [share.tolist() for share in result.shares] == [[0.75, 0, 0.25], [0.25, 0.75]]
    assert "The least used is level 1 of channel 0, with 0.00 of an even use." in result.summary()


def test_even_and_independent_channels_tell_all_bits_once_and_equal_ones_tell_them_twice():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 8, (2, 20_000, 1))
    even = level_usage(8 * a + b, grid(8, 8))
    assert sum(even.bits) == pytest.approx(6, abs=0.01)
    assert even.shared == pytest.approx(0, abs=0.01)
    assert level_usage(8 * a + a, grid(8, 8)).shared == pytest.approx(3, abs=0.01)


def test_a_learned_codebook_has_no_levels():
    words = np.random.default_rng(0).normal(size=(1, 16, 2)).astype(np.float32)
    with pytest.raises(NotApplicable, match="a grid of levels, as FSQ's; this one was learned"):
        level_usage(np.zeros((3, 4), int), words)
