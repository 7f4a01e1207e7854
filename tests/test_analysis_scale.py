"""Large evidence: an analysis reads a declared subset of it, and never copies it as a whole."""

import sys
import tracemalloc

import numpy as np
import psutil
import pytest

from workbench.analysis import get
from workbench.analysis.generation import feature_distances
from workbench.analysis.latents import probes
from workbench.analysis.learnability.decoded_neighborhoods import interpolation_distance
from workbench.core.mapped_memory import release_mapped_pages
from workbench.core.moments import row_blocks
from workbench.storage.evidence import Evidence, kwargs_for
from workbench.storage.files import load_array
from workbench.storage.mapped_array import create_mapped_array

NUM_IMAGES, NUM_TOKENS, DIM = 4000, 16, 160
NUM_MEASURED = 60
# Analysis, the constant or control that limits it, its lowered value, and further controls.
LIMITS = (
    ("mixture_modes", "latents.modes.MAX_IMAGES", NUM_MEASURED, {"max_modes": 2}),
    ("mode_comparison", "latents.mode_comparison.MAX_IMAGES", NUM_MEASURED, {"max_modes": 2}),
    ("latent_map", "points", NUM_MEASURED, {"method": "pca"}),
    ("latent_maps", "points", NUM_MEASURED, {"method": "pca"}),
    ("latent_geometry", "latents.geometry.MAX_LATENT_VALUES", NUM_MEASURED * NUM_TOKENS * DIM, {}),
    ("probes", "latents.probes.MAX_IMAGES", NUM_MEASURED, {}),
    ("teacher_alignment", "latents.alignment.MAX_IMAGES", NUM_MEASURED, {}),
    ("velocity_variance", "max_images", NUM_MEASURED, {}),
    ("neighbor_consistency", "max_images", NUM_MEASURED, {}),
    ("spatial_structure", "max_images", NUM_MEASURED, {}),
    ("spectral_energy", "max_images", NUM_MEASURED, {}),
    ("latent_pictures", "learnability.latent_pictures.MAX_FITTED_IMAGES", NUM_MEASURED, {}),
    ("code_churn", "codebook.churn.MAX_TOKENS", NUM_MEASURED * NUM_TOKENS, {}),
    ("code_prediction", "codebook.prediction.MAX_TOKENS", NUM_MEASURED * NUM_TOKENS, {}),
    ("code_information", "codebook.information.MAX_TOKENS", NUM_MEASURED * NUM_TOKENS, {}),
)


def evidence(n: int, latents: np.ndarray) -> Evidence:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
    codes = random.integers(0, 16, (n, NUM_TOKENS)).astype(np.int32)
    return Evidence(
        {"run": "a", "step": 1, "fingerprint": "f", "teacher": "hog", "grid": [4, 4]},
        images=images,
        latents=latents,
        labels=np.arange(n) % 4,
        codes=codes,
        previous_codes=np.where(random.random(codes.shape) < 0.1, 0, codes).astype(np.int32),
        codebook=random.normal(size=(1, 16, DIM)).astype(np.float32),
        teacher_features=latents[:, :, :4],
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    shape = (NUM_IMAGES, NUM_TOKENS, DIM)
    latents = create_mapped_array(tmp_path_factory.mktemp("large") / "a.npy", "float32", shape)
    latents[:] = np.random.default_rng(1).normal(size=shape)
    return evidence(NUM_IMAGES, latents)


@pytest.fixture(scope="module")
def small(large):
    return evidence(NUM_MEASURED, np.array(large.latents[:NUM_MEASURED]))


@pytest.mark.parametrize(("name", "limit", "value", "controls"), LIMITS)
def test_subset_is_declared_and_bounds_the_memory(
    name, limit, value, controls, large, small, monkeypatch
):
    if "." in limit:
        monkeypatch.setattr(f"workbench.analysis.{limit}", value)
    else:
        controls = controls | {limit: value}
    for module in ("core.moments", "analysis.learnability.scaled_latents"):
        monkeypatch.setattr(f"workbench.{module}.MAX_BLOCK_VALUES", 1 << 16)
    monkeypatch.setattr("workbench.storage.latent_stats.MAX_VALUES_IN_MEMORY", 1 << 16)
    analysis = get(name)
    whole = analysis(**kwargs_for(analysis, [small]), **controls)  # it also imports libraries
    assert whole.subset is None

    inputs = kwargs_for(analysis, [large])
    tracemalloc.start()
    result = analysis(**inputs, **controls)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (result.subset.count, result.subset.of) == (NUM_MEASURED, NUM_IMAGES)
    assert str(result.subset) in result.summary()
    assert peak < large.latents.nbytes / 2


def test_probes_of_many_classes_use_a_part_of_them():
    labels = np.arange(1500) % 150
    latents = np.eye(150)[labels][:, None] + np.zeros((1500, 2, 1))
    result = probes.probes(latents, labels)
    assert (len(result.classes), result.train + result.test) == (100, 1000)
    assert "100 of 150 classes" in str(result.subset)
    assert str(result.subset) in result.summary()
    assert result.best.accuracy == 1


def test_rotated_rows_keep_their_inner_products(monkeypatch):
    random = np.random.default_rng(0)
    train, test = random.normal(size=(20, 50)), random.normal(size=(5, 50))
    assert probes.rotate(train, test)[0] is train  # small rows stay as they are
    monkeypatch.setattr(probes, "MAX_DIRECT_VALUES", 0)
    rotated_train, rotated_test = probes.rotate(train, test)
    assert rotated_train.shape == (20, 20)
    np.testing.assert_allclose(rotated_train @ rotated_train.T, train @ train.T, atol=1e-12)
    np.testing.assert_allclose(rotated_test @ rotated_train.T, test @ train.T, atol=1e-12)


def test_errors_of_large_sets_agree_with_half_samples(monkeypatch):
    random = np.random.default_rng(0)
    features = random.normal(size=(800, 4))
    reconstructions = features + random.normal(size=(800, 4)) / 2
    decoded = features + random.normal(size=(800, 4)) + 1
    images = {"interpolation_partners": np.arange(800), "latents": features[:, None]}
    inputs = (features, reconstructions, decoded, *images.values())
    resampled = interpolation_distance(*inputs).neighborhoods[0]
    monkeypatch.setattr(feature_distances, "MAX_RESAMPLED_IMAGES", 700)
    large = interpolation_distance(*inputs).neighborhoods[0]
    assert large.excess == resampled.excess
    assert large.high - large.excess == pytest.approx(resampled.high - resampled.excess, rel=0.4)


@pytest.mark.skipif(sys.platform != "linux", reason="resident pages are counted by the system")
def test_pages_of_a_mapped_array_are_released(tmp_path):
    values = np.arange(1 << 22, dtype=np.float64)
    np.save(tmp_path / "values.npy", values)
    mapped = load_array(tmp_path / "values.npy")
    total = mapped.sum()  # makes all pages resident
    whole = psutil.Process().memory_info().shared
    release_mapped_pages()
    released = psutil.Process().memory_info().shared
    assert whole - released > 0.9 * values.nbytes
    assert sum(block.sum() for block in row_blocks(mapped)) == pytest.approx(total)
    assert psutil.Process().memory_info().shared - released < 0.1 * values.nbytes
    np.testing.assert_array_equal(mapped, values)
