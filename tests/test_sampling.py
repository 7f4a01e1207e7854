"""Subsampling: classes keep their shares, and a sample is reproducible and reported."""

import numpy as np
import pytest

from workbench.analysis.latents.projection import latent_map
from workbench.analysis.stats.sampling import describe_subset, subsample


def sample(n, max_items, labels=None, seed=0):
    return subsample(n, max_items, np.random.default_rng(seed), labels)


def test_each_class_has_its_share_up_to_one_image():
    labels = np.random.default_rng(1).permutation(np.repeat([7, 0, 3, 9], [500, 300, 190, 10]))
    indices = sample(1000, 333, labels)
    assert len(indices) == 333 and (np.diff(indices) > 0).all()
    shares = 333 * np.array([300, 190, 500, 10]) / 1000
    assert (np.abs(np.unique(labels[indices], return_counts=True)[1] - shares) < 1).all()


def test_no_class_is_preferred_if_classes_outnumber_items():
    labels = np.arange(1000) % 500
    counts = np.zeros(500, int)
    for seed in range(200):
        indices = sample(1000, 50, labels, seed)
        assert len(np.unique(labels[indices])) == len(indices) == 50
        counts[labels[indices]] += 1
    first, last = counts[:250].sum(), counts[250:].sum()
    assert first + last == 10_000 and abs(first - last) < 400  # four deviations of a fair draw


@pytest.mark.parametrize("labels", [None, np.arange(100) % 3])
def test_sample_depends_on_the_seed_only(labels):
    np.testing.assert_array_equal(sample(100, 30, labels), sample(100, 30, labels))
    assert (sample(100, 30, labels, seed=1) != sample(100, 30, labels)).any()
    np.testing.assert_array_equal(sample(100, 100, labels), np.arange(100))


def test_description_names_the_method_of_sampling():
    assert (
        describe_subset(20_000, 50_000, stratified=True)
        == "20,000 of 50,000 images, stratified by class"
    )
    assert describe_subset(3, 10, "codes") == "3 of 10 codes, drawn at random"
    assert describe_subset(360, 360, stratified=True) == "360 images"


def test_map_of_a_sample_is_stratified_and_reported():
    latents, labels = (
        np.random.default_rng(0).normal(size=(1000, 2, 3)),
        np.repeat([0, 1], [900, 100]),
    )
    result = latent_map(latents, labels, method="pca", points=500)
    assert np.bincount(labels[result.image_indices]).tolist() == [450, 50]
    expected = "500 of 1,000 images, stratified by class"
    assert expected in result.summary()
    assert expected in result.figure().layout.title.subtitle.text
    assert (
        "500 of 1,000 images, drawn at random"
        in latent_map(latents, method="pca", points=500).summary()
    )
