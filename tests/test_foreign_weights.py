"""Weights and addresses of other programs: safe reading, and clear refusals."""

import argparse
import os
import pickle
import sys
import types

import forked_python
import pytest
import torch
from safetensors.torch import save_file

from workbench.core.errors import UserError
from workbench.storage.files import file_digest
from workbench.storage.foreign_weights import check_names, read_checkpoint, read_weights
from workbench.storage.published import Address, weight_file

CALLBACKS = "pytorch_lightning.callbacks"
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class RunsACommand:
    """Its pickle runs a command in an unrestricted unpickler."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def assert_equal(weights: dict) -> None:
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"model": WEIGHTS, "args": argparse.Namespace(lr=1.0)},
        {"ema": WEIGHTS, "model": {"a.weight": torch.zeros(1)}, "opt": {}},
        {"state_dict": {f"module.{name}": value for name, value in WEIGHTS.items()}, "epoch": 3},
    ],
    ids=["plain", "namespace", "ema", "wrapped"],
)
def test_state_dict_is_found_in_every_container(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert_equal(read_weights(tmp_path / "model.pt"))


def save_with_callback(path, monkeypatch) -> None:
    """Save weights and a dictionary whose key is a class of Lightning."""
    with monkeypatch.context() as context:
        for name in CALLBACKS.split(".")[0], CALLBACKS:
            context.setitem(sys.modules, name, types.ModuleType(name))
        callback = type("ModelCheckpoint", (), {"__module__": CALLBACKS})
        sys.modules[CALLBACKS].ModelCheckpoint = callback
        torch.save({"state_dict": WEIGHTS, "callbacks": {callback: 1}}, path)


def test_class_as_key_is_read_without_its_module(tmp_path, monkeypatch):
    """Lightning 1 keys its callbacks by class. The module need not be installed."""
    save_with_callback(tmp_path / "last.ckpt", monkeypatch)
    assert_equal(read_weights(tmp_path / "last.ckpt"))
    assert CALLBACKS not in sys.modules


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_command_is_refused_and_not_run(tmp_path, legacy):
    marker = tmp_path / "marker"
    content = {"state_dict": WEIGHTS, "extra": RunsACommand(f"touch {marker}")}
    path = tmp_path / "model.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError):
        read_weights(path)
    assert not marker.exists()
    with path.open("wb") as file:
        pickle.dump(content, file)
    with pytest.raises(UserError):
        read_weights(path)
    assert not marker.exists()


def test_code_in_an_allowed_class_is_not_run(tmp_path, monkeypatch):
    """A file that ships a module of an allowed name next to itself."""
    folder = tmp_path / "pytorch_lightning" / "callbacks"
    folder.mkdir(parents=True)
    marker = tmp_path / "marker"
    for package in (folder.parent, folder):
        (package / "__init__.py").write_text(f"open({str(marker)!r}, 'w')\n")
    program = (
        "import sys, torch\n"
        "sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from workbench.storage.foreign_weights import read_weights\n"
        "print(sorted(read_weights(Path('model.ckpt'))))\n"
    )
    save_with_callback(tmp_path / "model.ckpt", monkeypatch)
    assert forked_python.run(program, folder=tmp_path).strip() == str(sorted(WEIGHTS))
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_truncation_is_refused(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(WEIGHTS, path)
    else:
        save_file(WEIGHTS, path)
    content = path.read_bytes()
    for size in [0, 1, 7, 8, 9, *range(16, len(content) - 1, max(1, len(content) // 40))]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError) as error:
            read_weights(path)
        assert path.name in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), {"a": 1}, {}])
def test_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError):
        read_weights(tmp_path / "model.pt")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError):
        read_checkpoint(tmp_path / "model.pt")


def test_faults_of_a_state_dict_are_counted_and_named(tmp_path):
    expected = {f"w{i}": torch.zeros(1) for i in range(8)} | {"b": torch.zeros(3)}
    weights = {"b": torch.zeros(2), "z": torch.zeros(1), "w7": torch.zeros(1, dtype=torch.int8)}
    with pytest.raises(UserError) as error:
        check_names(tmp_path / "x.pt", weights, expected)
    message = str(error.value)
    assert "7 entries are missing: w0, w1, w2, w3, w4;" in message
    assert "1 entry is not of floating point: w7 (int8)" in message
    assert "1 entry is unknown: z" in message and "b (2,) instead of (3,)" in message


def test_addresses():
    address = Address.parse("ldm:a:b", families=["ldm"])
    assert (address.family, address.location, str(address)) == ("ldm", "a:b", "ldm:a:b")
    for text in ("ldm", "ldm:", ":x", "lmd:x"):
        with pytest.raises(UserError):
            Address.parse(text, families=["ldm"])


@pytest.mark.parametrize("location", ["./nowhere", "/nowhere", "model.ckpt", "a/b/c", "one"])
def test_missing_path_is_refused_without_network(location, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        Address("ldm", location).resolve(["*.ckpt"])


def test_offline_error_names_the_files_and_the_repository(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        Address("softvq", "SoftVQVAE/nothing").resolve(["config.json", "*.safetensors"])
    for part in ("config.json", "*.safetensors", "SoftVQVAE/nothing", "softvq:FOLDER"):
        assert part in str(error.value)


def test_one_file_of_a_repository_is_downloaded(tmp_path, monkeypatch):
    requests = []

    def download(repository, *, revision, allow_patterns):
        requests.append((repository, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    address = Address("llamagen", "FoundationVision/LlamaGen/vq_ds16_c2i.pt")
    path = address.resolve(["*.pt", "config.json", "model.safetensors"], revision="main")
    assert path == tmp_path / "vq_ds16_c2i.pt"
    files = ["vq_ds16_c2i.pt", "config.json"]
    assert requests == [("FoundationVision/LlamaGen", "main", files)]


def test_unknown_id_names_the_known_checkpoint_that_is_similar(monkeypatch):
    def fail(*_, **__):
        raise OSError("404")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError) as error:
        Address("softvq", "SoftVQVAE/softvq-l-65").resolve(["config.json"])
    assert "softvq:SoftVQVAE/softvq-l-64" in str(error.value)


def test_weight_file_prefers_safetensors(tmp_path):
    with pytest.raises(UserError):
        weight_file(tmp_path)
    torch.save(WEIGHTS, tmp_path / "model.pt")
    assert weight_file(tmp_path).name == "model.pt"
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert weight_file(tmp_path).name == "model.safetensors"
    save_file(WEIGHTS, tmp_path / "other.safetensors")
    assert weight_file(tmp_path).name == "model.safetensors"
    (tmp_path / "model.safetensors").rename(tmp_path / "another.safetensors")
    with pytest.raises(UserError):
        weight_file(tmp_path)
    assert len(file_digest(tmp_path / "model.pt")) == 64
