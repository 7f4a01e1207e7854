"""Measures of latent spaces against closed forms and plain numpy."""

import numpy as np
import pytest

from workbench.analysis.diffusability.neighbor_consistency import neighbor_consistency
from workbench.analysis.diffusability.scaled_latents import ScaledLatents
from workbench.core.errors import NotApplicable, UserError


def white(n: int, tokens: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, tokens, channels))


# Scaling


def test_scaled_latents_have_mean_zero_and_variance_one_by_channel():
    latents = white(50, 6, 3) * [1, 20, 0.1] + [5, -3, 1000]
    latents[..., 2] = 7.0  # a constant channel
    scaled = ScaledLatents.create(latents, purpose="This", min_images=2)
    array = scaled.array()
    np.testing.assert_allclose(array.mean(axis=(0, 1)), 0, atol=1e-12)
    np.testing.assert_allclose(array.std(axis=(0, 1)), [1, 1, 0], atol=1e-12)
    free = scaled.place_free().array()
    np.testing.assert_allclose(free.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(free.std(axis=(0, 1)), [1, 1, 0], atol=1e-12)


def test_blocks_are_the_array_and_active_tokens_give_a_shared_prefix(monkeypatch):
    from workbench.analysis.diffusability import scaled_latents

    latents = white(30, 6, 2).astype(np.float32)
    active = np.tile(np.arange(6) < 4, (30, 1))
    active[:1] = False  # one image of 30 is short
    monkeypatch.setattr(scaled_latents, "MAX_BLOCK_VALUES", 50)
    scaled = ScaledLatents.create(latents, active, purpose="This", min_images=2)
    assert (len(scaled), scaled.tokens) == (29, 4)
    np.testing.assert_array_equal(np.concatenate(list(scaled.blocks())), scaled.array())
    with pytest.raises(NotApplicable):
        ScaledLatents.create(latents, np.arange(6) < np.ones((30, 1)), purpose="T", min_images=2)


# Neighbor consistency


def test_separated_classes_are_consistent_and_shuffled_labels_reach_the_null():
    labels = np.repeat(np.arange(4), 50)
    centers = 9 * np.eye(4)[labels][:, None]
    latents = white(200, 3, 4) + centers
    assert neighbor_consistency(latents, labels)["mean token"].value > 0.99
    shuffled = np.random.default_rng(0).permutation(labels)
    null = neighbor_consistency(white(200, 3, 4), shuffled)
    assert null.null == pytest.approx(49 / 199)
    assert null["all tokens"].value == pytest.approx(49 / 199, abs=0.05)


def test_neighbor_consistency_equals_a_full_search():
    labels = np.random.default_rng(1).integers(0, 3, 300)
    latents = white(300, 4, 3) + 0.5 * labels[:, None, None]
    rows = (latents - latents.mean(axis=(0, 1))) / latents.std(axis=(0, 1))
    for name, points in (("mean token", rows.mean(axis=1)), ("all tokens", rows.reshape(300, -1))):
        points = points - points.mean(axis=0)
        units = points / np.linalg.norm(points, axis=1, keepdims=True)
        cosine = units @ units.T
        np.fill_diagonal(cosine, -2)
        nearest = np.argsort(-cosine, axis=1)[:, :5]
        expected = (labels[nearest] == labels[:, None]).mean()
        assert neighbor_consistency(latents, labels)[name].value == pytest.approx(expected)


def test_neighbor_consistency_refuses_classes_without_neighbors():
    latents = white(30, 2, 2)
    with pytest.raises(NotApplicable):
        neighbor_consistency(latents, np.arange(30))
    with pytest.raises(NotApplicable):
        neighbor_consistency(latents, np.zeros(30, int))
    latents[3] = np.nan
    with pytest.raises(UserError):
        neighbor_consistency(latents, np.arange(30) % 2)
