import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.preprocessing import StandardScaler

from workbench.analysis.latents import embeddings
from workbench.analysis.latents.modes import mixture_modes
from workbench.analysis.latents.projection import latent_map
from workbench.analysis.latents.projection_comparison import latent_maps
from workbench.core.errors import NotApplicable, UserError
from workbench.storage.evidence import Evidence


def clusters(n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    random, labels = np.random.default_rng(0), np.arange(n) % 3
    return random.normal(size=(n, 4, 2)) + 10 * labels[:, None, None], labels


def evidence(
    run: str, latents: np.ndarray, fingerprint: str = "f", **fields: np.ndarray
) -> Evidence:
    return Evidence({"run": run, "step": 1, "fingerprint": fingerprint}, latents=latents, **fields)


def test_the_principal_components_are_sklearns_of_standardised_latents():
    latents = clusters()[0] * [1, 1000]
    rows = StandardScaler().fit_transform(latents.reshape(90, -1))
    found = latent_map(latents, method="pca").coordinates
    np.testing.assert_allclose(np.abs(found), np.abs(PCA(2).fit_transform(rows)), atol=1e-4)


def test_trust_and_continuity_are_the_same_measure_there_and_back():
    latents = clusters()[0]
    rows = StandardScaler().fit_transform(latents.reshape(90, -1))
    found = latent_map(latents, method="pca", neighbors=7)
    assert found.trust == pytest.approx(
        trustworthiness(rows, found.coordinates, n_neighbors=7), abs=1e-3
    )
    assert found.continuity == pytest.approx(
        trustworthiness(found.coordinates, rows, n_neighbors=7), abs=1e-3
    )


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
    monkeypatch.setattr(embeddings, "MOST_JUDGED", 30)
    latents, labels = clusters()
    found = latent_map(latents, labels, method="pca", points=50)
    assert found.summary().startswith("PCA of 50 of 90 images")
    assert found.table()["class"].astype(int).tolist() == labels[found.image_indices].tolist()
    assert found.figure().layout.title.subtitle.text.startswith("n = 50 of 90 images")


def test_classes_are_named_in_the_legend_numbers_before_names():
    latents, labels = clusters()
    figure = latent_map(latents, labels, ("a", "b"), method="pca").figure()
    assert [trace.name for trace in figure.data] == ["2", "a", "b"]
    assert [len(trace.x) for trace in figure.data] == [30, 30, 30]
    assert figure.layout.title.text.startswith("Latent map, trust ")


def test_a_map_is_coloured_by_the_modes_that_the_analysis_of_modes_counts():
    latents, labels = clusters()
    found = latent_map(latents, method="pca", color_by="mode")
    counted = mixture_modes(latents)
    assert found.table()["mode"].astype(int).tolist() == counted.assignment.tolist()
    assert counted.best == 3


def test_a_map_is_coloured_by_error_and_by_tokens_used():
    latents = clusters()[0]
    images = np.full((90, 2, 2, 1), 100, np.uint8)
    off = images + np.arange(90, dtype=np.uint8)[:, None, None, None]
    table = latent_map(
        latents, images=images, reconstructions=off, method="pca", color_by="error"
    ).table()
    assert table["error"][51] == pytest.approx(-20 * np.log10(51 / 255))
    active = np.arange(4) < np.arange(90)[:, None] % 4 + 1
    figure = latent_map(latents, active=active, method="pca", color_by="tokens").figure()
    assert figure.data[0].marker.color.tolist() == active.sum(axis=1).tolist()
    assert figure.layout.coloraxis.colorbar.title.text == "tokens used"


def test_rare_codes_share_a_grey():
    latents, codes = clusters()[0], np.zeros((90, 4), int)
    codes[:20, 0] = np.arange(20)
    figure = latent_map(latents, codes=codes, method="pca", color_by="code").figure()
    assert len(figure.data) == 13
    assert figure.data[0].name == "0"
    assert (figure.data[-1].name, len(figure.data[-1].x)) == ("other", 8)


def test_a_constant_dimension_does_no_harm():
    latents = clusters()[0]
    latents[..., 0] = 5
    assert np.isfinite(latent_map(latents, method="pca").coordinates).all()


def test_a_map_turned_mirrored_moved_and_scaled_is_brought_back_and_its_disparity_is_scipys():
    random = np.random.default_rng(0)
    onto, turn = random.normal(size=(40, 2)), np.array([[0.6, 0.8], [0.8, -0.6]])
    back, disparity = embeddings.procrustes_align(3 * onto @ turn + 5, onto)
    np.testing.assert_allclose(back, onto, atol=1e-5)
    assert disparity == pytest.approx(0, abs=1e-9)
    other = random.normal(size=(40, 2))
    assert embeddings.procrustes_align(other, onto)[1] == pytest.approx(procrustes(onto, other)[2])


def test_runs_with_alike_latents_have_alike_maps_and_unrelated_ones_do_not():
    latents, labels = clusters()
    mixed = latents[np.random.default_rng(1).permutation(90)]
    runs = [
        evidence(name, z, labels=labels)
        for name, z in (("a", latents), ("b", -latents[..., ::-1]), ("c", mixed))
    ]
    found = latent_maps([*runs, evidence("d", latents, "g")])
    assert found.disparity[0] == 0
    assert found.disparity[1] < 0.4
    assert found.disparity[2] > 0.8
    assert found.summary().endswith("Left out: d.")
    assert found.table().groupby("run").size().to_dict() == {"a": 90, "b": 90, "c": 90}
    figure = found.figure()
    assert [trace.showlegend for trace in figure.data] == [True] * 3 + [False] * 6


def test_checkpoints_of_one_run_are_named_by_their_step():
    latents = clusters()[0]
    later = Evidence({"run": "a", "step": 1000, "fingerprint": "f"}, latents=latents)
    found = latent_maps([evidence("a", latents), later], method="pca")
    assert found.runs == ("a, step 1", "a, step 1,000")
    assert found.disparity[1] == pytest.approx(0, abs=1e-6)


def test_modes_in_the_space_of_the_released_script_are_said_to_be_umaps():  # here: UMAP takes seconds to load
    result = mixture_modes(clusters(60)[0], preset="released script", max_modes=2)
    assert result.components == 12
    assert "on UMAP to 12 dimensions of 60 images, preset `released script`" in result.summary()
    assert "UMAP saw the images that judge" in result.summary()


def test_what_cannot_be_mapped_is_refused_in_a_sentence():
    latents = clusters()[0]
    with pytest.raises(NotApplicable, match="needs at least 5 images; this evidence has 4"):
        latent_map(latents[:4])
    with pytest.raises(NotApplicable, match="the same for all 90 images"):
        latent_map(np.zeros_like(latents))
    with pytest.raises(UserError, match="There are 3 labels for 90 images"):
        latent_map(latents, np.zeros(3, int), method="pca")
    with pytest.raises(
        NotApplicable, match="Colour by tokens needs active; this evidence has none"
    ):
        latent_map(latents, method="pca", color_by="tokens")
    with pytest.raises(NotApplicable, match="no selected run has any"):
        latent_maps([Evidence({"run": "a", "step": 1})])
