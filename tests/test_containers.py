"""Images in archives, arrays and saved datasets, and 16-bit files that use few of their bits."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from workbench.core.errors import UserError
from workbench.data import load


def pixels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_of(seed)).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def samples(indices: range) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for i in indices:
        members |= {f"{i:04}.png": png(i), f"{i:04}.cls": str(i % 11).encode()}
    return members


def test_zip_has_the_layouts_of_a_folder(tmp_path):
    members = {
        f"{part}/{c}/{i}.png": png(i) for part in ("train", "val") for c in "ab" for i in (1, 2)
    }
    write_zip(tmp_path / "set.zip", members | {"__MACOSX/train/a/1.png": b"", "notes.txt": b""})
    train = load(str(tmp_path / "set.zip"))
    assert train.names == ("a", "b") and train.labels.tolist() == [0, 0, 1, 1]
    assert (train.pixels[1] == pixels_of(2)).all()
    assert train.layout.name == "train/CLASS and val/CLASS" and train.layout.ignored == {".txt": 1}
    assert len(load(str(tmp_path / "set.zip"), split="test")) == 4


def test_damaged_member_of_a_zip_is_skipped(tmp_path):
    write_zip(tmp_path / "set.zip", {f"{i}.png": png(i) for i in range(3)} | {"bad.png": b"text"})
    with pytest.warns(UserWarning, match="bad.png"):
        images = [load(str(tmp_path / "set.zip"), split=split) for split in ("train", "test")]
    assert sum(len(part) for part in images) == 3


def test_shards_of_webdataset_are_splits_with_classes(tmp_path):
    write_tar(tmp_path / "train-0000.tar", samples(range(12)))
    write_tar(tmp_path / "train-0001.tar", samples(range(12, 24)))
    write_tar(tmp_path / "val-0000.tar", samples(range(24, 30)))
    train, test = (load(str(tmp_path), split=split) for split in ("train", "test"))
    assert train.names == test.names == tuple(str(i) for i in range(11))
    assert train.labels.tolist() == [i % 11 for i in range(24)]
    assert test.labels.tolist() == [i % 11 for i in range(24, 30)]
    assert (test.pixels[0] == pixels_of(24)).all()


def test_stream_has_classes_behind_a_folder_and_a_text(tmp_path):
    pytest.importorskip("datasets")
    path = tmp_path / "train-0.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("train-0/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in {"0.txt": b"about", **samples(range(6))}.items():
            info = tarfile.TarInfo(f"train-0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert load(f"stream:{path}", side=8).labels.tolist() == list(range(6))


def test_tar_file_of_class_folders(tmp_path):
    write_tar(tmp_path / "set.tar", {f"{c}/{i}.png": png(i) for c in "ab" for i in range(5)})
    images = load(str(tmp_path / "set.tar"))
    assert images.names == ("a", "b") and images.layout.name == "CLASS"


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_are_images(tmp_path, suffix):
    array = np.stack([pixels_of(i) for i in range(20)])
    path = tmp_path / f"set.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    else:
        np.savez(path, arr_0=array, arr_1=np.arange(20) // 10 + 3)
    train, test = (load(str(path), split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (18, 2)
    assert sorted(x.tobytes() for part in (train, test) for x in part.pixels) == sorted(
        x.tobytes() for x in array
    )
    assert train.names == (() if suffix == "npy" else ("3", "4"))
    assert load(str(path), side=8).pixels.shape == (18, 8, 8, 3)


def test_saved_datasets_are_tables(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])
    )
    images = [Image.fromarray(pixels_of(i)) for i in range(20)]
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 10}, features=features)
    datasets.disable_progress_bars()
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select(range(4))).save_to_disk(tmp_path / "two")
    one, two = load(str(tmp_path / "one")), load(str(tmp_path / "two"), split="test")
    assert len(one) == 18 and one.names == ("a", "b")
    assert two.labels.tolist() == [0, 1, 0, 1] and (two.pixels[3] == pixels_of(3)).all()


def write_truncated_tar(path: Path) -> Path:
    file = path / "set.tar"
    write_tar(file, samples(range(3)))
    file.write_bytes(file.read_bytes()[:2000])
    return file


def write_compressed_tar(path: Path) -> Path:
    write_tar(path / "set.tar", samples(range(3)), "w:gz")
    return path / "set.tar"


def write_sample_without_class(path: Path) -> Path:
    write_tar(path / "set.tar", samples(range(3)) | {"last.png": png(0)})
    return path / "set.tar"


def write_tar_of_negative_size(path: Path) -> Path:
    header = bytearray(tarfile.TarInfo("a/1.png").tobuf())
    header[124:136] = 10 * b"\xff" + b"\xfe\0"  # -512, with which old versions of tarfile never end
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    (path / "set.tar").write_bytes(bytes(header) + bytes(1024))
    return path / "set.tar"


def write_sparse_tar(path: Path) -> Path:
    member = tarfile.TarInfo("a/1.png")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    with tarfile.open(path / "set.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    return path / "set.tar"


def write_zip_of_newer_version(path: Path) -> Path:
    write_zip(path / "set.zip", {"1.png": png(0)})
    content = (path / "set.zip").read_bytes()
    entry = content.index(b"PK\x01\x02")
    (path / "set.zip").write_bytes(content[: entry + 6] + b"\xff" + content[entry + 7 :])
    return path / "set.zip"


def write_zip_name_that_is_not_utf8(path: Path) -> Path:
    write_zip(path / "set.zip", {"\N{LATIN SMALL LETTER E WITH ACUTE}.png": png(0)})
    content = (path / "set.zip").read_bytes()
    (path / "set.zip").write_bytes(content.replace(b"\xc3\xa9", b"\xc3\xc3"))
    return path / "set.zip"


def write_text_as_zip(path: Path) -> Path:
    (path / "set.zip").write_text("no archive")
    return path / "set.zip"


def write_pickled_array(path: Path) -> Path:
    np.save(path / "set.npy", np.array([{}], dtype=object), allow_pickle=True)
    return path / "set.npy"


def write_floats(path: Path) -> Path:
    np.savez(path / "set.npz", images=np.zeros((3, 8, 8, 3)))
    return path / "set.npz"


def write_labels_of_another_length(path: Path) -> Path:
    np.savez(path / "set.npz", images=np.zeros((3, 8, 8, 3), np.uint8), labels=np.arange(2))
    return path / "set.npz"


def write_statistics(path: Path) -> Path:
    np.savez(path / "set.npz", mu=np.zeros(3), sigma=np.eye(3))
    return path / "set.npz"


def write_damaged_dataset(path: Path) -> Path:
    for name in ("state.json", "dataset_info.json"):
        (path / name).write_text("{")
    return path


@pytest.mark.parametrize(
    "write",
    [
        write_truncated_tar,
        write_compressed_tar,
        write_sample_without_class,
        write_tar_of_negative_size,
        write_sparse_tar,
        write_zip_of_newer_version,
        write_zip_name_that_is_not_utf8,
        write_text_as_zip,
        write_pickled_array,
        write_floats,
        write_labels_of_another_length,
        write_statistics,
        write_damaged_dataset,
    ],
)
def test_damaged_container_is_refused(tmp_path, write):
    path = write(tmp_path)
    with pytest.raises(UserError, match=tmp_path.name):
        load(str(path))


def test_sixteen_bits_of_which_twelve_are_used_are_noted(tmp_path):
    values = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    for i in range(4):
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    with pytest.warns(UserWarning, match="6% of their range"):
        images = load(str(tmp_path))
    assert len(images.layout.notes) == 1
    bright = values.copy()
    bright[0, 0] = 60_000
    for i in range(4):
        Image.fromarray(bright if i % 2 else values).save(tmp_path / f"{i}.png")
    assert load(str(tmp_path)).layout.notes == ()


def test_declared_range_is_white(tmp_path):
    values = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    (tmp_path / "0.pgm").write_bytes(b"P5 16 16 4095\n" + values.astype(">u2").tobytes())
    Image.fromarray(values).save(tmp_path / "1.tif", tiffinfo=tags)
    for split in ("train", "test"):
        pixels = load(str(tmp_path), split=split).pixels[0, ..., 0]
        assert np.abs(pixels - values / 4095 * 255).max() <= 0.51
