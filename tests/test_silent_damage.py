"""Damage that leaves files readable: flipped bits, missing arrays, numbers that are not finite."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workbench.collect import collect, to_uint8
from workbench.core.errors import RunError, UserError
from workbench.hosts.reports.report import report
from workbench.launch.in_process import train
from workbench.storage import evidence_files
from workbench.storage.evidence import Evidence, verify_evidence
from workbench.storage.run import Run

OLD_RUN = Path(__file__).parent / "fixtures" / "runs-v1" / "softvq"


@pytest.fixture
def soft(trained, tmp_path):
    shutil.copytree(trained / "soft-2", tmp_path / "soft-2")
    return Run(tmp_path / "soft-2")


def resume(run: Run) -> None:
    """Train a finished run longer."""
    train(run.config.recipe, run.folder, **run.config.changes | {"steps": 120})


def flip_bit(path: Path, position: int) -> None:
    """Flip one bit of a file; negative positions count bytes from the end."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, change, *, with_digest: bool) -> None:
    """Change the tensors of a checkpoint, and keep its digest or write none."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if not with_digest:
        del metadata["sha256"]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def set_nan(tensors) -> None:
    for name in tensors:
        if name.endswith("encoder.embed.weight") and not name.startswith("optimizer."):
            tensors[name].view(-1)[3] = torch.nan


def cast_to_half(tensors) -> None:
    tensors["ema.encoder.embed.weight"] = tensors["ema.encoder.embed.weight"].half()


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.999])
def test_flipped_bit_of_a_checkpoint_is_noticed(soft, fraction):
    path = soft.checkpoint()
    flip_bit(path, int(fraction * path.stat().st_size))
    for read in (soft.load, lambda: collect(soft, limit=8), lambda: resume(soft)):
        with pytest.raises(RunError, match=r"step-000060\.safetensors"):
            read()
    assert soft.load(30) is not None


def test_changed_type_of_a_tensor_is_noticed(soft):
    rewrite(soft.checkpoint(), cast_to_half, with_digest=True)
    with pytest.raises(RunError, match="changed since it was written"):
        soft.load()


def test_checkpoint_without_a_digest_is_read(soft):
    expected = soft.load().state_dict()
    rewrite(soft.checkpoint(), lambda tensors: None, with_digest=False)
    weights = soft.load().state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert Run(OLD_RUN).load() is not None


def test_weights_that_are_not_finite_are_refused(soft):
    previous = (soft.evidence_folder(60) / "provenance.json").read_bytes()
    rewrite(soft.checkpoint(), set_nan, with_digest=False)
    for read in (soft.load, lambda: collect(soft, limit=8), lambda: resume(soft)):
        with pytest.raises(RunError, match=r"1 of [\d,]+ values of encoder\.embed\.weight"):
            read()
    assert (soft.evidence_folder(60) / "provenance.json").read_bytes() == previous


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_pictures_that_are_not_finite_are_refused(value):
    images = torch.zeros(2, 1, 4, 4)
    assert (to_uint8(images) == 128).all()
    images[1, 0, 2, 2] = value
    with pytest.raises(UserError, match="not finite"):
        to_uint8(images)


def test_flipped_bit_of_any_array_is_noticed(soft):
    folder = soft.evidence_folder(60)
    for name in soft.evidence().arrays():
        path = folder / f"{name}.npy"
        original = path.read_bytes()
        flip_bit(path, -1)
        with pytest.raises(RunError, match=rf"\({name}\.npy: its content has changed"):
            Evidence.open(folder, only=(name,))
        path.write_bytes(original)
    assert soft.evidence().arrays().keys() == Evidence.open(folder).arrays().keys()


def test_missing_array_is_noticed(soft):
    folder = soft.evidence_folder(60)
    (folder / "codebook.npy").unlink()
    with pytest.raises(RunError, match=r"codebook\.npy: it is missing"):
        Evidence.open(folder)
    assert Evidence.open(folder, only=("images",)).images is not None


def test_evidence_without_digests_is_opened(soft):
    path = soft.evidence_folder(60) / "provenance.json"
    provenance = json.loads(path.read_text())
    assert len(provenance.pop("digests")) == len(soft.evidence().arrays())
    path.write_text(json.dumps(provenance))
    assert "digests" not in soft.evidence().provenance
    verify_evidence(soft.evidence_folder(60))


def test_report_checks_arrays_of_any_size(soft, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_files, "MAX_CHECKED_BYTES", 0)
    folder = soft.evidence_folder(60)
    flip_bit(folder / "codes.npy", -1)
    assert soft.evidence().codes is not None
    with pytest.raises(RunError, match=r"codes\.npy"):
        verify_evidence(folder)
    with pytest.raises(RunError, match=r"codes\.npy"):
        report("codebook", tmp_path / "page.html", run=str(soft.folder))
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("images", np.zeros((4, 8, 8, 1), np.float32)),
        ("images", np.zeros((4, 8, 8, 1), np.uint16)),
        ("features", np.zeros((4, 3), np.int64)),
        ("codes", np.zeros((3, 2), np.int32)),
        ("codes", np.zeros((4, 3), np.int32)),
        ("labels", np.zeros((5,), np.int64)),
    ],
)
def test_array_that_fits_no_other_is_refused(tmp_path, name, array):
    arrays = {
        "images": np.zeros((4, 8, 8, 1), np.uint8),
        "latents": np.zeros((4, 2, 3), np.float32),
    }
    folder = tmp_path / "a" / "evidence" / "step-000001"
    Evidence(provenance={"run": "a", "step": 1, "n": 4}, **arrays).save(folder)
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(RunError, match=rf"\({name}\.npy: "):
        Evidence.open(folder)


def test_number_of_images_is_that_of_the_provenance(tmp_path):
    folder = tmp_path / "a" / "evidence" / "step-000001"
    codes = np.zeros((5, 2), np.int32)
    Evidence(provenance={"run": "a", "step": 1, "n": 4}, codes=codes).save(folder)
    with pytest.raises(RunError, match=r"codes\.npy: it has 5 along image"):
        Evidence.open(folder)
