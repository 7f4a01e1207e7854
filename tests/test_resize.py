"""Bringing images to a size, and reading every image of a source."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.data import load
from workbench.data.resize import POLICIES, resize_and_crop

SIZE = ImageSize(16, 16)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [SIZE, ImageSize(16, 28), ImageSize(30, 16)], ids=str)
def test_policies_give_the_size_and_keep_an_image_that_has_it(policy, size):
    for width, height in ((50, 37), (37, 61), (200, 40)):
        image = resize_and_crop(noise(width, height), size, policy)
        assert image.size == (size.width, size.height)
    exact = noise(size.width, size.height)
    assert np.array_equal(np.asarray(resize_and_crop(exact, size, policy)), np.asarray(exact))


def test_the_center_is_cropped_along_the_side_that_is_too_long():
    image = noise(60, 40)
    wide = image.resize((30, 20), Image.Resampling.BICUBIC).crop((0, 4, 30, 16))
    assert resize_and_crop(image, ImageSize(12, 30), "bicubic") == wide
    tall = image.resize((30, 20), Image.Resampling.BICUBIC).crop((9, 0, 21, 20))
    assert resize_and_crop(image, ImageSize(20, 12), "bicubic") == tall


def test_adm_halves_while_both_sides_are_large_enough():
    image = noise(96, 64)
    halved = image.resize((48, 32), Image.Resampling.BOX)
    assert resize_and_crop(image, ImageSize(20, 48), "adm") == halved.crop((0, 6, 48, 26))


def test_adm_halves_by_box_averages_and_crops_the_center():
    image = noise(96, 64)
    pixels = np.asarray(image, np.float64)
    for _ in range(2):  # Pillow rounds after each of its two passes
        pixels = np.floor((pixels[:, ::2] + pixels[:, 1::2]) / 2 + 0.5)
        pixels = np.floor((pixels[::2] + pixels[1::2]) / 2 + 0.5)
    expected = pixels[:, 4:20]
    assert np.array_equal(np.asarray(resize_and_crop(image, SIZE, "adm")), expected)


def test_adm_interpolates_the_rest_bicubically():
    image = noise(25, 20)
    expected = image.resize((20, 16), Image.Resampling.BICUBIC).crop((2, 0, 18, 16))
    assert resize_and_crop(image, SIZE, "adm") == expected


def test_bicubic_does_not_halve():
    image = noise(80, 64)
    expected = image.resize((20, 16), Image.Resampling.BICUBIC).crop((2, 0, 18, 16))
    assert resize_and_crop(image, SIZE, "bicubic") == expected
    assert resize_and_crop(image, SIZE, "adm") != expected


def test_images_are_read_with_the_policy(tmp_path):
    image = noise(40, 32)
    image.save(tmp_path / "a.png")
    for policy in POLICIES:
        expected = np.asarray(resize_and_crop(image, ImageSize(8, 8), policy))
        images = load(str(tmp_path), split="all", side=8, resize=policy)
        assert np.array_equal(images.pixels[0], expected)
    default = load(str(tmp_path), split="all", side=8).pixels[0]
    assert np.array_equal(default, ImageOps.fit(image, (8, 8), Image.Resampling.LANCZOS))


def test_unknown_policy_is_refused():
    with pytest.raises(UserError, match="bicubic"):
        resize_and_crop(noise(16, 16), SIZE, "bicubik")


def test_all_is_every_image_of_a_source_without_splits(tmp_path):
    for number in range(12):
        noise(8, 8, number).save(tmp_path / f"{number}.png")
    assert len(load(str(tmp_path), split="test")) == 1
    every_image = load(str(tmp_path), split="all")
    assert (len(every_image), every_image.split) == (12, "all")


def test_all_is_the_test_images_of_a_source_with_splits(tmp_path):
    for split, count in (("train", 5), ("val", 3)):
        (tmp_path / split).mkdir()
        for number in range(count):
            noise(8, 8, number).save(tmp_path / split / f"{number}.png")
    images = load(str(tmp_path), split="all")
    assert (len(images), images.split) == (3, "test")
    assert load("digits", split="all").fingerprint == load("digits", split="test").fingerprint
