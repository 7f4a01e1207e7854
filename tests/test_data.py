"""Data: bundled sets, folders, parquet files and the hub, and errors of `load`."""

import ast
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import workbench
from workbench.core.errors import UserError
from workbench.core.image_size import ImageSize
from workbench.data import ImageSet, bundled, decode_cache, load
from workbench.data.channels import with_channels
from workbench.data.decode import FORMATS, MAX_FILE_BYTES, decode
from workbench.data.shapes import AMPLITUDES
from workbench.data.split import held_out_mask
from workbench.data.table_columns import content


def noise(height: int = 32, width: int = 32, seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    noise(seed=seed).save(file, "png")
    return file.getvalue()


def only_pixels(folder: Path, **settings) -> np.ndarray:
    """The pixels of the only image in a folder."""
    return load(str(folder), **settings).pixels[0]


@pytest.fixture
def cats_and_dogs(tmp_path):
    for name in ("dogs", "cats"):
        (tmp_path / name).mkdir()
        for i in range(10):
            noise(seed=i).save(tmp_path / name / f"{i}.png")
    return tmp_path


# Sets of images


def test_images_are_tensors_between_minus_one_and_one():
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = [255, 0, 51]
    images = ImageSet(pixels, None, (), "mine", "train").images()
    assert images.shape == (2, 3, 4, 5) and images.dtype == torch.float32 and images.is_contiguous()
    torch.testing.assert_close(images[1, :, 2, 3], torch.tensor([1.0, -1.0, -0.6]))
    assert (images[0] == -1).all()


@pytest.mark.parametrize(
    "indices", [slice(1, 3), [1, 2], np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)]
)
def test_images_by_any_kind_of_index(indices):
    digits = load("digits")
    assert torch.equal(digits.images(indices), digits.images()[1:3])
    (batch,) = digits.batch(indices)
    assert torch.equal(batch, digits.images(indices))


def test_fingerprint_depends_on_pixels_labels_and_names():
    pixels, labels = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])
    fingerprint = ImageSet(pixels, labels, ("a", "b"), "here", "train").fingerprint
    assert fingerprint == ImageSet(pixels.copy(), labels, ("a", "b"), "there", "test").fingerprint
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
    others = [
        ImageSet(pixels + 1, labels, ("a", "b"), "here", "train"),
        ImageSet(pixels.reshape(2, 2, 8, 1), labels, ("a", "b"), "here", "train"),
        ImageSet(pixels, labels[::-1], ("a", "b"), "here", "train"),
        ImageSet(pixels, None, ("a", "b"), "here", "train"),
        ImageSet(pixels, labels, ("a", "c"), "here", "train"),
    ]
    assert len({fingerprint, *(other.fingerprint for other in others)}) == 6


def test_take_keeps_labels_and_complexity():
    shapes = load("shapes", split="test")
    some = shapes.take(50, seed=1)
    where = [
        np.flatnonzero((shapes.pixels == image).all(axis=(1, 2, 3)))[0] for image in some.pixels
    ]
    assert len(set(where)) == 50
    assert (some.labels == shapes.labels[where]).all() and (
        some.complexity == shapes.complexity[where]
    ).all()
    assert (
        some.fingerprint
        == shapes.take(50, seed=1).fingerprint
        != shapes.take(50, seed=2).fingerprint
    )
    assert shapes.take(800) is shapes
    with pytest.raises(UserError):
        shapes.take(0)


def test_pixels_and_labels_of_another_shape_raise():
    with pytest.raises(UserError):
        ImageSet(np.zeros((2, 4, 4, 1)), None, (), "mine", "train")
    with pytest.raises(UserError):
        ImageSet(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int64), ("a",), "mine", "train")


def test_color_becomes_luma_and_gray_is_repeated():
    picture = noise()
    pixels = np.asarray(picture)[None]
    grey = with_channels(pixels, 1)
    assert np.abs(grey[0, ..., 0].astype(int) - np.asarray(picture.convert("L"))).max() <= 1
    assert (with_channels(grey, 3) == grey).all() and with_channels(grey, 3).shape == pixels.shape


# Bundled


def test_digits_are_stratified_with_seventeen_grays():
    train, test = load("digits"), load("digits", split="test")
    assert (len(train), len(test)) == (1437, 360) and train.pixels.shape[1:] == (8, 8, 1)
    shares = np.bincount(test.labels) / (np.bincount(train.labels) + np.bincount(test.labels))
    assert np.abs(shares - 0.2).max() < 0.01
    assert train.names == tuple("0123456789")
    assert (np.unique(train.pixels) == np.rint(np.arange(17) * 255 / 16)).all()


def test_resize_is_cubic_like_pillow():
    small = (
        load("digits", split="test").pixels[..., 0].astype(np.float32)
    )  # with bytes, Pillow clips between its passes
    for side in (5, 12, 32):
        large = load("digits", split="test", side=side).pixels[..., 0]
        pillows = [
            np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))
            for digit in small
        ]
        assert np.abs(large - np.rint(pillows).clip(0, 255)).max() <= 1


def test_photos_are_balanced_windows():
    for split, count in (("train", 375), ("test", 75)):
        photos = load("photos", split=split)
        assert photos.pixels.shape == (16 * count, 32, 32, 3)
        assert (np.bincount(photos.labels) == count).all() and len(photos.names) == 16
    assert load("photos", split="test").fingerprint == photos.fingerprint


@pytest.mark.parametrize("size", [ImageSize(32, 32), ImageSize(16, 24)])
def test_train_and_test_windows_do_not_overlap(size):
    for name in bundled.PHOTOGRAPHS:
        photograph = bundled.read_photograph(name, min(size))
        covered = {split: np.zeros(photograph.shape[:2], bool) for split in ("train", "test")}
        for split, mask in covered.items():
            corners = bundled.window_corners(photograph, size, split)
            assert len(corners) >= bundled.WINDOWS_PER_PHOTOGRAPH[split]
            for y, x in np.random.default_rng(0).permutation(corners)[:2000]:
                mask[y : y + size.height, x : x + size.width] = True
        assert not (covered["train"] & covered["test"]).any()


def test_photos_are_windows_of_their_own_label():
    photos = load("photos", split="test", limit=30)
    for image, label in zip(photos.pixels, photos.labels, strict=True):
        photograph = bundled.read_photograph(photos.names[label], 32)
        corners = bundled.window_corners(photograph, ImageSize(32, 32), "test")
        assert any((photograph[y : y + 32, x : x + 32] == image).all() for y, x in corners)


def test_photos_vary_in_detail_and_are_bright():
    photos = load("photos")
    detail = photos.pixels.mean(axis=-1).std(axis=(1, 2))
    assert np.quantile(detail, 0.05) < 4 and np.quantile(detail, 0.95) > 60
    by_name = dict(
        zip(
            photos.names,
            (np.median(detail[photos.labels == label]) for label in range(16)),
            strict=True,
        )
    )
    assert by_name["gravel"] > 5 * by_name["rocket"] and by_name["gravel"] > 5 * by_name["moon"]
    assert photos.pixels.mean(axis=(1, 2, 3)).min() >= bundled.MIN_BRIGHTNESS - 1e-6


def test_shapes_have_known_complexities():
    shapes = load("shapes")
    assert shapes.pixels.shape == (4000, 32, 32, 3) and len(load("shapes", split="test")) == 800
    assert shapes.names == ("flat", "gradient", "discs", "stripes", "noise", "blend")
    bits = {
        name: set(shapes.complexity[shapes.labels == label])
        for label, name in enumerate(shapes.names)
    }
    assert bits["flat"] == {24} and bits["gradient"] == {56} and bits["stripes"] == {72}
    assert bits["discs"] == {24 + 48 * n for n in range(1, 9)}
    assert bits["blend"] == {56 + 72 + 8} | {
        x + discs + 8 for x in (56, 72) for discs in bits["discs"]
    }
    assert min(bits["noise"]) == pytest.approx(
        24 + 3 * 32**2 * np.log2(2 * AMPLITUDES[0] + 1), rel=0.02
    )


def test_shapes_match_their_descriptions():
    shapes = load("shapes", split="test")
    family = {
        name: shapes.pixels[shapes.labels == label].astype(int)
        for label, name in enumerate(shapes.names)
    }
    assert (family["flat"] == family["flat"][:, :1, :1]).all()
    assert np.abs(np.diff(family["gradient"], axis=1)).max() <= 9
    amplitude = (2 ** ((shapes.complexity[shapes.labels == 4] - 24) / (3 * 32**2)) - 1) / 2
    spread = family["noise"].max(axis=(1, 2)) - family["noise"].min(axis=(1, 2))
    np.testing.assert_allclose(spread, np.repeat(2 * amplitude[:, None], 3, axis=1), atol=3)


def test_one_disc_has_two_colors():
    shapes = load("shapes", split="test", side=64)
    single = shapes.pixels[(shapes.labels == 2) & (shapes.complexity == 72)]
    assert len(single) > 5
    for image in single:
        counts = np.sort(np.unique(image.reshape(-1, 3), axis=0, return_counts=True)[1])
        assert counts[-2:].sum() > 0.9 * 64**2


@pytest.mark.parametrize("source", ["digits", "shapes"])
def test_bundled_splits_are_disjoint_and_reproducible(source):
    train, test = load(source), load(source, split="test")
    assert train.fingerprint == load(source).fingerprint
    seen = {image.tobytes() for image in train.pixels}
    assert not seen & {image.tobytes() for image in test.pixels}


@pytest.mark.slow
def test_digits_and_shapes_need_no_extra_package():
    code = """
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                missing = ("PIL", "pandas", "skimage", "datasets", "pyarrow", "tqdm")
                if name.partition(".")[0] in missing:
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, Missing())
        from workbench.data import load
        from workbench.core.errors import UserError
        assert "torch" not in sys.modules and "sklearn" not in sys.modules
        assert load("shapes", limit=6).images().shape == (6, 3, 32, 32)
        assert load("digits", side=16, limit=2).images().shape == (2, 1, 16, 16)
        try:
            load("photos")
        except UserError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "PIL" in done.stdout and "visual-tokenizer-workbench[train]" in done.stdout


# Folders


def test_subfolders_are_classes_in_alphabetical_order(cats_and_dogs):
    images = load(str(cats_and_dogs))
    assert images.names == ("cats", "dogs") and images.pixels.shape == (18, 32, 32, 3)
    assert set(images.labels) == {0, 1} and images.labels.dtype == np.int64


def test_images_directly_in_a_folder_have_no_labels(tmp_path):
    for i in range(3):
        noise(seed=i).save(tmp_path / f"{i}.png")
    images = load(str(tmp_path))
    assert images.labels is None and images.names == () and len(images) == 2


def test_folder_without_splits_holds_out_a_tenth(cats_and_dogs):
    train, test = load(str(cats_and_dogs)), load(str(cats_and_dogs), split="test")
    assert (len(train), len(test)) == (18, 2) and train.names == test.names
    files = sorted(cats_and_dogs.rglob("*.png"))
    whole = sorted(np.asarray(Image.open(file)).tobytes() for file in files)
    assert sorted(image.tobytes() for images in (train, test) for image in images.pixels) == whole
    assert load(str(cats_and_dogs)).fingerprint == train.fingerprint


@pytest.mark.parametrize(("count", "out"), [(0, 0), (1, 0), (2, 1), (9, 1), (10, 1), (1000, 100)])
def test_held_out_mask_counts(count, out):
    keys = [f"{i}.png" for i in range(count)]
    chosen = held_out_mask(keys)
    assert chosen.sum() == out
    assert (held_out_mask(keys[::-1])[::-1] == chosen).all()


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_subfolders_named_after_splits_are_splits(tmp_path, name):
    for part, classes in (("train", "ab"), (name, "bc")):
        for i, letter in enumerate(classes):
            (tmp_path / part / letter).mkdir(parents=True)
            noise(seed=i).save(tmp_path / part / letter / "0.png")
    train, test = load(str(tmp_path)), load(str(tmp_path), split="test")
    assert train.names == test.names == ("a", "b", "c")
    assert train.labels.tolist() == [0, 1] and test.labels.tolist() == [1, 2]


def test_other_and_hidden_files_are_ignored(tmp_path):
    noise().save(tmp_path / "0.PNG")
    noise().save(tmp_path / "1.jpeg")
    noise().save(tmp_path / ".2.png")
    (tmp_path / ".cache").mkdir()
    noise().save(tmp_path / ".cache" / "3.png")
    (tmp_path / "notes.txt").write_text("not an image")
    assert len(load(str(tmp_path))) + len(load(str(tmp_path), split="test")) == 2


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_link_to_a_folder_above_is_not_followed(cats_and_dogs, target):
    (cats_and_dogs / "cats" / "again").symlink_to(cats_and_dogs / target, target_is_directory=True)
    noise().save(cats_and_dogs.parent / "stray.png")
    assert len(load(str(cats_and_dogs))) == 18


def test_whole_file_system_is_refused(monkeypatch):
    monkeypatch.setattr("os.walk", lambda *_, **__: pytest.fail("It takes minutes to list."))
    with pytest.raises(UserError):
        load("/")


def test_jpeg_file_of_many_scans_is_refused(monkeypatch):
    file = io.BytesIO()
    noise().save(file, "jpeg", progressive=True)
    content = file.getvalue()
    last_scan = content[content.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr("workbench.data.decode.MAX_SCANNED_PIXELS", 32 * 32 * 20)
    assert decode(content, "ten scans").shape == (32, 32, 3)
    with pytest.raises(UserError, match="scans"):
        decode(content[:-2] + 20 * last_scan + content[-2:], "thirty scans")


def test_short_side_is_resized_and_center_cropped(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = only_pixels(tmp_path, side=10)
    assert pixels.shape == (10, 10, 3) and pixels[:, 1:-1].min() >= 250


def test_shrinking_is_antialiased(tmp_path):
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    pixels = only_pixels(tmp_path, side=16)
    assert pixels.shape == (16, 16, 1) and np.abs(pixels.astype(int) - 127).max() < 12


def test_different_sizes_need_a_side(tmp_path):
    noise().save(tmp_path / "a.png")
    noise(40, 40).save(tmp_path / "b.png")
    noise(40, 40).save(tmp_path / "c.png")
    with pytest.raises(UserError):
        load(str(tmp_path))
    assert len(load(str(tmp_path), side=32)) == 2


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (32, 32), "black")
    picture.paste("white", (0, 0, 32, 8))  # a bright top, which orientation 6 turns to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = only_pixels(tmp_path)
    assert (pixels[:, -8:] == 255).all() and (pixels[:, :-8] == 0).all()


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    np.testing.assert_allclose(only_pixels(tmp_path)[0, 0], [255, 0, 0], atol=3)


def test_palette_becomes_rgb(tmp_path):
    Image.new("RGB", (16, 16), (10, 200, 30)).quantize(4).save(tmp_path / "green.png")
    assert only_pixels(tmp_path)[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bits_become_eight(tmp_path, extension):
    values = np.tile(np.array([0, 257, 128 * 257, 65535], np.uint16), (16, 4))
    Image.fromarray(values).save(tmp_path / f"deep.{extension}")
    assert only_pixels(tmp_path)[0, :4, 0].tolist() == [0, 1, 128, 255]


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (16, 16), (0, 0, 0, 51)).save(tmp_path / "faint.png")
    assert only_pixels(tmp_path)[0, 0].tolist() == [204, 204, 204]


def test_gray_with_transparency_stays_gray(tmp_path):
    Image.new("LA", (16, 16), (0, 51)).save(tmp_path / "faint.png")
    assert only_pixels(tmp_path)[0, 0].tolist() == [204]


def test_one_color_image_makes_the_set_rgb(tmp_path):
    for i in range(3):
        Image.new("L", (16, 16), 7).save(tmp_path / f"{i}.png")
    assert load(str(tmp_path)).pixels.shape[-1] == 1
    for i in range(3, 6):
        Image.new("RGB", (16, 16), (7, 8, 9)).save(tmp_path / f"{i}.png")
    images = load(str(tmp_path))
    assert {tuple(pixel) for pixel in images.pixels[:, 0, 0].tolist()} == {(7, 7, 7), (7, 8, 9)}
    assert load(str(tmp_path), channels=1).pixels.shape[-1] == 1


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_first_frame_of_an_animation_is_read(tmp_path, extension):
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    red.save(tmp_path / f"moving.{extension}", save_all=True, append_images=[blue])
    np.testing.assert_allclose(only_pixels(tmp_path)[0, 0], [255, 0, 0], atol=4)


def spoil_empty(file: Path) -> None:
    file.write_bytes(b"")


def spoil_truncated(file: Path) -> None:
    noise().save(file)
    file.write_bytes(file.read_bytes()[:1000])


def spoil_text(file: Path) -> None:
    file.write_text("I am no image")


def spoil_small_for_the_side(file: Path) -> None:
    noise(8, 40).save(file)


def spoil_missing(file: Path) -> None:
    file.symlink_to(file.with_name("gone.png"))


def spoil_huge(file: Path) -> None:
    file.write_bytes(b"P5 10000 10000 255\n")  # a PGM header: refused before any pixel is read


def spoil_float(file: Path) -> None:
    Image.new("F", (16, 16)).save(file, "tiff")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_empty, "bad.png is empty."),
        (spoil_truncated, "bad.png is truncated."),
        (spoil_text, "bad.png is not an image of a supported format, such as PNG or JPEG."),
        (
            spoil_small_for_the_side,
            "bad.png is 40 x 8 pixels; the short side must have at least 9.",
        ),
        (spoil_missing, "bad.png cannot be read (No such file or directory)."),
        (spoil_huge, "bad.png has more than 89,478,485 pixels; make it smaller."),
        (
            spoil_float,
            "bad.png has floating-point pixels, whose range is unknown; save it with 8 or 16 bits,"
            " or give value_range.",
        ),
    ],
)
def test_damaged_files_are_skipped_and_reported(tmp_path, spoil, reason):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        noise().save(tmp_path / part / "good.png")
    spoil(tmp_path / "train" / "bad.png")
    with pytest.warns(UserWarning, match="1 file was skipped in .*: train/bad.png"):
        images = load(str(tmp_path), side=33)
    assert len(images) == 1 and images.skipped == (f"train/{reason}",)


def test_images_below_eight_pixels_are_skipped(tmp_path):
    for i in range(2):
        noise(7, 40).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError):
        load(str(tmp_path), side=4)


def test_labels_stay_with_images_after_a_skip(tmp_path):
    for i, name in enumerate(("a", "b", "c")):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (16, 16), 100 * i).save(tmp_path / part / name / "0.png")
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped"):
        images = load(str(tmp_path))
    assert images.labels.tolist() == [1, 2] and images.pixels[:, 0, 0, 0].tolist() == [100, 200]


def test_folder_without_usable_images_raises(tmp_path):
    with pytest.raises(UserError):
        load(str(tmp_path))
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError):
        load(str(tmp_path))


def test_limit_bounds_the_files_that_are_read(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        load(str(tmp_path), limit=2)
    assert str(error.value).count("is empty") == 2


def test_only_the_sample_is_read(tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        load(str(tmp_path), limit=9, sample=2)
    assert str(error.value).count("is empty") == 2


def test_sample_equals_take(cats_and_dogs):
    every = load(str(cats_and_dogs), limit=12)
    some = load(str(cats_and_dogs), limit=12, sample=5, seed=2)
    assert some.fingerprint == every.take(5, seed=2).fingerprint
    assert (len(some), some.total, every.total) == (5, 12, 12)
    assert load("digits", split="test", sample=5).total == 360
    with pytest.raises(UserError, match="sample"):
        load("digits", sample=0)


def test_limit_draws_the_same_images_each_time(cats_and_dogs):
    some = load(str(cats_and_dogs), limit=6)
    assert len(some) == 6 and set(some.labels) == {0, 1}
    assert some.fingerprint == load(str(cats_and_dogs), limit=6).fingerprint


# Formats


@pytest.fixture
def ghostscript_marker(tmp_path_factory, monkeypatch) -> Path:
    """Return the path of a file that is written if Ghostscript is started."""
    folder = tmp_path_factory.mktemp("programs")
    marker = folder / "started"
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # the cached path
    return marker


def postscript() -> bytes:
    file = io.BytesIO()
    noise().save(file, "eps")
    return file.getvalue()


def test_postscript_is_refused_and_ghostscript_not_started(tmp_path, ghostscript_marker):
    with pytest.raises(UserError) as refusal:
        decode(postscript(), "cat.jpg")
    assert "cat.jpg" in str(refusal.value)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        noise().save(tmp_path / part / "good.png")
        (tmp_path / part / "cat.jpg").write_bytes(postscript())
    with pytest.warns(UserWarning):
        images = load(str(tmp_path))
    (reason,) = images.skipped
    assert len(images) == 1 and reason.startswith("train/cat.jpg ")
    assert not ghostscript_marker.exists()


def test_postscript_in_a_parquet_cell_is_skipped(tmp_path, own_cache, ghostscript_marker):
    write_table(tmp_path / "train.parquet", [png(0), postscript()], label=["a", "b"])
    write_table(tmp_path / "test.parquet", [png(1)], label=["a"])
    with pytest.warns(UserWarning):
        images = load(str(tmp_path))
    (reason,) = images.skipped
    assert len(images) == 1 and reason.startswith("row 1 of train.parquet ")
    assert not ghostscript_marker.exists()


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_only_regular_files_of_limited_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # the disk holds nothing
    for name in ("pipe.png", "device.png", "folder.png", "large.png"):
        with pytest.raises(UserError) as refusal:
            decode(tmp_path / name, name)
        assert str(refusal.value).startswith(f"{name} ")


@pytest.mark.parametrize("name", FORMATS)
def test_every_supported_format_is_read(name):
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {name}")
    file = io.BytesIO()
    noise().save(file, name)
    assert decode(file.getvalue(), "picture").shape == (32, 32, 3)


def test_every_image_is_opened_with_a_list_of_formats():
    files = sorted(Path(workbench.__file__).parent.rglob("*.py"))
    calls = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open")
    ]
    assert calls
    assert all("formats" in [keyword.arg for keyword in call.keywords] for call in calls)


# Parquet and the hub


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    return datasets


def write_table(file: Path, images: list, **columns) -> None:
    import pyarrow
    import pyarrow.parquet

    structs = [{"bytes": image, "path": None} for image in images]
    pyarrow.parquet.write_table(pyarrow.table({"img": structs, **columns}), file)


def test_parquet_of_datasets_keeps_class_names(tmp_path, own_cache):
    pictures = [noise(seed=i) for i in range(20)]
    features = own_cache.Features(
        image=own_cache.Image(), species=own_cache.ClassLabel(names=["cat", "dog"])
    )
    table = own_cache.Dataset.from_dict(
        {"image": pictures, "species": [0, 1] * 10}, features=features
    )
    table.to_parquet(tmp_path / "pets.parquet")
    train, test = (load(str(tmp_path / "pets.parquet"), split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 2) and train.names == ("cat", "dog")
    assert train.skipped == () and train.split == "train"
    label = {np.asarray(picture).tobytes(): i % 2 for i, picture in enumerate(pictures)}
    for images in (train, test):
        assert images.labels.tolist() == [label[image.tobytes()] for image in images.pixels]


@pytest.mark.parametrize("source", ["", "train.parquet", "test.parquet"])
def test_parquet_files_are_splits_with_shared_names(tmp_path, own_cache, source):
    write_table(tmp_path / "train.parquet", [png(0), png(1)], label=["wolf", "ant"])
    write_table(tmp_path / "test.parquet", [png(2)], label=["wolf"])
    train, test = (load(str(tmp_path / source), split=split) for split in ("train", "test"))
    assert (train.pixels[1] == np.asarray(noise(seed=1))).all() and (
        test.pixels[0] == np.asarray(noise(seed=2))
    ).all()
    assert train.names == test.names == ("ant", "wolf")
    assert train.labels.tolist() == [1, 0] and test.labels.tolist() == [1]


def test_damaged_rows_are_skipped_and_named(tmp_path, own_cache):
    write_table(tmp_path / "train-0.parquet", [png(0), png(1)], label=[3, 5])
    write_table(
        tmp_path / "train-1.parquet", [png(2), png(3)[:500], None, png(4)], label=[7, 7, 7, 5]
    )
    write_table(tmp_path / "validation-0.parquet", [png(5)], label=[3])
    with pytest.warns(UserWarning, match="2 files were skipped"):
        images = load(str(tmp_path))
    assert images.skipped == (
        "row 1 of train-1.parquet is truncated.",
        "row 2 of train-1.parquet is empty.",
    )
    assert images.names == ("3", "5", "7") and images.labels.tolist() == [0, 1, 2, 1]


def test_hidden_labels_make_a_set_without_labels(tmp_path, own_cache):
    write_table(tmp_path / "train.parquet", [png(0), png(1)], label=["a", "b"])
    write_table(tmp_path / "test.parquet", [png(2), png(3)], label=["a", None])
    with pytest.warns(UserWarning, match="column label have no class"):
        assert load(str(tmp_path), split="test").labels is None
    assert load(str(tmp_path)).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "names"),
    [([0.0, 1.0], ()), ([True, False], ()), ([-1, 4], ("-1", "4"))],
)
def test_odd_labels_are_not_left_out_silently(tmp_path, own_cache, labels, names):
    write_table(tmp_path / "train.parquet", [png(0), png(1)], label=labels)
    write_table(tmp_path / "test.parquet", [png(2), png(3)], label=labels)
    with pytest.warns(UserWarning, match="column label"):
        assert load(str(tmp_path)).names == names


def test_limit_keeps_labels_with_rows(tmp_path, own_cache):
    write_table(tmp_path / "train.parquet", [png(i) for i in range(12)], label=list(range(12)))
    write_table(tmp_path / "test.parquet", [png(0)], label=[0])
    some = load(str(tmp_path), limit=5)
    assert len(some) == 5
    for image, label in zip(some.pixels, some.labels, strict=True):
        assert (image == np.asarray(noise(seed=int(label)))).all()


def test_parquet_without_images_raises(tmp_path, own_cache):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({"x": [1, 2], "y": ["a", "b"]}), tmp_path / "numbers.parquet"
    )
    with pytest.raises(UserError):
        load(str(tmp_path / "numbers.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError):
        load(str(tmp_path / "broken.parquet"))


def test_glob_characters_in_a_path_are_literal(tmp_path, own_cache):
    (tmp_path / "run [1] *").mkdir()
    write_table(tmp_path / "run [1] *" / "a.parquet", [png(i) for i in range(3)])
    assert len(load(str(tmp_path / "run [1] *"))) == 2


def test_unreachable_hub_name_raises(own_cache, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(own_cache.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as e:
        load("hub:nobody/nothing")
    assert e.value.__cause__ is None and e.value.__suppress_context__


# Errors


@pytest.mark.parametrize(
    ("source", "settings", "words"),
    [
        ("digit", {}, ("`digit`", "`digits`")),
        ("no/such/folder", {}, ("no/such/folder",)),
        ("gone.parquet", {}, ("gone.parquet",)),
        (__file__, {}, ("test_data.py",)),
        ("x" * 300, {}, ("File name too long",)),
        ("digits", {"split": "valid"}, ("split", "`valid`", "test, train")),
        ("digits", {"channels": 4}, ("channels", "4")),
        ("digits", {"side": 0}, ("side", "4", "0")),
        ("digits", {"limit": 0}, ("limit", "0")),
    ],
)
def test_invalid_arguments_of_load_raise(source, settings, words):
    with pytest.raises(UserError) as error:
        load(source, **settings)
    assert all(word in str(error.value) for word in words)


def test_decoded_images_are_cached_until_a_file_changes(cats_and_dogs):
    first, again = load(str(cats_and_dogs)), load(str(cats_and_dogs))
    assert again.pixels is first.pixels and again.fingerprint == first.fingerprint
    assert load(str(cats_and_dogs), side=16).pixels.shape[1] == 16
    for file in cats_and_dogs.rglob("*.png"):
        noise(seed=99).save(file)
    assert load(str(cats_and_dogs)).fingerprint != first.fingerprint


def test_rows_that_refer_to_files_are_not_cached(tmp_path, own_cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = tmp_path / "picture.png"
    noise(seed=0).save(picture)
    rows = [{"bytes": None, "path": str(picture)}] * 20
    pq.write_table(pa.table({"image": rows}), tmp_path / "table.parquet")
    first = load(str(tmp_path / "table.parquet"))
    noise(seed=1).save(picture)
    assert load(str(tmp_path / "table.parquet")).fingerprint != first.fingerprint


@pytest.mark.parametrize("name", ["t.parquet", "train-0.tar", "val/labels.txt", "0.arrow"])
def test_pipe_in_place_of_a_file_is_refused(tmp_path, name):
    for folder in ("train/a", "train/b", "val"):
        (tmp_path / folder).mkdir(parents=True)
        noise(seed=0).save(tmp_path / folder / "0.png")
    source = tmp_path
    if name != "val/labels.txt":  # tables are not read next to folders of images
        source = tmp_path / "tables"
        source.mkdir()
    if name == "0.arrow":
        (source / "dataset_info.json").write_text("{}")
        (source / "state.json").write_text('{"_data_files": [{"filename": "0.arrow"}]}')
    os.mkfifo(source / name)
    with pytest.raises(UserError, match="not a regular file"):
        load(str(source))


@pytest.mark.parametrize("name", ["../0.arrow", "/tmp/0.arrow"])
def test_saved_data_set_names_files_of_its_folder_only(tmp_path, name):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(f'{{"_data_files": [{{"filename": "{name}"}}]}}')
    with pytest.raises(UserError, match=r"0\.arrow"):
        load(str(tmp_path))


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_cells_with_impossible_paths_are_refused(tmp_path, path):
    with pytest.raises(UserError):
        decode(content({"bytes": None, "path": path}, tmp_path), "cell")


@pytest.mark.parametrize("name", ["../secret.png", "absolute"])
def test_table_cannot_name_files_outside_of_its_folder(tmp_path, own_cache, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise(seed=0).save(tmp_path / "secret.png")
    folder = tmp_path / "table"
    folder.mkdir()
    path = str(tmp_path / "secret.png") if name == "absolute" else name
    pq.write_table(pa.table({"image": [{"bytes": None, "path": path}] * 20}), folder / "t.parquet")
    for source in (folder / "t.parquet", folder):
        with pytest.raises(UserError, match=r"secret\.png"):
            load(str(source))


def test_relative_paths_begin_at_the_table(tmp_path, own_cache):
    import pyarrow as pa
    import pyarrow.parquet as pq

    noise(seed=0).save(tmp_path / "picture.png")
    rows = [{"bytes": None, "path": "picture.png"}] * 20
    pq.write_table(pa.table({"image": rows}), tmp_path / "t.parquet")
    assert len(load(str(tmp_path / "t.parquet"))) == 18


def test_jpeg_2000_is_read(tmp_path):
    for number in range(3):
        noise(seed=number).save(tmp_path / f"{number}.jp2")
    assert len(load(str(tmp_path))) == 2


def test_cache_size_is_bounded(cats_and_dogs, monkeypatch):
    size = load(str(cats_and_dogs)).pixels.nbytes
    monkeypatch.setattr(decode_cache, "_CACHE", decode_cache.new_cache(size))
    first = load(str(cats_and_dogs))
    load(str(cats_and_dogs), split="test")
    assert load(str(cats_and_dogs)).pixels is not first.pixels
