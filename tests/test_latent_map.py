import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.preprocessing import StandardScaler

from workbench.analysis import projection
from workbench.analysis.projection import latent_map
from workbench.errors import NotApplicable, UserError


def clusters(n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    random, labels = np.random.default_rng(0), np.arange(n) % 3
    return random.normal(size=(n, 4, 2)) + 10 * labels[:, None, None], labels


def test_the_principal_components_are_sklearns_of_standardised_latents():
    latents = clusters()[0] * [1, 1000]
    rows = StandardScaler().fit_transform(latents.reshape(90, -1))
    found = latent_map(latents, method="pca").coordinates
    np.testing.assert_allclose(np.abs(found), np.abs(PCA(2).fit_transform(rows)), atol=1e-4)


def test_trust_and_continuity_are_the_same_measure_there_and_back():
    latents = clusters()[0]
    rows = StandardScaler().fit_transform(latents.reshape(90, -1))
    found = latent_map(latents, method="pca", neighbors=7)
    assert found.trust == pytest.approx(trustworthiness(rows, found.coordinates, n_neighbors=7))
    assert found.continuity == pytest.approx(trustworthiness(found.coordinates, rows, n_neighbors=7))


def test_latents_in_a_plane_are_mapped_without_loss():
    plane = np.random.default_rng(0).normal(size=(60, 1, 2))
    found = latent_map(plane, method="pca", neighbors=5)
    assert (found.trust, found.continuity) == pytest.approx((1, 1), abs=1e-3)


def test_umap_with_a_seed_gives_the_same_map_twice_and_another_seed_another():
    latents = clusters()[0]
    first, again, other = (latent_map(latents, seed=s).coordinates for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert first.dtype == np.float32


def test_umap_keeps_clusters_apart():
    latents, labels = clusters()
    found = latent_map(latents).coordinates
    centres = np.array([found[labels == i].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(found[:, None] - centres, axis=-1).argmin(axis=1)
    assert (nearest == labels).all()


def test_more_neighbours_than_images_allow_are_lowered_and_said():
    found = latent_map(clusters(9)[0], neighbors=100)
    assert found.neighbors == 4
    assert "with 4 neighbours" in found.summary()


def test_of_many_images_a_sample_is_mapped_and_said(monkeypatch):
    monkeypatch.setattr(projection, "MOST_POINTS", 50)
    monkeypatch.setattr(projection, "MOST_JUDGED", 30)
    latents, labels = clusters()
    found = latent_map(latents, labels, method="pca")
    assert found.summary().startswith("PCA of 50 of 90 images")
    assert "measured on 30 images" in found.summary()
    assert found.table()["class"].astype(int).tolist() == labels[found.places].tolist()


def test_classes_are_named_in_the_legend_and_in_the_labels_order():
    latents, labels = clusters()
    figure = latent_map(latents, labels, ("a", "b"), method="pca").figure()
    assert [trace.name for trace in figure.data] == ["2", "a", "b"]
    assert [len(trace.x) for trace in figure.data] == [30, 30, 30]
    assert figure.layout.title.text.startswith("Latent map, trust ")


def test_a_constant_dimension_does_no_harm():
    latents = clusters()[0]
    latents[..., 0] = 5
    assert np.isfinite(latent_map(latents, method="pca").coordinates).all()


def test_what_cannot_be_mapped_is_refused_in_a_sentence():
    latents = clusters()[0]
    with pytest.raises(NotApplicable, match="needs at least 5 images; this evidence has 4"):
        latent_map(latents[:4])
    with pytest.raises(NotApplicable, match="the same for all 90 images"):
        latent_map(np.zeros_like(latents))
    with pytest.raises(UserError, match="There are 3 labels for 90 images"):
        latent_map(latents, np.zeros(3, int), method="pca")
