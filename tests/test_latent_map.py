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


def test_principal_components_equal_scikit_learn():
    latents = clusters()[0] * [1, 1000]
    rows = StandardScaler().fit_transform(latents.reshape(90, -1))
    coordinates = latent_map(latents, method="pca").coordinates
    np.testing.assert_allclose(np.abs(coordinates), np.abs(PCA(2).fit_transform(rows)), atol=1e-4)


def test_trust_and_continuity_equal_scikit_learn():
    latents = clusters()[0]
    rows = StandardScaler().fit_transform(latents.reshape(90, -1))
    result = latent_map(latents, method="pca", neighbors=7)
    assert result.trust == pytest.approx(
        trustworthiness(rows, result.coordinates, n_neighbors=7), abs=1e-3
    )
    assert result.continuity == pytest.approx(
        trustworthiness(result.coordinates, rows, n_neighbors=7), abs=1e-3
    )


def test_plane_is_mapped_without_loss():
    plane = np.random.default_rng(0).normal(size=(60, 1, 2))
    result = latent_map(plane, method="pca", neighbors=5)
    assert (result.trust, result.continuity) == pytest.approx((1, 1), abs=1e-3)


def test_umap_depends_on_the_seed_only():
    latents = clusters()[0]
    first, again, other = (latent_map(latents, seed=s).coordinates for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert first.dtype == np.float32


def test_umap_keeps_clusters_apart():
    latents, labels = clusters()
    coordinates = latent_map(latents).coordinates
    centers = np.array([coordinates[labels == i].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(coordinates[:, None] - centers, axis=-1).argmin(axis=1)
    assert (nearest == labels).all()


def test_neighbors_are_limited_by_the_images():
    result = latent_map(clusters(9)[0], neighbors=100)
    assert result.neighbors == 4
    assert "4 neighbors" in result.summary()


def test_sample_of_many_images_is_mapped(monkeypatch):
    monkeypatch.setattr(embeddings, "MAX_SCORED_POINTS", 30)
    latents, labels = clusters()
    result = latent_map(latents, labels, method="pca", points=50)
    assert "50 of 90 images" in result.summary()
    assert result.table()["class"].astype(int).tolist() == labels[result.image_indices].tolist()
    assert result.figure().layout.title.subtitle.text.startswith("n = 50 of 90 images")


def test_legend_lists_numbers_before_names():
    latents, labels = clusters()
    figure = latent_map(latents, labels, ("a", "b"), method="pca").figure()
    assert [trace.name for trace in figure.data] == ["2", "a", "b"]
    assert [len(trace.x) for trace in figure.data] == [30, 30, 30]


def test_colors_by_mode_equal_mixture_modes():
    latents, labels = clusters()
    result = latent_map(latents, method="pca", color_by="mode")
    counted = mixture_modes(latents)
    assert result.table()["mode"].astype(int).tolist() == counted.assignment.tolist()
    assert counted.best == 3


def test_colors_by_error_and_tokens():
    latents = clusters()[0]
    images = np.full((90, 2, 2, 1), 100, np.uint8)
    shifted = images + np.arange(90, dtype=np.uint8)[:, None, None, None]
    table = latent_map(
        latents, images=images, reconstructions=shifted, method="pca", color_by="error"
    ).table()
    assert table["error"][51] == pytest.approx(-20 * np.log10(51 / 255))
    active = np.arange(4) < np.arange(90)[:, None] % 4 + 1
    figure = latent_map(latents, active=active, method="pca", color_by="tokens").figure()
    assert figure.data[0].marker.color.tolist() == active.sum(axis=1).tolist()
    assert figure.layout.coloraxis.colorbar.title.text == "tokens used"


def test_rare_codes_share_one_color():
    latents, codes = clusters()[0], np.zeros((90, 4), int)
    codes[:20, 0] = np.arange(20)
    figure = latent_map(latents, codes=codes, method="pca", color_by="code").figure()
    assert len(figure.data) == 13
    assert figure.data[0].name == "0"
    assert (figure.data[-1].name, len(figure.data[-1].x)) == ("other", 8)


def test_constant_dimension_is_accepted():
    latents = clusters()[0]
    latents[..., 0] = 5
    assert np.isfinite(latent_map(latents, method="pca").coordinates).all()


def test_procrustes_alignment_equals_scipy():
    random = np.random.default_rng(0)
    reference, rotation = random.normal(size=(40, 2)), np.array([[0.6, 0.8], [0.8, -0.6]])
    aligned, disparity = embeddings.procrustes_align(3 * reference @ rotation + 5, reference)
    np.testing.assert_allclose(aligned, reference, atol=1e-5)
    assert disparity == pytest.approx(0, abs=1e-9)
    other = random.normal(size=(40, 2))
    assert embeddings.procrustes_align(other, reference)[1] == pytest.approx(
        procrustes(reference, other)[2]
    )


def test_disparity_is_small_for_similar_latents_only():
    latents, labels = clusters()
    mixed = latents[np.random.default_rng(1).permutation(90)]
    runs = [
        evidence(name, z, labels=labels)
        for name, z in (("a", latents), ("b", -latents[..., ::-1]), ("c", mixed))
    ]
    result = latent_maps([*runs, evidence("d", latents, "g")])
    assert result.disparity[0] == 0
    assert result.disparity[1] < 0.4
    assert result.disparity[2] > 0.8
    assert result.excluded == ("d",)
    assert result.table().groupby("run").size().to_dict() == {"a": 90, "b": 90, "c": 90}
    figure = result.figure()
    assert [trace.showlegend for trace in figure.data] == [True] * 3 + [False] * 6


def test_checkpoints_of_one_run_are_named_by_step():
    latents = clusters()[0]
    later = Evidence({"run": "a", "step": 1000, "fingerprint": "f"}, latents=latents)
    result = latent_maps([evidence("a", latents), later], method="pca")
    assert result.control_limits() == {"points": len(latents)}
    assert result.runs == ("a, step 1", "a, step 1,000")
    assert result.disparity[1] == pytest.approx(0, abs=1e-6)


# This test is in the file of UMAP, which takes seconds to load.
def test_released_script_preset_counts_modes_of_umap():
    result = mixture_modes(clusters(60)[0], preset="released script", max_modes=2)
    assert result.components == 12
    assert result.basis == "UMAP with 12 dimensions"
    assert "UMAP" in result.warnings[-1]


def test_invalid_latents_are_rejected():
    latents = clusters()[0]
    with pytest.raises(NotApplicable, match="5 .* 4"):
        latent_map(latents[:4])
    with pytest.raises(NotApplicable):
        latent_map(np.zeros_like(latents))
    with pytest.raises(UserError, match="3 .* 90"):
        latent_map(latents, np.zeros(3, int), method="pca")
    with pytest.raises(NotApplicable, match="active"):
        latent_map(latents, method="pca", color_by="tokens")
    with pytest.raises(NotApplicable):
        latent_maps([Evidence({"run": "a", "step": 1})])


def test_equal_latents_are_counted():
    latents, _ = clusters()
    assert latent_map(latents, method="pca").num_duplicates == 0
    latents[:30] = latents[0]
    result = latent_map(latents, method="pca")
    assert result.num_duplicates == 29 and "29 of 90" in result.summary()
