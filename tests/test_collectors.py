"""Collectors: discovery, selection, and the same arrays for any selection and batch size."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench.collect.collectors as package
from workbench.collect import collect, images, orchestration
from workbench.collect.collectors import collectors
from workbench.collect.selection import select_collectors
from workbench.core.errors import UserError
from workbench.storage.evidence import ARRAYS, Evidence
from workbench.storage.run import Run

RUNS = Path(__file__).parent / "fixtures" / "runs-v1"
NAMES = ("ar", "sit", "softvq", "vqvae")
FIELDS = set(ARRAYS)
TOKENIZER_COLLECTORS = {
    "encoding",
    "error_target",
    "features",
    "gaussian_reference",
    "fixed_budgets",
    "initial_codebook",
    "interpolation",
    "midpoints",
    "noise",
    "patch_features",
    "posterior",
    "prefixes",
    "previous_checkpoint",
    "reconstruction_features",
    "training_images",
    "untrained",
}
GENERATOR_COLLECTORS = {
    "evaluation",
    "features",
    "generator_references",
    "samples",
    "training_images",
}


@pytest.fixture
def runs(tmp_path):
    """Copies of small stored runs: two tokenizers and two generators."""
    shutil.copytree(RUNS, tmp_path / "runs")
    return tmp_path / "runs"


def arrays(evidence: Evidence) -> dict[str, np.ndarray]:
    values = {name: getattr(evidence, name) for name in FIELDS}
    return {name: np.array(value) for name, value in values.items() if value is not None}


def assert_same_arrays(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


# Discovery and selection


def test_discovery():
    kinds = {name: set(c.models) for name, c in collectors().items()}
    assert {name for name, models in kinds.items() if "tokenizer" in models} >= TOKENIZER_COLLECTORS
    assert {name for name, models in kinds.items() if "generator" in models} >= GENERATOR_COLLECTORS


def test_declarations_name_fields_and_collectors():
    for name, c in collectors().items():
        assert c.name == name and c.summary and c.models, name
        assert set(c.provides) <= FIELDS, name
        assert set(c.requires) <= collectors().keys(), name


@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_each_array_has_one_collector(kind):
    selected = [c for c in collectors().values() if kind in c.models]
    provided = [array for c in selected for array in c.provides]
    assert len(provided) == len(set(provided))


@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_required_collectors_run_first(kind):
    names = [c.name for c in select_collectors(kind)]
    for c in select_collectors(kind):
        assert all(names.index(required) < names.index(c.name) for required in c.requires)


def test_only_adds_what_is_required():
    names = [c.name for c in select_collectors("tokenizer", only=["noise"])]
    assert names == ["codebook", "encoding", "noise"]
    assert [c.name for c in select_collectors("generator", only=["features"])] == ["features"]


def test_collectors_on_request_run_only_if_named():
    by_default = {c.name for c in select_collectors("tokenizer")}
    named = {c.name for c in select_collectors("tokenizer", also=["perturbed_codes"])}
    assert named - by_default == {"perturbed_codes"}
    assert "midpoints" not in by_default
    with pytest.raises(UserError):
        select_collectors("generator", also=["perturbed_codes"])


def test_skip_leaves_out():
    names = {c.name for c in select_collectors("tokenizer", skip=["prefixes", "noise"])}
    assert names == {c.name for c in select_collectors("tokenizer")} - {"prefixes", "noise"}


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"only": ["nois"]}, ("nois", "noise")),
        ({"skip": ["prefix"]}, ("prefix", "prefixes")),
        ({"skip": ["encoding"]}, ("encoding",)),
        ({"only": ["samples"]}, ("tokenizer",)),
    ],
)
def test_invalid_selections_raise(choice, words):
    with pytest.raises(UserError) as error:
        select_collectors("tokenizer", **choice)
    assert all(word in str(error.value) for word in words)


def test_new_file_is_a_collector(tmp_path, runs, monkeypatch):
    (tmp_path / "brightness.py").write_text(
        "import numpy as np\n"
        "from workbench.collect.collectors import collector\n"
        '@collector("tokenizer", provides=["complexity"], over="images")\n'
        "def brightness(model, batch, context):\n"
        '    """Compute the mean of the pixels."""\n'
        '    return {"complexity": batch.pixels.mean(axis=(1, 2, 3))}\n'
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    collectors.cache_clear()
    try:
        evidence = collect(Run(runs / "softvq"), limit=8, only=["brightness", "encoding"])
    finally:
        collectors.cache_clear()
    np.testing.assert_allclose(evidence.complexity, evidence.images.mean(axis=(1, 2, 3)))


# The arrays


@pytest.mark.parametrize("name", NAMES)
def test_arrays_equal_those_of_stored_evidence(runs, name, monkeypatch):
    """The stored evidence was collected before collectors were separate files.

    Since then, noise has a seed per image, there are more arrays, and fewer samples than classes
    are not of the first classes.
    """
    evidence = Run(RUNS / name).evidence()
    stored = arrays(evidence)
    if "sample_labels" in stored:
        labels = torch.from_numpy(stored["sample_labels"])
        monkeypatch.setattr(orchestration, "sample_labels", lambda *_: labels)
    collected = arrays(collect(Run(runs / name), limit=evidence.provenance["n"]))
    assert stored.keys() - collected.keys() <= {"midpoint_features"}  # now on request
    for array_name in (collected.keys() & stored.keys()) - {"noise_mse"}:
        array = collected[array_name]
        expected = stored[array_name]
        assert array.shape == expected.shape and array.dtype == expected.dtype, array_name
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-4, err_msg=array_name)
        else:
            assert (array == expected).mean() > 0.999, array_name  # rounding of pixels


@pytest.mark.parametrize("name", ["softvq", "sit"])
def test_collecting_again_gives_equal_arrays(runs, name):
    first = arrays(collect(Run(runs / name), limit=12, seed=3))
    assert_same_arrays(arrays(collect(Run(runs / name), limit=12, seed=3)), first)


def test_selection_of_collectors_gives_equal_arrays(runs):
    every = arrays(collect(Run(runs / "softvq"), limit=40))
    for name in ("noise", "prefixes", "untrained", "interpolation"):
        part = arrays(collect(Run(runs / "softvq"), limit=40, only=[name]))
        assert set(collectors()[name].provides) & part.keys()
        assert_same_arrays(part, {key: every[key] for key in part})


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_does_not_matter(runs, name, monkeypatch):
    """Matrix products round differently for other numbers of rows; nothing else does."""
    every = arrays(collect(Run(runs / name), limit=12))
    monkeypatch.setattr(images, "ENCODE_BATCH", 5)
    in_batches = arrays(collect(Run(runs / name), limit=12))
    assert in_batches.keys() == every.keys()
    for array_name, array in in_batches.items():
        if array.dtype.kind == "f":
            scale = np.abs(every[array_name]).max()
            np.testing.assert_allclose(
                array, every[array_name], rtol=1e-4, atol=1e-5 * scale, err_msg=array_name
            )
        else:
            np.testing.assert_array_equal(array, every[array_name], err_msg=array_name)


def test_batches_are_bounded():
    slices = list(images.batch_slices(100, 256**2))
    assert slices[-1].stop == 100
    assert max(s.stop - s.start for s in slices) * 256**2 <= images.MAX_BATCH_PIXELS
    assert next(images.batch_slices(1000, 8**2)) == slice(0, images.ENCODE_BATCH)
    assert next(images.batch_slices(2, 10**9)) == slice(0, 1)
