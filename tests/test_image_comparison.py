"""Images of several runs next to each other, their order and patches, and similar images."""

from dataclasses import replace

import numpy as np
import pytest

from workbench.analysis.images.image_comparison import image_comparison
from workbench.analysis.images.picture_sets import MAX_PIXELS, picture_set, shrink, worst_patches
from workbench.analysis.images.similar_images import nearest_to, similar_images
from workbench.core.errors import NotApplicable
from workbench.storage.evidence import Evidence

N = 10
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(60, 120, (N, 8, 8, 3), dtype=np.uint8)
LATENTS = RANDOM.normal(size=(N, 2, 3)).astype(np.float32)


def run(name: str, shift: np.ndarray, **changes: object) -> Evidence:
    """Evidence whose reconstruction of image i is brighter by shift[i]."""
    reconstructions = IMAGES + shift.astype(np.uint8)[:, None, None, None]
    evidence = Evidence(
        {"run": name, "step": 1, "fingerprint": "f", "names": ["cat", "dog"]},
        images=IMAGES,
        reconstructions=reconstructions,
        latents=LATENTS,
        labels=np.arange(N) % 2,
    )
    return replace(evidence, **changes)


SHIFTS = np.arange(N) * 3
RUNS = [run("a", np.full(N, 10)), run("b", SHIFTS)]


def test_disagreement_is_the_mean_over_pairs():
    shifts = [np.full(N, 10), SHIFTS, SHIFTS[::-1]]
    pictures = picture_set([run(str(i), shift) for i, shift in enumerate(shifts)], "This")
    pairs = [(shifts[i] - shifts[j]) ** 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    assert pictures.disagreement() == pytest.approx(np.mean(pairs, axis=0) / 255**2, rel=1e-4)


def test_orders_and_pages():
    difference = np.abs(SHIFTS - 10)
    by_disagreement = image_comparison(RUNS, count=4)
    assert by_disagreement.ranking.tolist() == np.argsort(-difference, kind="stable").tolist()
    assert by_disagreement.disagreement == pytest.approx(difference / 255, rel=1e-4)
    assert by_disagreement.indices.tolist() == by_disagreement.ranking[:4].tolist()
    last = image_comparison(RUNS, count=4, page=99)
    assert (last.page, last.num_pages, last.control_limits()) == (3, 3, {"page": 3})
    assert last.pictures.shape == (2, 3, 8, 8, 3)
    assert np.array_equal(last.pictures[:, 0], IMAGES[last.ranking[8:]])
    worst = np.maximum(10, SHIFTS)
    ranking = image_comparison(RUNS, order="worst").ranking
    assert ranking.tolist() == np.argsort(-worst, kind="stable").tolist()
    by_class = image_comparison(RUNS, order="class").ranking
    assert (by_class % 2).tolist() == [0] * 5 + [1] * 5
    assert (np.diff(difference[by_class[:5]]) <= 0).all()
    single = image_comparison(RUNS[1:])
    assert single.ranking.tolist() == list(range(N))[::-1] and "b" in single.summary()


def test_patch_is_where_the_error_is():
    reconstructions = IMAGES.copy()
    reconstructions[:, 4:6, 1:3] += 100
    runs = [RUNS[0], run("b", SHIFTS, reconstructions=reconstructions)]
    outlined = image_comparison(runs, count=4)
    assert outlined.boxes[:, 1] == pytest.approx(np.tile([1 / 8, 4 / 8, 1 / 4, 1 / 4], (4, 1)))
    assert outlined.patch_psnr[:, 1] == pytest.approx(np.full(4, 20 * np.log10(2.55)), abs=1e-3)
    enlarged = image_comparison(runs, count=4, patches="enlarged")
    assert np.array_equal(enlarged.pictures[:, 0], IMAGES[enlarged.indices][:, 4:6, 1:3])
    assert np.array_equal(enlarged.pictures[:, 2], reconstructions[enlarged.indices][:, 4:6, 1:3])
    assert worst_patches(np.ones((1, 3, 3)), 2).tolist() == [[0, 0]]


def test_runs_on_other_images_are_named():
    other = replace(RUNS[1], provenance={"run": "c", "step": 1, "fingerprint": "g"})
    samples = Evidence({"run": "flow", "step": 1}, samples=IMAGES)
    result = image_comparison([samples, *RUNS, other])
    assert result.runs == ("a", "b") and result.excluded == ("c",)
    with pytest.raises(NotApplicable):
        image_comparison([samples])
    with pytest.raises(NotApplicable):
        image_comparison([replace(RUNS[0], labels=None)], order="class")


def test_pictures_are_shrunk_to_a_bounded_page():
    large = np.full((40, 400, 400, 1), 7, np.uint8)
    small = shrink(large)
    assert small.shape == (40, 200, 200, 1) and (small == 7).all()
    assert small.size <= MAX_PIXELS and shrink(IMAGES) is IMAGES


def test_nearest_images_by_cosine():
    rows = LATENTS.reshape(N, -1).astype(np.float64)
    centered = rows - rows.mean(axis=0)
    units = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    expected = 1 - units @ units[3]
    indices, distances = nearest_to(LATENTS, 3, N - 1)
    order = np.argsort(expected, kind="stable")[1:]
    assert indices.tolist() == order.tolist() and distances == pytest.approx(expected[order])
    turned = run("turned", SHIFTS, latents=-2 * LATENTS)
    other = run("other", SHIFTS, latents=LATENTS[::-1].copy())
    result = similar_images([RUNS[0], turned, other], image=3, neighbors=4)
    assert result.neighbors[0].tolist() == result.neighbors[1].tolist() == order[:4].tolist()
    assert result.distances[0] == pytest.approx(expected[order[:4]])
    assert np.array_equal(result.pictures[0], IMAGES[order[:4]])
    assert np.array_equal(result.picture, IMAGES[3])
    same = len(set(result.neighbors[0].tolist()) & set(result.neighbors[2].tolist())) / 4
    assert result.overlap() == pytest.approx((1 + 2 * same) / 3)
    assert result.class_share(0) == np.mean(order[:4] % 2 == 1)
    assert similar_images(RUNS, image=99).image == N - 1
    with pytest.raises(NotApplicable):
        similar_images([replace(RUNS[0], latents=None)])
