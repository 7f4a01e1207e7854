"""Evidence: complete folders, arguments of analyses by name, and collection from models."""

import errno
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.analysis.codebook.usage import codebook_usage
from workbench.analysis.images.reconstruction import reconstruction
from workbench.analysis.images.structure import ssim
from workbench.collect import collect, load_images
from workbench.collect.adm_batch import write_adm_batch
from workbench.collect.collectors import prefixes
from workbench.collect.images import image_generator
from workbench.collect.ssim import ssim as torch_ssim
from workbench.core.errors import NotApplicable, RunError, UserError
from workbench.core.progress import progress_listener
from workbench.core.types import Tokens
from workbench.features import get_feature_extractor
from workbench.storage import adm, evidence_files
from workbench.storage.evidence import ARRAYS, Evidence, kwargs_for
from workbench.storage.files import load_array
from workbench.storage.run import Run

PROVENANCE = {"run": "a", "step": 5, "data": "digits", "names": ["zero", "one"]}


def small(**arrays) -> Evidence:
    return Evidence(provenance=dict(PROVENANCE), **arrays)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "a" / "evidence" / "step-000005"
    small(
        latents=np.arange(6, dtype=np.float32).reshape(3, 1, 2), codes=np.array([[1], [0], [1]])
    ).save(folder)
    return folder


# The folder


def test_saved_evidence_is_opened_unchanged(saved):
    evidence = Evidence.open(saved)
    assert evidence.provenance == PROVENANCE
    assert (evidence.run_name, evidence.step, evidence.names) == ("a", 5, ("zero", "one"))
    assert (
        evidence.latents.tolist() == [[[0, 1]], [[2, 3]], [[4, 5]]]
        and evidence.latents.dtype == np.float32
    )
    assert evidence.codes.tolist() == [[1], [0], [1]]
    assert evidence.images is None and evidence.codebook is None
    assert repr(evidence) == "Evidence of a at step 5: latents 3x1x2, codes 3x1"


def test_opening_does_not_read_the_arrays(saved):
    """The file declares 64 gigabytes of which the disk holds nothing: reading it would fail."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 24, 32, 32)}
    with (saved / "latents.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + (1 << 36))
    latents = Evidence.open(saved, only=("latents",)).latents
    assert (
        isinstance(latents, np.memmap)
        and latents.shape == (1 << 24, 32, 32)
        and latents[12345].sum() == 0
    )


def test_saving_again_replaces_the_folder(saved):
    small(labels=np.array([1])).save(saved)
    assert sorted(p.name for p in saved.iterdir()) == ["labels.npy", "provenance.json"]
    assert [p.name for p in saved.parent.iterdir()] == ["step-000005"]


def test_full_disk_keeps_the_previous_evidence(saved):
    """A limit of the file size fails in the same way as a full disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(RunError, match="step-000005"):
            small(latents=np.zeros((1000, 10, 10), np.float32)).save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert Evidence.open(saved).latents.shape == (3, 1, 2)
    assert [p.name for p in saved.parent.iterdir()] == ["step-000005"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "evidence").write_text("mine")
    with pytest.raises(RunError, match="step-000005"):
        small().save(tmp_path / "evidence" / "step-000005")


@pytest.mark.slow
def test_reader_sees_one_complete_version(saved):
    """While one thread saves repeatedly, another opens all arrays of one version, or none."""
    ones = {
        "latents": np.ones((50, 2, 2), np.float32),
        "codes": np.ones((50, 2), np.int32),
        "noise_mse": np.ones((50, 2), np.float32),
        "labels": np.ones(50, np.int64),
    }
    done = threading.Event()

    def write() -> None:
        for value in range(150):
            small(**{name: array * value for name, array in ones.items()}).save(saved)
        done.set()

    small(**ones).save(saved)
    writer = threading.Thread(target=write)
    writer.start()
    opened = 0
    while not done.is_set():
        try:
            evidence = Evidence.open(saved)
        except RunError:
            continue  # between the two moves of a replacement
        opened += 1
        assert all(getattr(evidence, name) is not None for name in ones)
    writer.join()
    assert opened > 10


SAVER = """
import os, sys
from pathlib import Path
import numpy as np
from workbench.storage.evidence import Evidence
os.getpid = lambda: 1  # as in containers that share a volume
value, folder = int(sys.argv[1]), Path(sys.argv[2])
names = ("latents", "noise_mse", "labels")
for _ in range(200):
    Evidence(
        provenance={"run": "a", "step": value},
        latents=np.full((50, 2, 2), value, np.float32),
        noise_mse=np.full((50, 2), value, np.float32),
        labels=np.full(50, value),
    ).save(folder)
"""


@pytest.mark.slow
def test_two_writers_with_one_process_number_do_not_mix(saved):
    writers = [
        subprocess.Popen([sys.executable, "-c", SAVER, str(value), str(saved)]) for value in (1, 2)
    ]
    opened = 0
    while any(writer.poll() is None for writer in writers):
        try:
            evidence = Evidence.open(saved)
        except RunError:
            continue  # between the two moves of a replacement
        if evidence.step == 5:
            continue  # neither process has saved yet
        opened += 1
        for array in (evidence.latents, evidence.noise_mse, evidence.labels):
            assert (array == evidence.step).all()
    assert [writer.wait() for writer in writers] == [0, 0] and opened > 0
    assert [path.name for path in saved.parent.iterdir()] == ["step-000005"]


def test_second_collect_of_a_step_is_refused(trained, tmp_path):
    run = Run(shutil.copytree(trained / "plain", tmp_path / "plain"))
    step = run.steps[-1]
    with run.collecting(step), pytest.raises(RunError) as error:
        collect(run, limit=10)
    assert str(step) in str(error.value) and str(run.folder) in str(error.value)
    assert collect(run, limit=10).step == step


def test_reused_inode_does_not_mix_versions(saved, monkeypatch):
    """The inode of a deleted file is reused, so it cannot distinguish versions by itself."""
    loaded = []
    first = (saved / "provenance.json").stat().st_ino

    def slow(path):
        array = load_array(path)
        loaded.append(path.name)
        for _ in range(30):
            small().save(saved)  # without arrays
            if (saved / "provenance.json").stat().st_ino == first:
                break
        return array

    monkeypatch.setattr(evidence_files, "load_array", slow)
    assert Evidence.open(saved).latents is None and loaded == ["latents.npy"]


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_damaged_array_is_named(saved, content):
    path = saved / "latents.npy"
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    with pytest.raises(RunError, match=r"\(latents\.npy: .*workbench collect .*a$"):
        Evidence.open(saved)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 1}', '{"run": "a", "step": 5}'])
def test_damaged_provenance_is_named(saved, text):
    (saved / "provenance.json").write_text(text)
    with pytest.raises(RunError, match=r"\(provenance\.json: "):
        Evidence.open(saved)


def test_missing_or_newer_evidence_is_refused(saved):
    (saved / "provenance.json").write_text('{"format": 9}')
    with pytest.raises(RunError, match="newer"):
        Evidence.open(saved)
    (saved / "provenance.json").unlink()
    with pytest.raises(RunError, match="workbench collect"):
        Evidence.open(saved)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("latents", np.zeros((3, 2), np.float32)),
        ("codes", np.zeros((3, 2), np.float32)),
        ("labels", np.zeros((3, 1), np.int64)),
    ],
)
def test_array_of_other_axes_or_type_is_refused(saved, name, array):
    with pytest.raises(ValueError, match=name):
        small(**{name: array}).save(saved)
    np.save(saved / f"{name}.npy", array)
    with pytest.raises(RunError, match=rf"\({name}\.npy: "):
        Evidence.open(saved)


def test_number_of_images_must_agree(saved):
    np.save(saved / "codes.npy", np.zeros((2, 1), np.int32))
    with pytest.raises(RunError, match=r"codes\.npy: it has 2 along image, and latents has 3"):
        Evidence.open(saved)


@pytest.mark.parametrize("value", [["a"], 3, {"b": 1}])
@pytest.mark.parametrize("name", ["run", "step", "n", "names", "grid", "tokenizer", "settings"])
def test_provenance_of_wrong_types_is_named(saved, name, value):
    stored = json.loads((saved / "provenance.json").read_text())
    (saved / "provenance.json").write_text(json.dumps(stored | {name: value}))
    is_valid = (name, value) in [("step", 3), ("n", 3), ("names", ["a"])]
    if is_valid or (name == "settings" and value == {"b": 1}):
        Evidence.open(saved)
        return
    with pytest.raises(RunError, match=f"provenance.json: {name}"):
        Evidence.open(saved)


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EMFILE, "ulimit"), (errno.EACCES, "permission"), (errno.EIO, "disk")],
)
def test_failure_of_the_system_is_not_called_damage(saved, monkeypatch, code, words):
    def refuse(self, mode):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError) as failure:
        Evidence.open(saved)
    assert words in str(failure.value) and "damaged" not in str(failure.value)


def test_open_arrays_hold_no_file(saved):
    """Large arrays are mapped; a mapping needs no open file and ends with its last array."""
    values = np.arange(200_000, dtype=np.float32).reshape(1000, 10, 20)
    small(latents=values).save(saved)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    latents = Evidence.open(saved).latents
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open
    part = latents[10:20]
    assert isinstance(latents, np.memmap) and not latents.flags.writeable
    del latents
    assert np.array_equal(part, values[10:20])
    del part
    gc.collect()
    assert str(saved) not in Path("/proc/self/maps").read_text()


def test_only_the_named_arrays_are_opened(saved):
    (saved / "codes.npy").write_bytes(b"junk")
    assert Evidence.open(saved, only=("latents",)).codes is None
    assert Evidence.open(saved, only=()).latents is None


def test_fifo_is_never_opened(saved):
    (saved / "codes.npy").unlink()
    os.mkfifo(saved / "codes.npy")
    with pytest.raises(RunError, match=r"codes\.npy is not a regular file"):
        Evidence.open(saved)


def test_every_array_is_declared():
    names = {field.name for field in fields(Evidence)}
    assert set(ARRAYS) == names - {"provenance", "folder", "log"}
    assert all(spec.axes and spec.meaning.endswith(".") for spec in ARRAYS.values())


# Arguments


def test_arguments_are_chosen_by_parameter_name():
    def spread(latents, labels=None, names=(), *, by=1):
        """Anything."""

    latents = np.zeros((2, 1, 3))
    assert small(latents=latents).kwargs_for(spread) == {
        "latents": latents,
        "names": ("zero", "one"),
    }
    both = [small(latents=latents), small()]
    assert kwargs_for(lambda evidences: None, both) == {"evidences": tuple(both)}


def test_missing_arrays_are_named():
    with pytest.raises(NotApplicable, match="for a, .* the codewords"):
        small(latents=np.zeros((2, 1, 3))).kwargs_for(codebook_usage)


def test_collected_evidence_can_be_analyzed(trained):
    evidence = Run(trained / "plain").evidence()
    assert reconstruction(**evidence.kwargs_for(reconstruction)).summary()
    with pytest.raises(NotApplicable, match="plain"):
        evidence.kwargs_for(codebook_usage)


# Collecting from a tokenizer


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """A copy, to collect into."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("copy") / "runs")


@pytest.fixture(scope="module")
def soft(runs) -> Run:
    return Run(runs / "soft-4")


def test_arrays_have_a_row_per_held_out_image(soft):
    evidence, images = soft.evidence(), load_images(soft)
    n = len(images)
    assert (
        n == 360
        and (evidence.images == images.pixels).all()
        and (evidence.labels == images.labels).all()
    )
    assert (
        evidence.reconstructions.shape == (n, 8, 8, 1)
        and evidence.reconstructions.dtype == np.uint8
    )
    assert evidence.latents.shape == (n, 4, 8) and evidence.codes.shape == (n, 4)
    assert (
        evidence.codebook.shape == (1, 32, 8)
        and 0 <= evidence.codes.min() <= evidence.codes.max() < 32
    )
    assert evidence.prefixes.tolist() == [1, 2, 4] and evidence.prefix_mse.shape == (n, 3)


def test_stored_latents_decode_to_the_stored_images(soft):
    """And encoding the stored images gives the stored latents and codes: the arrays are the model's
    own.
    """
    model, evidence = soft.load(), soft.evidence()
    with torch.no_grad():
        decoded = model.decode(Tokens(torch.from_numpy(np.array(evidence.latents))))
        tokens = model.encode(load_images(soft).images())
    pictures = np.rint((decoded.clamp(-1, 1).numpy() + 1) * 127.5).transpose(0, 2, 3, 1)
    assert np.abs(pictures - evidence.reconstructions).max() <= 1  # a rounding on the edge
    assert (pictures == evidence.reconstructions).mean() > 0.999
    np.testing.assert_allclose(tokens.latents.numpy(), evidence.latents, atol=1e-5)
    assert (tokens.codes.numpy() == evidence.codes).mean() > 0.999
    np.testing.assert_allclose(model.codebook.detach().numpy(), evidence.codebook, atol=1e-6)


def test_prefix_error_falls_to_the_reconstruction_error(soft):
    evidence = soft.evidence()
    difference = (evidence.reconstructions.astype(float) - evidence.images) / 255
    np.testing.assert_allclose(
        evidence.prefix_mse[:, -1], (difference**2).mean(axis=(1, 2, 3)), atol=1e-3
    )
    assert (np.diff(evidence.prefix_mse.mean(axis=0)) < 0).all()


def test_full_prefix_equals_the_reconstructions(soft):
    evidence = soft.evidence()
    assert evidence.prefix_ssim.shape == (360, 3) and evidence.prefix_features.shape[:2] == (3, 360)
    np.testing.assert_allclose(
        evidence.prefix_ssim[:, -1], ssim(evidence.images, evidence.reconstructions), atol=1e-4
    )
    np.testing.assert_allclose(
        evidence.prefix_features[-1], evidence.reconstruction_features, atol=1e-4
    )
    assert not np.allclose(evidence.prefix_features[0], evidence.prefix_features[-1])


@pytest.mark.parametrize("side", [2, 4, 7, 12])
def test_torch_and_numpy_ssim_agree(side):
    a, b = np.random.default_rng(side).integers(0, 256, (2, 3, side, side, 3), dtype=np.uint8)
    as_images = (torch.from_numpy(np.moveaxis(x, -1, 1).copy()) / 127.5 - 1 for x in (a, b))
    np.testing.assert_allclose(torch_ssim(*as_images).numpy(), ssim(a, b), atol=1e-6)


def test_prefix_features_respect_the_size_limit(soft, monkeypatch):
    """The shortest prefixes are stored, because the full prefix equals the reconstructions."""
    model, feature_extractor = soft.load(), get_feature_extractor("hog", channels=1)
    images = load_images(soft).images(slice(5))
    with torch.no_grad():
        monkeypatch.setattr(prefixes, "MAX_ARRAY_BYTES", 2 * 5 * feature_extractor.dim * 4)
        metrics = prefixes.prefix_metrics(model, model.encode(images), images, feature_extractor, 5)
        monkeypatch.setattr(prefixes, "MAX_ARRAY_BYTES", 5 * feature_extractor.dim * 4 - 1)
        none = prefixes.prefix_metrics(model, model.encode(images), images, feature_extractor, 5)
    assert metrics["prefix_features"].shape == (5, 2, feature_extractor.dim)
    assert metrics["prefix_ssim"].shape == (5, 3)
    assert "prefix_features" not in none


def test_provenance_is_complete(soft):
    provenance = soft.evidence().provenance
    expected = {
        "run": "soft-4",
        "step": 60,
        "seed": 0,
        "split": "test",
        "data": "digits",
        "n": 360,
        "of": 360,
        "names": list("0123456789"),
        "fingerprint": load_images(soft).fingerprint,
        "class": "workbench.tokenizers.softvq:SoftVQ",
        "settings": soft.config.settings,
        "discrete": False,
    }
    assert {name: provenance[name] for name in expected} == expected
    assert provenance["versions"]["torch"] == torch.__version__
    json.dumps(provenance)


def test_collecting_is_deterministic(soft):
    before = {name: np.array(array) for name, array in soft.evidence().arrays().items()}
    again = collect(soft).arrays()
    assert before.keys() == again.keys() and all(
        np.array_equal(before[name], again[name]) for name in before
    )
    parts = [collect(soft, step=30, limit=20, seed=seed) for seed in (1, 1, 2)]
    assert [part.step for part in parts] == [30, 30, 30] and parts[0].provenance["of"] == 360
    one, same, other = (
        part.images for part in parts
    )  # still mapped, though each was replaced by the next
    assert (one == same).all() and not (one == other).all()


def test_collect_reports_progress(soft):
    reports = []
    with progress_listener(lambda done, total: reports.append((done, total))):
        collect(soft, step=30)
    done, totals = zip(*reports, strict=True)
    assert len(set(totals)) == 1 and done[0] == 0 and done[-1] == totals[0]
    assert list(done) == sorted(done) and len(set(done)) > 10


# Collecting from a generator


def test_generator_samples_every_class_equally(runs):
    evidence = Run(runs / "flow").evidence()
    assert evidence.samples.shape == (640, 8, 8, 1) and evidence.samples.dtype == np.uint8
    assert np.bincount(evidence.sample_labels).tolist() == [64] * 10
    assert evidence.images is None and evidence.names == tuple("0123456789")
    assert evidence.provenance["tokenizer"] == {"run": "../soft-4", "step": 60}
    how = {"solver": "heun", "steps": 50, "shift": 1.0, "interval": [0.0, 1.0]}
    assert evidence.sampling == how | {"guidance": 2.0, "seed": 0}


def test_images_and_seeds_share_no_noise():
    draws = [
        torch.randn(1, generator=image_generator(seed, index), dtype=torch.float64).item()
        for seed in range(5)
        for index in range(300)
    ]
    assert len(set(draws)) == 1500


def test_same_seed_gives_the_same_samples(runs):
    flow = Run(runs / "flow")
    first, same, other = (
        np.array(collect(flow, step=30, limit=20, seed=seed).samples) for seed in (3, 3, 4)
    )
    assert first.shape == (20, 8, 8, 1) and (first == same).all() and not (first == other).all()
    assert collect(flow, step=30, limit=3).sample_labels.tolist() == [0, 3, 6]


def test_batch_for_adm_has_all_samples_or_all_reconstructions(runs, soft, tmp_path):
    flow = Run(runs / "flow")
    evidence = collect(flow, step=30, samples=23, limit=30, only=["samples"])
    assert np.bincount(evidence.sample_labels).tolist() == [3, 2, 2, 3, 2, 2, 3, 2, 2, 2]
    assert write_adm_batch(flow, tmp_path / "samples.npz", step=30) == 23
    samples = np.concatenate(list(adm.read_images(tmp_path / "samples.npz")))
    order = np.random.default_rng(0).permutation(23)  # the evaluator scores consecutive parts
    assert (samples == np.repeat(evidence.samples, 3, axis=-1)[order]).all()
    collect(soft, step=30, limit=40, pictures=20, only=["encoding"])
    with pytest.raises(UserError, match="--pictures 40"):
        write_adm_batch(soft, tmp_path / "soft.npz", step=30)
    evidence = collect(soft, step=30, limit=40, only=["encoding"])
    assert write_adm_batch(soft, tmp_path / "soft.npz", step=30) == 40
    with np.load(tmp_path / "soft.npz") as batch:
        order = np.random.default_rng(0).permutation(40)
        assert (batch["arr_0"][..., :1] == evidence.reconstructions[order]).all()
