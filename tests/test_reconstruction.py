import base64
import io

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from workbench.analysis.generation.samples import samples
from workbench.analysis.images.reconstruction import reconstruction
from workbench.analysis.stats.intervals import mean_interval
from workbench.core.errors import NotApplicable, UserError


def images(n: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, channels), dtype=np.uint8)


def test_psnr_agrees_with_skimage():
    a, b = images(6), images(6, seed=1)
    expected = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(reconstruction(a, b).psnr, expected)


def test_psnr_of_a_constant_difference():
    result = reconstruction(
        np.zeros((2, 10, 10, 1), np.uint8), np.full((2, 10, 10, 1), 25.5).astype(np.uint8)
    )
    assert result.psnr[0] == pytest.approx(-20 * np.log10(25 / 255))
    assert result.l1[0] == pytest.approx(25 / 255)


def test_identical_images_have_100_db():
    result = reconstruction(images(3), images(3))
    assert result.psnr.tolist() == [100, 100, 100]
    assert "3 identical" in result.summary()


def test_examples_are_ordered_by_psnr():
    a = np.zeros((5, 4, 4, 1), np.uint8)
    b = a + np.array([3, 1, 5, 2, 4], np.uint8)[:, None, None, None]
    assert reconstruction(a, b, show=4, order="worst").example_indices == (2, 4, 0, 3)
    assert reconstruction(a, b, show=4, order="best").example_indices == (1, 3, 0, 4)
    assert reconstruction(a, b, show=4).example_indices == (0, 1, 2, 3)


def test_figure_shows_original_reconstruction_and_error():
    result = reconstruction(
        np.full((1, 64, 64, 1), 30, np.uint8), np.full((1, 64, 64, 1), 10, np.uint8)
    )
    source = result.figure().data[0].source.partition(",")[2]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    rows = np.split(picture, 4)
    assert [tuple(row[5, 5]) for row in rows] == [
        (0, 0, 0, 0),
        (30, 30, 30, 255),
        (10, 10, 10, 255),
        (80, 80, 80, 255),
    ]
    assert result.figure().layout.yaxis.ticktext == ("", "original", "reconstruction", "error ×4")


def test_table_names_the_class_of_each_image():
    table = reconstruction(images(3), images(3, 1), np.array([1, 0, 7]), ("cat", "dog")).table()
    assert table["class"].tolist() == ["dog", "cat", "7"]


def test_interval_of_a_normal_mean():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = mean_interval(values)
    error = values.std(ddof=1) / np.sqrt(400)
    assert (low, high) == pytest.approx(
        (mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error
    )


def test_interval_ignores_nan():
    assert mean_interval(np.array([2.0, np.nan, 2.0])) == (2, 2, 2)
    assert np.isnan(mean_interval(np.array([np.nan]))).all()


def test_different_shapes_are_rejected():
    with pytest.raises(UserError, match="3 × 8 × 8 × 3.* 2 × 8 × 8 × 3"):
        reconstruction(images(3), images(2))


def test_empty_images_are_rejected():
    with pytest.raises(NotApplicable):
        reconstruction(images(0), images(0))


def test_samples_are_counted_by_class_in_the_labels_order():
    result = samples(images(5), np.array([1, 0, 1, 1, 0]), ("cat", "dog"), per_class=2)
    assert result.counts == {"cat": 2, "dog": 3}
    assert result.summary() == "5 generated images of 2 classes."
    assert result.mosaic.shape == (2 * 70, 2 * 70, 4)


def test_samples_without_labels_are_not_said_to_have_classes():
    result = samples(images(3))
    assert result.summary() == "3 generated images, without classes."
    assert result.table()["count"].tolist() == [3]
