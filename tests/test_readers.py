"""Every reader of files, addresses and parameters, on damaged input.

A reader either returns what the input says, or raises UserError: no other exception, no endless
wait, and nothing that was changed silently.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import resource
import shutil
import signal
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote_plus

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import LITERALS, VALUES, bytes_of, json_files, json_lines, json_or_bytes
from PIL import Image

from workbench.analysis import result_serialization
from workbench.analysis.codebook.usage import codebook_usage
from workbench.core.coerce import coerce
from workbench.core.errors import UserError
from workbench.data import load
from workbench.data.decode import decode
from workbench.hosts.reports.gallery import gallery
from workbench.hosts.reports.manifest import manifest_path, read_manifest
from workbench.hosts.reports.template import check_parameters, find_template, parameters_of
from workbench.storage.array_files import read_array_files
from workbench.storage.checkpoint import read_tensors, write_tensors
from workbench.storage.control import read_commands
from workbench.storage.evidence import Evidence
from workbench.storage.foreign_weights import read_weights
from workbench.storage.jsonl import is_event, is_log_record
from workbench.storage.published import Address
from workbench.storage.run import Run
from workbench.workspace.filters import parse_filter
from workbench.workspace.run_snapshot import preview_png
from workbench.workspace.view_state import ViewState

pytestmark = pytest.mark.slow
MAX_SECONDS = 10
HUGE_BYTES = 2**36
MIN_CASES = 5000
NUM_CASES: Counter[str] = Counter()

CONFIG = {
    "format": 2,
    "class": "workbench.tokenizers.softvq:SoftVQ",
    "settings": {"side": 8, "channels": 1, "num_tokens": 2, "betas": [0.9, 0.95]},
    "training": {"steps": 4, "lr": 0.001, "seed": 0},
    "recipe": "softvq-digits",
    "changes": {"num_tokens": 2},
    "data": {"source": "digits", "side": 8, "channels": 1, "names": ["0", "1"], "n": 5},
    "start": {"run": "../other", "step": 3},
    "versions": {"torch": "2.13.0"},
    "created": "2026-01-01T00:00:00",
}
STATUS = {
    "state": "running",
    "step": 2,
    "steps": 4,
    "seconds_left": 1.5,
    "weights": {"pixel": 1.0},
    "lr": 1.0,
    "answered": 1,
    "pid": 1,
    "born": 1.0,
    "host": "elsewhere",
    "time": 1.0,
}
LOG = [{"step": step, "loss": 1 / step, "lr": 0.001} for step in (1, 2, 3)]
EVENTS = [
    {"event": "started", "step": 0, "time": 1.0},
    {"event": "weight", "step": 1, "time": 2.0, "term": "pixel", "value": 0.5, "id": 1},
    {"event": "stopped", "step": 2, "time": 3.0, "why": "a command"},
]
COMMAND = {"id": 1, "command": "weight", "term": "pixel", "value": 0.5, "time": 1.0}
PROVENANCE = {
    "run": "a",
    "step": 4,
    "data": "digits",
    "split": "test",
    "names": ["0", "1"],
    "fingerprint": "abc",
    "n": 3,
    "of": 5,
    "seed": 0,
    "grid": [1, 2],
    "feature_extractor": "hog",
    "sampling": {"steps": 5},
    "settings": {"num_tokens": 2},
    "training": {"steps": 4},
    "versions": {"torch": "2.13.0"},
}
ARRAYS = {
    "images": np.arange(192, dtype=np.uint8).reshape(3, 8, 8, 1),
    "latents": np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 2, 2),
    "codes": np.array([[0, 1], [1, 1], [2, 0]], np.int32),
    "codebook": np.ones((1, 3, 2), np.float32),
    "labels": np.array([0, 1, 1]),
}
MANIFEST = {
    "format": 1,
    "template": "codebook",
    "parameters": {"run": "a", "step": 0},
    "runs": [{"name": "a", "kind": "VQVAE", "step": 4, "tokens": 2, "psnr": 20.0, "data": {}}],
    "sections": [{"name": "codebook_usage", "state": "made", "said": "Healthy."}],
    "made": 1,
    "absent": 0,
    "missed": 0,
    "seconds": 3.0,
    "created": "2026-01-01T00:00:00",
    "left_out": [{"run": "b", "reason": "It is damaged."}],
}
NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]},
            "source": ["run: str = ''\n", "step: int = 0  # help\n", "names: list = []\n"],
        },
        {"cell_type": "markdown", "metadata": {}, "source": "# Title"},
    ],
}
VIEW = ViewState(runs=("a", "b"), step=4, analysis="latent_map", controls={"seed": 3})
SELECTION = {"run": "a", "step": 4, "ids": [1, 2], "where": "", "polygon": [[0, 1], [1, 1]]}
LINES = {
    "text": ["", "a", "run = b", "error > 0.05 & class = 3", "psnr >= x", "& & &", "a=", "=1"],
    "numbers": ["1e4", "1e999", "-1", "²", "0x10", "1_000", " 3 ", 5000 * "9", "nan", "none"],
}
TEXTS = st.one_of(
    st.sampled_from(LINES["text"] + LINES["numbers"]),
    st.sampled_from(LITERALS),
    st.text(max_size=12),
)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise TimeoutError in place of waiting for ever."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"A reader took more than {MAX_SECONDS} s.")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def run_cases(name: str, strategy: st.SearchStrategy, count: int, read: Callable) -> None:
    """Call a reader with many inputs; it may raise nothing but UserError."""

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check(value: Any) -> None:
        NUM_CASES[name] += 1
        with time_limit(), contextlib.suppress(UserError):
            read(value)

    check()


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a run's folder, its damages, and a reader that checks what it returns."""

    path: str
    damages: st.SearchStrategy[bytes]
    read: Callable[[Path, bytes], None]
    count: int


def same_json(first: Any, second: Any) -> bool:
    """Whether two values are the same JSON, of the same types; NaN equals itself."""
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def read_config(folder: Path, content: bytes) -> None:
    sections = Run(folder).config.to_dict()
    stored = json.loads(content)
    if stored["format"] == 1:  # names of settings are translated
        return
    for name, value in stored.items():
        assert same_json(sections[name], value), name


def read_status(folder: Path, content: bytes) -> None:
    status = Run(folder).status()
    assert isinstance(status["state"], str) and isinstance(status["step"], int)
    with contextlib.suppress(ValueError, RecursionError):
        stored = json.loads(content)
        if isinstance(stored, dict):
            assert all(same_json(status[k], v) for k, v in stored.items() if k != "state")


def lines_of(content: bytes) -> list[Any]:
    """Parse every line of a log that is JSON."""
    records = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            records.append(json.loads(line))
    return records


def read_log(folder: Path, content: bytes) -> None:
    table = Run(folder).history()
    expected = [r for r in lines_of(content) if isinstance(r, dict) and is_log_record(r)]
    assert len(table) <= len(expected)
    numbers = table.drop(columns="time", errors="ignore")
    assert all(np.issubdtype(dtype, np.number) for dtype in numbers.dtypes)


def read_events(folder: Path, content: bytes) -> None:
    records = lines_of(content)
    for event in Run(folder).events():
        assert is_event(event) and any(same_json(event, record) for record in records)


def read_command(folder: Path, content: bytes) -> None:
    for command in read_commands(folder):
        assert same_json(command, json.loads(content))
        assert isinstance(command["command"], str) and command["id"] == 1


def read_provenance(folder: Path, content: bytes) -> None:
    evidence = Run(folder).evidence()
    stored = json.loads(content)
    for name, value in evidence.provenance.items():
        # A run is named after its folder, whatever it was called before.
        assert same_json(stored[name], value) or name == "run", name
    assert evidence.run_name == folder.name
    for value in (evidence.names, evidence.grid, evidence.sampling, evidence.temperature):
        repr(value)
    assert isinstance(evidence.run_name, str) and isinstance(evidence.step, int)


def read_array(folder: Path, content: bytes) -> None:
    codes = Run(folder).evidence().codes
    assert codes.dtype == np.int32 and codes.tolist() == ARRAYS["codes"].tolist()


def read_old_array(folder: Path, content: bytes) -> None:
    """Without digests, an accepted array has the declared axes and the type of its file."""
    evidence = Evidence.open(folder / "evidence" / "step-000002")
    assert evidence.codes is None or evidence.codes.shape == (3, 2)
    assert evidence.codes is None or evidence.codes.dtype.kind == "i"
    repr(evidence)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.a": torch.randn(4, 3, generator=generator),
        "ema.a": torch.randn(4, 3, generator=generator).bfloat16(),
        "optimizer.a.step": torch.tensor(3),
        "optimizer.a.exp_avg": torch.randn(4, 3, generator=generator),
    }


def read_checkpoint(folder: Path, content: bytes) -> None:
    groups = read_tensors(folder / "step-000004.safetensors")
    stored = {f"{group}.{name}": t for group, inner in groups.items() for name, t in inner.items()}
    assert stored.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor)


def read_foreign(folder: Path, content: bytes) -> None:
    for tensor in read_weights(folder / "foreign.safetensors").values():
        assert isinstance(tensor, torch.Tensor)


def read_samples(folder: Path, content: bytes) -> None:
    preview = preview_png(Run(folder), 4)
    assert preview == b"" or preview.startswith(b"\x89PNG")


def read_report_manifest(folder: Path, content: bytes) -> None:
    read_manifest(folder / "reports" / "page.html")
    gallery(folder / "reports")


def read_template(folder: Path, content: bytes) -> None:
    for parameter in parameters_of(folder / "template.ipynb"):
        assert isinstance(parameter.name, str)
        with contextlib.suppress(UserError):
            parameter.accept("3")


def read_arrays(folder: Path, content: bytes) -> None:
    for parts in read_array_files(folder / "latents.npz").arrays.values():
        assert all(isinstance(array, np.ndarray) for array in parts.arrays)


def usage() -> Any:
    return codebook_usage(ARRAYS["codes"], ARRAYS["codebook"])


def read_result(folder: Path, content: bytes) -> None:
    result = result_serialization.read(folder / "result")
    assert result is None or repr(result) == repr(usage())


def array_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make_run(folder: Path) -> None:
    """Write a run with one file of every kind."""
    for name in ("control", "samples", "reports", "evidence", "result"):
        (folder / name).mkdir(parents=True)
    for name, content in (("config.json", CONFIG), ("status.json", STATUS)):
        (folder / name).write_text(json.dumps(content))
    for name, records in (("log.jsonl", LOG), ("events.jsonl", EVENTS)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "control" / "000001.json").write_text(json.dumps(COMMAND))
    for step in (2, 4):
        Evidence(provenance=PROVENANCE, **ARRAYS).save(folder / "evidence" / f"step-{step:06d}")
    old = folder / "evidence" / "step-000002" / "provenance.json"
    old.write_text(json.dumps({"format": 2, **PROVENANCE}))
    write_tensors(folder / "step-000004.safetensors", tensors(), 4)
    write_tensors(folder / "foreign.safetensors", tensors(), 4)
    np.save(folder / "samples" / "step-000004.npy", ARRAYS["images"])
    (folder / "reports" / "page.html").write_text("<html></html>")
    manifest_path(folder / "reports" / "page.html").write_text(json.dumps(MANIFEST))
    (folder / "template.ipynb").write_text(json.dumps(NOTEBOOK))
    np.savez(folder / "latents.npz", latents=ARRAYS["latents"], codes=ARRAYS["codes"])
    result_serialization.write(usage(), folder / "result")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers") / "run"
    make_run(folder)
    return folder


def content_of(path: str) -> bytes:
    """Return the content of a file of the run, made once more in a temporary folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        make_run(folder)
        return (folder / path).read_bytes()


OLD_CODES = st.one_of(
    bytes_of(array_bytes(ARRAYS["codes"])),
    st.sampled_from(
        [
            array_bytes(np.zeros(shape, dtype))
            for shape in [(3, 2), (3,), (2, 2), (3, 2, 1), (0, 2), ()]
            for dtype in ["i4", ">i8", "f4", "u1", "?", "U3", "c8", "m8[s]"]
        ]
    ),
)
EVIDENCE = "evidence/step-000004"
FILES = {
    "config": lambda: File("config.json", json_or_bytes(CONFIG), read_config, 700),
    "status": lambda: File("status.json", json_or_bytes(STATUS), read_status, 450),
    "log": lambda: File("log.jsonl", json_lines(LOG), read_log, 250),
    "events": lambda: File("events.jsonl", json_lines(EVENTS), read_events, 350),
    "control": lambda: File("control/000001.json", json_or_bytes(COMMAND), read_command, 350),
    "evidence: provenance": lambda: File(
        f"{EVIDENCE}/provenance.json",
        json_or_bytes(json.loads(content_of(f"{EVIDENCE}/provenance.json"))),
        read_provenance,
        500,
    ),
    "evidence: array": lambda: File(
        f"{EVIDENCE}/codes.npy", bytes_of(array_bytes(ARRAYS["codes"])), read_array, 350
    ),
    "evidence: array without digest": lambda: File(
        "evidence/step-000002/codes.npy", OLD_CODES, read_old_array, 350
    ),
    "checkpoint": lambda: File(
        "step-000004.safetensors",
        bytes_of(content_of("step-000004.safetensors")),
        read_checkpoint,
        450,
    ),
    "foreign checkpoint": lambda: File(
        "foreign.safetensors", bytes_of(content_of("foreign.safetensors")), read_foreign, 200
    ),
    "samples": lambda: File(
        "samples/step-000004.npy", bytes_of(array_bytes(ARRAYS["images"])), read_samples, 150
    ),
    "report: manifest": lambda: File(
        "reports/page.manifest.json", json_or_bytes(MANIFEST), read_report_manifest, 250
    ),
    "report: template": lambda: File("template.ipynb", json_or_bytes(NOTEBOOK), read_template, 250),
    "arrays of other programs": lambda: File(
        "latents.npz", bytes_of(content_of("latents.npz")), read_arrays, 200
    ),
    "cached result": lambda: File(
        "result/result.json",
        json_or_bytes(json.loads(content_of("result/result.json"))),
        read_result,
        200,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_read_or_refused(folder, name):
    file = FILES[name]()
    path = folder / file.path
    original = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        file.read(folder, content)

    try:
        file.read(folder, original)
        run_cases(name, file.damages, file.count, read)
    finally:
        path.write_bytes(original)


@contextlib.contextmanager
def memory_limit() -> Iterator[None]:
    """Raise MemoryError in place of reading a huge file."""
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_DATA, (used + HUGE_BYTES // 2, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop", "nowhere", "empty", "huge"])
@pytest.mark.parametrize("name", FILES)
def test_special_file_never_blocks(folder, tmp_path, name, kind):
    file = FILES[name]()
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    path = copy / file.path
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "huge":
        with path.open("wb") as sparse:
            sparse.truncate(HUGE_BYTES)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "nowhere": "nowhere"}[kind])
    NUM_CASES["special files"] += 1
    with time_limit(), memory_limit(), contextlib.suppress(UserError, ValueError):
        file.read(copy, b"{}")


# Addresses


def read_query(query: str) -> None:
    view = ViewState.from_query(query)
    assert ViewState.from_query(view.to_query()) == view


def read_saved_view(content: bytes) -> None:
    view = ViewState.from_json(content.decode("utf-8", "surrogatepass"))
    assert ViewState.from_json(view.to_json()) == view


def queries() -> st.SearchStrategy[str]:
    """Draw addresses of the dashboard with odd values, and damaged ones."""
    names = ["run", "step", "analysis", "tab", "selection", "seed", "method", "map.seed", "x"]
    selections = json_files(SELECTION).map(lambda content: content.decode("utf-8", "replace"))
    values = st.one_of(TEXTS, st.sampled_from(["map", "codes", "latent_map", "4"]), selections)
    pairs = st.lists(st.tuples(st.sampled_from(names), values), max_size=4)
    joined = pairs.map(lambda p: "&".join(f"{k}={quote_plus(v, errors='replace')}" for k, v in p))
    bytes_ = bytes_of(VIEW.to_query().encode()).map(lambda content: content.decode("latin-1"))
    return st.one_of(joined, joined, bytes_)


def test_odd_address_of_the_dashboard_is_refused():
    read_query(VIEW.to_query())
    run_cases("address of the dashboard", queries(), 500, read_query)


def test_odd_saved_view_is_refused():
    saved = json.loads(VIEW.to_json()) | {"selection": SELECTION | {"polygon": []}}
    read_saved_view(json.dumps(saved).encode())
    run_cases("saved view", json_files(saved), 400, read_saved_view)


def test_odd_filter_is_refused():
    def read(text: str) -> None:
        for condition in parse_filter(text):
            assert condition.text in text and condition.operator

    run_cases("filter", TEXTS, 150, read)


def test_odd_address_of_a_checkpoint_is_refused(tmp_path):
    def read(text: str) -> None:
        address = Address.parse(text, families=["softvq", "ldm"])
        assert str(address) == text
        address = dataclasses.replace(address, location=str(tmp_path / "x" / address.location))
        address.resolve(["*.safetensors"])

    parts = st.one_of(st.sampled_from(["softvq:", "ldm:", ":", "http://", "a:b:"]), TEXTS)
    run_cases("address of a checkpoint", st.tuples(parts, TEXTS).map("".join), 250, read)


# Parameters


KINDS = (bool, int, float, str, int | None, float | None, tuple[int, ...], list, Literal["a", 3])


def is_of(kind: Any, value: Any) -> bool:
    """Whether a value has a declared type, and is finite if it is a number."""
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if kind in (bool, str, list):
        return type(value) is kind
    if kind is int:
        return type(value) is int
    if kind is float:
        return isinstance(value, float)
    if kind in (int | None, float | None):
        return value is None or isinstance(value, int | float)
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    return value in ("a", 3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_odd_setting_is_refused(kind):
    def read(value: Any) -> None:
        accepted = coerce(kind, "setting", value)
        assert is_of(kind, accepted)
        assert same_json(coerce(kind, "setting", accepted), accepted)

    run_cases("setting", st.one_of(TEXTS, VALUES), 90, read)


@pytest.mark.parametrize("template", ["codebook", "comparison", "training"])
def test_odd_report_parameter_is_refused(template, folder):
    path = find_template(template)
    parameters = {parameter.name: parameter for parameter in parameters_of(path)}
    names = st.sampled_from([*parameters, "unknown", "", "__class__"])

    def read(values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name in parameters:
                accepted = parameters[name].accept(value)
                assert same_json(parameters[name].accept(accepted), accepted)
        check_parameters(path, {"run": str(folder), "folder": "x"} | values)

    values = st.dictionaries(names, st.one_of(TEXTS, VALUES), max_size=3)
    run_cases("report parameters", values, 120, read)


# Images


def image_content(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP"])
def test_damaged_image_is_decoded_or_refused(kind):
    original = image_content(kind)
    pixels = decode(original, "original")

    def read(content: bytes) -> None:
        image = decode(content, "image")
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] in (1, 3)
        # A PNG has checksums; the other formats do not show that a pixel has changed.
        assert kind != "PNG" or np.array_equal(image, pixels)

    run_cases("image", bytes_of(original), 90, read)


def archive_content(suffix: str) -> bytes:
    """Return an archive of three images, whose names are not ASCII."""
    buffer = io.BytesIO()
    members = {
        f"{name}/\N{LATIN SMALL LETTER E WITH ACUTE}.png": image_content("PNG") for name in "abc"
    }
    if suffix == ".zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_archive_is_read_or_refused(tmp_path, suffix):
    path = tmp_path / f"images{suffix}"
    pixels = decode(image_content("PNG"), "original")

    def read(content: bytes) -> None:
        path.write_bytes(content)
        images = load(str(path), split="all")
        assert all(np.array_equal(image, pixels) for image in images.read())

    run_cases("archive of images", bytes_of(archive_content(suffix)), 250, read)


def test_number_of_cases(capsys):
    """Print the number of cases of each reader; the tests above must have run."""
    if len(NUM_CASES) < len(FILES):
        pytest.skip("only some readers were tested")
    total = sum(NUM_CASES.values())
    with capsys.disabled():
        print(f"\n{total:,} damaged inputs: {dict(NUM_CASES)}")
    assert total >= MIN_CASES
