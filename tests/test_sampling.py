"""Some of many: classes keep their shares, the same seed draws the same, and it is said that they are not all."""

import numpy as np
import pytest

from workbench.analysis.latents.projection import latent_map
from workbench.analysis.stats.sampling import describe_subset, subsample


def drawn(n, most, labels=None, seed=0):
    return subsample(n, most, np.random.default_rng(seed), labels)


def test_each_class_has_its_share_to_one_image():
    labels = np.random.default_rng(1).permutation(np.repeat([7, 0, 3, 9], [500, 300, 190, 10]))
    places = drawn(1000, 333, labels)
    assert len(places) == 333 and (np.diff(places) > 0).all()
    shares = 333 * np.array([300, 190, 500, 10]) / 1000
    assert (np.abs(np.unique(labels[places], return_counts=True)[1] - shares) < 1).all()


def test_of_more_classes_than_places_none_is_preferred():
    labels = np.arange(1000) % 500
    met = np.zeros(500, int)
    for seed in range(200):
        places = drawn(1000, 50, labels, seed)
        assert len(np.unique(labels[places])) == len(places) == 50
        met[labels[places]] += 1
    first, last = met[:250].sum(), met[250:].sum()
    assert first + last == 10_000 and abs(first - last) < 400  # four deviations of a fair draw


@pytest.mark.parametrize("labels", [None, np.arange(100) % 3])
def test_the_same_seed_draws_the_same_and_of_few_all_are_taken(labels):
    np.testing.assert_array_equal(drawn(100, 30, labels), drawn(100, 30, labels))
    assert (drawn(100, 30, labels, seed=1) != drawn(100, 30, labels)).any()
    np.testing.assert_array_equal(drawn(100, 100, labels), np.arange(100))


def test_a_part_is_said_with_how_it_was_chosen():
    assert (
        describe_subset(20_000, 50_000, stratified=True)
        == "20,000 of 50,000 images, stratified by class"
    )
    assert describe_subset(3, 10, "codes") == "3 of 10 codes, drawn at random"
    assert describe_subset(360, 360, stratified=True) == "360 images"


def test_a_map_of_some_images_holds_every_class_in_its_share_and_says_so():
    latents, labels = (
        np.random.default_rng(0).normal(size=(1000, 2, 3)),
        np.repeat([0, 1], [900, 100]),
    )
    found = latent_map(latents, labels, method="pca", points=500)
    assert np.bincount(labels[found.image_indices]).tolist() == [450, 50]
    said = "500 of 1,000 images, stratified by class"
    assert said in found.summary() and said in found.figure().layout.title.subtitle.text
    assert (
        "500 of 1,000 images, drawn at random"
        in latent_map(latents, method="pca", points=500).summary()
    )
