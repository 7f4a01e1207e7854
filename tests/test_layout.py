"""Layouts of folders: splits, classes, files with labels, and what is refused as ambiguous."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.core.errors import UserError
from workbench.data import load
from workbench.data.layout import Listing, find_layout, read_labels


def write_images(root: Path, *folders: str, count: int = 10) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")


def layout_of(*names: str, folders: tuple[str, ...] = (), texts: dict[str, str] | None = None):
    texts = texts or {}
    return find_layout(Listing.from_names([*names, *texts], folders), "set", texts.__getitem__)


def classes_of(layout, split: str) -> list[str | None]:
    return [file.class_name for file in layout.splits[split]]


@pytest.mark.parametrize(
    ("folders", "name", "counts"),
    [
        (["a", "b"], "CLASS", {"train": 18, "test": 2}),
        (["images/a", "images/b"], "images/CLASS", {"train": 18, "test": 2}),
        (["train/a", "train/b"], "train/CLASS", {"train": 18, "test": 2}),
        (
            ["training/a", "training/b", "testing/a", "testing/b"],
            "training/CLASS and testing/CLASS",
            {"train": 20, "test": 20},
        ),
        (
            ["Train/a", "Train/b", "Test/a", "Test/b"],
            "Train/CLASS and Test/CLASS",
            {"train": 20, "test": 20},
        ),
        (
            ["images/train/a", "images/train/b", "images/val/a"],
            "images/train/CLASS and images/val/CLASS",
            {"train": 20, "test": 10},
        ),
        (["train/images/a", "train/images/b"], "train/images/CLASS", {"train": 18, "test": 2}),
    ],
)
def test_layouts_have_the_classes_a_and_b(tmp_path, folders, name, counts):
    write_images(tmp_path, *folders)
    images = load(str(tmp_path))
    assert images.names == ("a", "b") and set(images.labels) == {0, 1}
    assert len(images) == counts["train"]
    assert images.layout.name == name and images.layout.splits == counts
    assert images.layout.notes == ()


def test_training_images_and_held_out_images_are_disjoint():
    layout = layout_of("train/a/0.png", "train/b/1.png", "val/a/2.png")
    assert [file.name for file in layout.splits["train"]] == ["train/a/0.png", "train/b/1.png"]
    assert [file.name for file in layout.splits["test"]] == ["val/a/2.png"]


@pytest.mark.parametrize("folder", ["", "images/", "train/"])
def test_plain_folder_has_no_classes(folder):
    layout = layout_of(f"{folder}0.png", f"{folder}1.png")
    assert classes_of(layout, "all") == [None, None] and layout.class_names == ()


def test_test_set_without_labels_gives_way_to_the_validation_set():
    layout = layout_of("train/a/0.png", "val/a/1.png", "test/2.png")
    assert [file.name for file in layout.splits["test"]] == ["val/a/1.png"]
    assert "test/" in layout.name and layout.ignored == {".png": 1}
    layout = layout_of("train/a/0.png", "val/a/1.png", "test/a/2.png")
    assert [file.name for file in layout.splits["test"]] == ["test/a/2.png"]


def test_held_out_images_alone_are_evaluated_and_not_trained_on(tmp_path):
    write_images(tmp_path, "val/a", "val/b")
    for split in ("test", "all"):
        images = load(str(tmp_path), split=split)
        assert (len(images), images.split, images.names) == (20, "test", ("a", "b"))
    with pytest.raises(UserError, match="val/"):
        load(str(tmp_path))


def test_class_may_have_the_name_of_a_split():
    layout = layout_of("bus/0.png", "train/1.png", "tram/2.png")
    assert layout.class_names == ("bus", "train", "tram")


@pytest.mark.parametrize(
    "names",
    [
        ["train/a/0.png", "training/a/1.png"],
        ["train/a/0.png", "Train/a/1.png", "val/a/1.png"],
        ["train/a/0.png", "val/a/1.png", "validation/a/1.png"],
        ["train/a/0.png", "cats/1.png"],
        ["test/a/0.png", "cats/1.png"],
        ["train/a/0.png", "1.png"],
        ["images/a/0.png", "masks/a/1.png"],
        ["train2017/0.png", "val2017/1.png"],
        ["train_set/a/0.png", "test_set/a/1.png"],
        ["ILSVRC/train/a/0.png", "ILSVRC/val/1.png"],
        ["bottle/train/good/0.png", "bottle/test/broken/1.png"],
    ],
)
def test_ambiguous_layout_is_refused(names):
    with pytest.raises(UserError) as refusal:
        layout_of(*names)
    message = str(refusal.value)
    assert message.startswith("set has ") and message.count(". ") == 0 and message.endswith(".")


def test_class_folder_without_images_is_noted(tmp_path):
    write_images(tmp_path, "train/a", "train/b", "val/a")
    (tmp_path / "train" / "c").mkdir()
    with pytest.warns(UserWarning, match="train/c/"):
        images = load(str(tmp_path))
    assert images.names == ("a", "b") and len(images.layout.notes) == 1


def test_images_next_to_class_folders_are_noted(tmp_path):
    write_images(tmp_path, "", "a")
    with pytest.warns(UserWarning, match="no image has a label"):
        assert load(str(tmp_path)).labels is None


def test_files_of_other_types_are_counted():
    layout = layout_of("a/0.png", "b/1.avif", "b/2.jp2", "b/3.heic", "b/4.HEIC", "notes", "c.txt")
    assert layout.ignored == {".heic": 2, ".txt": 1, "no extension": 1}
    assert len(layout.splits["all"]) == 3


# Files with labels

TRAIN = ("train/n01/0.JPEG", "train/n02/1.JPEG")
FLAT = ("val/v1.JPEG", "val/v2.JPEG", "val/v3.JPEG")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val/labels.txt", "v2.JPEG n01\nv1.JPEG n02\nv3.JPEG n02\n"),
        ("val_labels.csv", "file,class\nv1.JPEG,n02\nv2.JPEG,n01\nv3.JPEG,n02\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nv1,n02 85 1 499 272\nv2,n01 1 2 3 4\nv3,n02 1 2 3 4\n",
        ),
        ("val/val_annotations.txt", "v1.JPEG\tn02\t0\t3\nv2.JPEG\tn01\t0\t3\nv3.JPEG\tn02\t1\t1\n"),
        ("imagenet_2012_validation_synset_labels.txt", "n02\nn01\nn02\n"),
    ],
)
def test_flat_validation_set_takes_its_labels_from_a_file(name, text):
    layout = layout_of(*TRAIN, *FLAT, texts={name: text})
    assert classes_of(layout, "test") == ["n02", "n01", "n02"]
    assert name in layout.name and layout.ignored == {} and layout.notes == ()


def test_flat_validation_set_without_labels_is_noted(tmp_path):
    write_images(tmp_path, "train/n01", "train/n02", "val")
    with pytest.warns(UserWarning, match=r"val/labels\.txt"):
        images = load(str(tmp_path), split="test")
    assert images.labels is None and len(images) == 10


@pytest.mark.parametrize("name", ["labels.txt", "val_labels.csv", "LOC_val_solution.csv"])
def test_validation_folder_itself_takes_its_labels_from_a_file_in_it(name):
    images = [f"v{i}.JPEG" for i in range(6)]
    lines = [f"{image[:-5]},n0{1 + i % 2}" for i, image in enumerate(images)]
    layout = layout_of(*images, texts={name: "\n".join(lines)})
    assert layout.name == f"a plain folder with {name}" and not layout.ignored
    assert classes_of(layout, "all") == ["n01", "n02"] * 3
    with pytest.raises(UserError, match="no label for 1 of 6"):
        layout_of(*images, texts={name: "\n".join(lines[1:])})


@pytest.mark.parametrize("name", ["labels.txt", "val/labels.txt"])
def test_only_split_takes_its_labels_also_from_a_file_next_to_it(name):
    layout = layout_of(*FLAT, texts={name: "n02\nn01\nn02\n"})
    assert classes_of(layout, "test") == ["n02", "n01", "n02"] and layout.ignored == {}
    assert classes_of(layout_of(*TRAIN, *FLAT, texts={"labels.txt": ""}), "test") == [None] * 3


def test_labels_file_gives_labels_of_the_training_classes(tmp_path):
    write_images(tmp_path, "train/n01", "train/n02", "val")
    lines = [f"{i}.png n0{1 + i % 2}" for i in range(10)]
    (tmp_path / "val" / "labels.txt").write_text("\n".join(lines))
    images = load(str(tmp_path), split="test")
    assert images.labels.tolist() == [0, 1] * 5 and images.names == ("n01", "n02")


@pytest.mark.parametrize(
    "text",
    [
        "n01\nn02\n",
        "v1.JPEG n01\nv2.JPEG n02\n",
        "v1 n01\nv2 n02\nv3 n01\nv4 n01\nv5 n01\n",
        "v1 0\nv2 1\nv3 1\n",
        "",
    ],
)
def test_labels_file_that_does_not_fit_is_refused(text):
    with pytest.raises(UserError, match=r"set/val/labels\.txt"):
        layout_of(*TRAIN, *FLAT, texts={"val/labels.txt": text})


def test_two_labels_files_are_refused():
    with pytest.raises(UserError, match="keep one"):
        layout_of(*TRAIN, *FLAT, texts={"val/labels.txt": "", "val_labels.csv": ""})


def test_class_names_may_contain_spaces():
    names = ["a b.png", "c.png"]
    known = {"red fox", "owl"}
    assert read_labels("red fox\nowl", names, "labels", known) == ["red fox", "owl"]
    assert read_labels("a b.png,red fox\nc.png,owl", names, "labels", known) == ["red fox", "owl"]


def test_layout_is_stored_and_printed(tmp_path, capsys):
    from workbench.launch import in_process
    from workbench.storage.run import Run

    write_images(tmp_path / "images", "train/a", "train/b", "val/a", "val/b")
    (tmp_path / "images" / "notes.txt").write_text("")
    settings = {"side": 8, "channels": 1, "steps": 1, "save_every": 1, "collect": False}
    out = tmp_path / "run"
    in_process.train("softvq-digits", out, data=str(tmp_path / "images"), **settings)
    data = json.loads((out / "config.json").read_text())["data"]
    assert data["layout"] == "train/CLASS and val/CLASS" and data["notes"] == []
    assert data["splits"] == {"train": 20, "test": 20} and data["ignored"] == {".txt": 1}
    assert Run(out).config.data.summary in capsys.readouterr().err
